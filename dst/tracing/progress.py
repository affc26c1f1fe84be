"""Progress of long work: nothing for two seconds, then a line with the time left."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

PATIENCE = 2.0
"""Seconds after which work is long enough to be shown."""

_inside = False


@contextlib.contextmanager
def progress(
    what: str, total: int, *, unit: str = "run", show: bool = True
) -> Iterator[Callable[[int], None]]:
    """A function that is told how many steps were just done; it draws on the error stream.

    The line appears after `PATIENCE` seconds and is gone when the work is done. Work inside work
    draws none of its own: one line, of the whole, says how long it takes.
    """
    global _inside
    if not show or _inside:
        yield lambda n: None
        return
    from tqdm import tqdm

    bar = tqdm(
        total=total,
        desc=what,
        unit=unit,
        delay=PATIENCE,
        leave=False,
        file=sys.stderr,
        disable=None,  # where the error stream is no terminal
    )
    _inside = True
    try:
        yield lambda n: bar.update(n) and None
    finally:
        _inside = False
        bar.close()
