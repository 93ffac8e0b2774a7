"""The errors that the client raises on purpose. Their messages are for people and need no traceback."""


class OffbeatError(Exception):
    """The root: anything below is expected and has a clear message."""


class SettingsError(OffbeatError):
    """The command line, the environment or a file is wrong; the message says what to do."""
