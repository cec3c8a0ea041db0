"""Who may read and write a file: what replaces a file gets the rights of that file."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

NEW = 0o666
"""How a file is created that replaces none: the umask takes away what the user does not want."""

_ALONE = 0o600
_ACL = "system.posix_acl_access"


@dataclass(frozen=True)
class Access:
    """The rights of a file.

    Attributes:
        mode: The permission bits.
        owner: Its user.
        group: Its group.
        acl: Its access control list as Linux stores it; None without.
    """

    mode: int
    owner: int
    group: int
    acl: bytes | None

    @classmethod
    def of(cls, path: Path) -> Access | None:
        """The rights of the regular file at `path`; None where there is none."""
        with contextlib.suppress(OSError):
            found = path.stat()
            if stat.S_ISREG(found.st_mode):
                return cls(stat.S_IMODE(found.st_mode) & 0o777, found.st_uid, found.st_gid, _acl_of(path))
        return None

    def give(self, path: Path) -> None:
        """Give these rights to a file of ours, and never more.

        Where the group or the list cannot be given, the file's group may do no more than everybody may.

        Raises:
            OSError: The file's rights cannot be changed.
        """
        descriptor = os.open(path, os.O_RDONLY)
        try:
            for owner in (self.owner, -1):  # only root gives files away; a group of ours is allowed
                with contextlib.suppress(OSError):
                    os.fchown(descriptor, owner, self.group)
                    break
            mode = self.mode
            if os.fstat(descriptor).st_gid != self.group or not self._give_acl(descriptor):
                mode &= ~0o070 | (mode & 0o007) << 3
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)

    def _give_acl(self, descriptor: int) -> bool:
        """Give the access control list, or take one away that the folder gave; whether that was done."""
        if not hasattr(os, "setxattr"):
            return True
        try:
            if self.acl is not None:
                os.setxattr(descriptor, _ACL, self.acl)
            elif _acl_of(descriptor) is not None:
                os.removexattr(descriptor, _ACL)
        except OSError:
            return False
        return True


def _acl_of(file: Path | int) -> bytes | None:
    if hasattr(os, "getxattr"):
        with contextlib.suppress(OSError):
            return os.getxattr(file, _ACL)
    return None


def creation_mode(replaced: Access | None) -> int:
    """The mode to create a file with that is to replace one with these rights: nobody else reads it meanwhile."""
    return NEW if replaced is None else _ALONE


def give(replaced: Access | None, path: Path) -> None:
    """`Access.give`, where a file is replaced."""
    if replaced is not None:
        replaced.give(path)
