"""References between monitors: found by slug, those that come `after` one and those that depend on one.

By slug and not by id: the other end of a reference may not be there yet, or no longer.
"""

from collections.abc import Sequence

from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.definition import ProjectSlug
from offbeat_server.engine.model.monitor import Monitor


def register(state: EngineState, m: Monitor) -> None:
    """A monitor is there, with the references of its definition."""
    state.monitors[m.id] = m
    state.counts[m.status] += 1
    if (index := state.slugs.get(m.project_id)) is not None:
        index[m.slug] = m.id
    for graph, slug in _references(state, m):
        graph.setdefault((m.project_id, slug), set()).add(m.id)


def unregister(state: EngineState, m: Monitor) -> None:
    """Undo `register`, except for the entry of the monitor itself."""
    state.counts[m.status] -= 1
    index = state.slugs.get(m.project_id, {})
    if index.get(m.slug) == m.id:
        del index[m.slug]
    for graph, slug in _references(state, m):
        graph[m.project_id, slug].discard(m.id)


def _references(state: EngineState, m: Monitor) -> Sequence[tuple[dict[ProjectSlug, set[int]], str]]:
    after, depends_on = m.definition.after, m.definition.depends_on
    if after is None and not depends_on:
        return ()  # nearly all
    followed = [] if after is None else [(state.followers, after.monitor)]
    return [*followed, *((state.dependents, slug) for slug in depends_on)]
