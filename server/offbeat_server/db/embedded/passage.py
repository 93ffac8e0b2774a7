"""Lets one user pass a directory, by an access control list (POSIX.1e, acl(5)): no other user gets a right.

As root Postgres runs as another user, and root's own directories are closed to all others. The list is an extended
attribute of the directory: a version, and entries of a tag, permissions and an id.
Layout: https://github.com/torvalds/linux/blob/master/include/uapi/linux/posix_acl_xattr.h
"""

import os
import struct
from collections.abc import Collection
from functools import reduce
from operator import or_
from pathlib import Path
from typing import NamedTuple

_ATTRIBUTE = "system.posix_acl_access"
_VERSION = 2
_HEAD, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_OWNER, _USER, _GROUP, _NAMED_GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFF_FFFF
_MASKED = (_USER, _GROUP, _NAMED_GROUP)  # the mask bounds what these permit
_EXECUTE = 1  # of a directory: the right to pass it


class _AclEntry(NamedTuple):
    """Ordered as the kernel wants them."""

    tag: int
    id: int
    permissions: int


def allow_passing(directory: Path, uid: int, groups: Collection[int]) -> bool | None:
    """Let this user, who is not the directory's owner and is in these groups, pass the directory.

    True if it needed a new right, False if it had the right; None if the file system or the platform has no such lists.
    The user keeps all rights that it has: an entry of its own decides alone, not those of its groups.
    """
    if not hasattr(os, "setxattr"):
        return None
    try:
        entries, group = _entries(directory), directory.stat().st_gid
        mask = next((each.permissions for each in entries if each.tag == _MASK), None)
        # A wider mask must not give anybody else what the former one withheld.
        kept = [
            each._replace(permissions=each.permissions & mask) if mask is not None and each.tag in _MASKED else each
            for each in entries
            if each.tag != _MASK
        ]
        before = [each for each in kept if (each.tag, each.id) == (_USER, uid)]
        before = before or [each for each in kept if each.tag == _NAMED_GROUP and each.id in groups] + [
            each for each in kept if each.tag == _GROUP and group in groups
        ]
        held = [each.permissions for each in before or kept if before or each.tag == _OTHER]
        if any(each & _EXECUTE for each in held):
            return False
        user = _AclEntry(_USER, uid, reduce(or_, held, _EXECUTE))
        kept = [each for each in kept if (each.tag, each.id) != (_USER, uid)] + [user]
        widest = 0
        for each in kept:
            widest |= each.permissions if each.tag in _MASKED else 0
        kept.append(_AclEntry(_MASK, _NO_ID, widest))
        packed = b"".join(_ENTRY.pack(each.tag, each.permissions, each.id) for each in sorted(kept))
        os.setxattr(directory, _ATTRIBUTE, _HEAD.pack(_VERSION) + packed)
    except OSError:
        return None
    return True


def _entries(directory: Path) -> list[_AclEntry]:
    """Read the directory's list; without one, make it from the mode. Raises OSError."""
    mode = directory.stat().st_mode
    try:
        raw = os.getxattr(directory, _ATTRIBUTE)
    except OSError:
        return [
            _AclEntry(_OWNER, _NO_ID, mode >> 6 & 7),
            _AclEntry(_GROUP, _NO_ID, mode >> 3 & 7),
            _AclEntry(_OTHER, _NO_ID, mode & 7),
        ]
    return [_AclEntry(tag, id, permissions) for tag, permissions, id in _ENTRY.iter_unpack(raw[_HEAD.size :])]
