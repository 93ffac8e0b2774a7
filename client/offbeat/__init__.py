"""Offbeat's client: what a host with jobs installs.

`offbeat exec` and `offbeat ping` need only the standard library. The commands that manage a server need
`offbeat[cli]`.
"""

__version__: str


def __getattr__(name: str) -> str:
    """The version, read when it is asked for: the look-up takes longer than all else of `offbeat exec`."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("offbeat")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0.0.0"
