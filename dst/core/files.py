"""Writing files so that a reader sees the old one or the new one, never half of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from dst.core.errors import ResultError


def write_atomic(path: str | Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then move it into place.

    Raises:
        ResultError: The folder cannot be made or written to; nothing is left behind.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise ResultError(
            f"{target} cannot be written ({error.strerror or error})",
            do="Give a folder that you may write to",
        ) from None
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise ResultError(
            f"{target} cannot be written ({error.strerror or error})",
            do="Give a path that you may write to, on a disk with room",
        ) from None
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def write_text_atomic(path: str | Path, text: str) -> Path:
    """`write_atomic` for text, as UTF-8."""
    return write_atomic(path, lambda stream: stream.write(text.encode("utf-8")))


def _umask() -> int:
    """The process's umask; POSIX has no call that reads it without setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
