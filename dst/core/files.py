"""Writing files so that a reader sees the old one or the new one, never half of it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO

from dst.core.errors import ResultError


def write_atomic(path: str | Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then move it into place.

    Raises:
        ResultError: The folder cannot be made or the file not be written. Then, and after
            any other error of ``write``, what was at ``path`` before is still there.
    """
    target = Path(path)
    temporary = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise ResultError(
            f"{target} cannot be written ({error.strerror or error})",
            do="Give a path that you may write to, on a disk with room",
        ) from None
    finally:
        _remove(temporary)
    return target


def write_text_atomic(path: str | Path, text: str) -> Path:
    """`write_atomic` for text, as UTF-8."""
    return write_atomic(path, lambda stream: stream.write(text.encode("utf-8")))


def _remove(temporary: Path) -> None:
    """Remove what is left of a write that did not end; after one that did, nothing is there."""
    with contextlib.suppress(OSError):  # also where its folder is a file (`a_file/x`)
        temporary.unlink()
