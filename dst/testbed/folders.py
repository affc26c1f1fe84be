"""Writing a folder so that it appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dst.core.errors import InputError


def write_folder(target: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a folder beside `target`, then move it into place.

    Raises:
        InputError: The folder cannot be written; nothing is left behind.
    """
    partial = target.with_name(f".{target.name}.partial")
    old = target.with_name(f".{target.name}.old")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(partial, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    except OSError as error:
        raise InputError(
            f"{target} cannot be written ({error.strerror or error})",
            do="Give a folder that you may write to",
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return target
