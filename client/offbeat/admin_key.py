"""The generated admin key: created at the first start, shown once, and kept in the data directory.

The command line reads the same file, so that `offbeat monitors` works on the server's machine without a key.
"""

import contextlib
import os
import secrets
from pathlib import Path

from offbeat.errors import SettingsError

FILE_NAME = "admin-key"
CHARS_MIN = 16  # of a key that an operator has chosen; shorter keys work, with a warning


def path_in(data_dir: Path) -> Path:
    """Path of the file with the key."""
    return data_dir / FILE_NAME


def stored(data_dir: Path) -> str | None:
    """The key in the data directory; None where there is none, or none that we may read."""
    try:
        return path_in(data_dir).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def stored_or_made(data_dir: Path) -> tuple[str, bool]:
    """The key, and whether it was made just now. Two processes that start at once agree on one.

    Raises SettingsError when the directory cannot be written.
    """
    if (key := stored(data_dir)) is not None:
        return key, False
    path = path_in(data_dir)
    new = path.with_name(f"{FILE_NAME}.{os.getpid()}")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write("oba_" + secrets.token_urlsafe(24) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(new, path)  # whole or not at all, and never over another's
            return _expect(data_dir), True
    except OSError as error:
        raise SettingsError(f"the admin key cannot be kept in {data_dir}: {error}; give --admin-key") from None
    finally:
        with contextlib.suppress(OSError):
            new.unlink()
    return _expect(data_dir), False


def _expect(data_dir: Path) -> str:
    key = stored(data_dir)
    if key is None:
        raise SettingsError(f"{path_in(data_dir)} cannot be read; give --admin-key")
    return key
