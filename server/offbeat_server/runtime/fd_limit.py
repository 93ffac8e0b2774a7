"""How many files and sockets this process may have open (`ulimit -n`): raised as far as needed, and connections kept
below it.

A process without a free descriptor cannot even open a connection to Postgres, so what is needed beside the clients is
set aside first: then the limit costs connections, which are closed at once and counted, and never a commit.
"""

import resource
from typing import NamedTuple

RESERVE = 256  # pools of Postgres, channels, scrapes, log files: some 100 at most


class DescriptorLimit(NamedTuple):
    """The limit of descriptors, and the number of client connections that fit into it."""

    limit: int
    connections_max: int


def make_room(connections_max: int) -> DescriptorLimit:
    """Raise the soft limit until this number of connections fits, or to the hard one."""
    wanted = connections_max + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        except (OSError, ValueError):
            pass  # macOS has a limit of its own below an infinite hard one
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return DescriptorLimit(wanted if soft == resource.RLIM_INFINITY else soft, connections_max)
    return DescriptorLimit(soft, max(soft - RESERVE, soft // 2))


def advice(limit: int, connections_max: int) -> str:
    """Return the advice for connections that do not fit."""
    wanted = connections_max + RESERVE
    return (
        f"ulimit -n is {limit}, too few for --connections-max {connections_max}: raise it to {wanted} "
        f"(systemd: LimitNOFILE={wanted}, Docker: --ulimit nofile={wanted}, a shell: ulimit -n {wanted}), "
        "or lower --connections-max"
    )
