"""Offbeat: a heartbeat server that tells people when an expected ping does not come."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("offbeat")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0.0.0"
