"""How much a model worked: positions times blocks, counted while it runs.

    with metered() as work:
        dst.coherence(model, case)
    work.forwards(n_tokens, n_layers)   # as many forward passes of the prompt

What is kept for every later case (ordinary word statistics, words run by themselves) is counted
apart, so that a case costs the same whichever came before it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Work:
    """What was computed.

    Attributes:
        token_blocks: Positions times blocks that were worked on, padding counted.
        calls: Calls of a block: each costs time of its own, whatever it works on.
        passes: Runs of the model, whole or from some block on.
        once: The same work for what is kept and never done again; None in that work itself.
    """

    token_blocks: float = 0.0
    calls: int = 0
    passes: int = 0
    once: Work | None = field(default_factory=lambda: Work(once=None))

    def forwards(self, n_tokens: float, n_layers: int) -> float:
        """Forward-equivalents: as many forward passes of a prompt of ``n_tokens``."""
        return self.token_blocks / (n_tokens * n_layers)


@contextlib.contextmanager
def metered() -> Iterator[Work]:
    """Count what this thread's models do inside the block; blocks may be nested."""
    work = Work()
    _OPEN.meters.append(work)
    try:
        yield work
    finally:
        _OPEN.meters.remove(work)


@contextlib.contextmanager
def kept_for_later() -> Iterator[None]:
    """What is run inside the block is kept, and counted as done once."""
    _OPEN.once += 1
    try:
        yield
    finally:
        _OPEN.once -= 1


def count(token_blocks: float, calls: int) -> None:
    """One run of a model: engines tell it here."""
    for meter in _OPEN.meters:
        work = meter.once if _OPEN.once and meter.once is not None else meter
        work.token_blocks += token_blocks
        work.calls += calls
        work.passes += 1


class _Open(threading.local):
    """The meters of one thread."""

    def __init__(self) -> None:
        self.meters: list[Work] = []
        self.once = 0


_OPEN = _Open()
