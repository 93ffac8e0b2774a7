"""Offbeat: a heartbeat server that alerts people when an expected ping does not arrive."""

__version__: str


def __getattr__(name: str) -> str:
    """The version, read when it is asked for."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("offbeat-server")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0.0.0"
