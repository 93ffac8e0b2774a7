"""`python -m tests.chaos`: real faults on real processes; the report is docs/chaos.md."""

import asyncio
import logging
import pickle
import random
import signal
import sys
from pathlib import Path

import click
import structlog

from tests.chaos.faults import KINDS
from tests.chaos.nodes import SHAPES
from tests.chaos.report import RUNS, entry, read, write
from tests.chaos.run import Outcome, live, summary


@click.command()
@click.option("--faults", default=40, show_default=True, help="In each world.")
@click.option("--seed", type=int, help="Of the first world; drawn where it is not given.")
@click.option(
    "--shape", "shapes", multiple=True, type=click.Choice(list(SHAPES)), help="These worlds; else one of each."
)
@click.option("--only", multiple=True, type=click.Choice(sorted(KINDS)), help="These faults, in this order.")
@click.option("--monitors", default=400, show_default=True, help="Jobs that ping every 2 to 4 seconds.")
@click.option("--report/--no-report", default=True, help="Append the run to docs/chaos/runs.json.")
@click.option(
    "--logs", type=click.Path(path_type=Path), help="Where the nodes' output of a world goes that found something."
)
def main(
    faults: int,
    seed: int | None,
    shapes: tuple[str, ...],
    only: tuple[str, ...],
    monitors: int,
    report: bool,
    logs: Path | None,
) -> None:
    """Real faults on real processes, under load; every promise is checked by a journal of all requests."""
    # The clusters and what else runs in this process would tell of every fault in their own words.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    # As Ctrl-C, also in the background: what was started is ended in its order.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    first = random.randrange(1_000_000) if seed is None else seed
    outcomes: list[Outcome] = []
    before = read(RUNS)
    for number, shape in enumerate(shapes or SHAPES):
        outcome = asyncio.run(live(shape, first + number, faults, monitors, click.echo, list(only) or None))
        outcomes.append(outcome)
        _show(outcome, logs)
        if report:  # after each, so that a run that is broken off is kept as far as it came
            write([*before, entry(outcomes)])
    sys.exit(0 if all(outcome.ok for outcome in outcomes) else 1)


def _show(outcome: Outcome, logs: Path | None) -> None:
    click.echo(f"{outcome.shape} {outcome.seed}: {'well' if outcome.ok else 'NOT WELL'}: {summary(outcome)}")
    for name, sentences in outcome.verdict.kinds.items():
        for sentence in sentences[:20]:
            click.echo(f"  {name}: {sentence}")
    for trouble in outcome.troubles[:20]:
        click.echo(f"  trouble: {trouble}")
    if not outcome.ok and logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
        for name, lines in outcome.output.items():
            (logs / f"{outcome.shape}-{outcome.seed}-{name}.log").write_text("\n".join(lines))
        (logs / f"{outcome.shape}-{outcome.seed}.pickle").write_bytes(pickle.dumps((outcome.journal, outcome.stored)))
        faults = (f"{f.began:.3f} {f.cured:.3f} {f.recovered:.3f} {f.name} {f.said}" for f in outcome.faults)
        (logs / f"{outcome.shape}-{outcome.seed}-faults.log").write_text("\n".join(faults))


if __name__ == "__main__":
    main()
