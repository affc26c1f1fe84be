"""Keys and values of a base's rows: its own, or made again, as many as fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from dst.models import memory, suffix
from dst.models.hooks import HooksBackend
from dst.models.memory import device_of, prefix_bytes
from dst.models.suffix import Prefix
from dst.tracing.cells import Base


@dataclass(frozen=True)
class Kept:
    """Keys and values of some rows of a base.

    Attributes:
        prefix: They.
        place: Row of the base -> row of the prefix; equal rows share one.
        rows: Row of the prefix -> a row of the base.
    """

    prefix: Prefix
    place: dict[int, int]
    rows: torch.Tensor

    @classmethod
    def of(cls, engine: HooksBackend, base: Base, rows: Sequence[int]) -> Kept:
        """The base's own, or made again."""
        number: dict[tuple[int, ...], int] = {}
        for row in range(len(base.rows)) if base.prefix else rows:
            number.setdefault(base.rows[row], row)
        if base.prefix:
            place = {row: number[base.rows[row]] for row in rows}
            return cls(base.prefix, place, torch.arange(len(base.rows)))
        order = {ids: i for i, ids in enumerate(number)}
        _, prefix = suffix.record(engine, list(number))
        place = {row: order[base.rows[row]] for row in rows}
        return cls(prefix, place, torch.tensor(list(number.values())))


def rows_in_memory(engine: HooksBackend, base: Base, rows: set[int]) -> Iterator[list[int]]:
    """Rows of the base, as many at a time as their keys and values fit into a batch's budget."""
    room = memory.budget(device_of(engine))
    part: list[int] = []
    seen: set[tuple[int, ...]] = set()
    width = 0
    for row in sorted(rows, key=lambda row: len(base.rows[row])):
        ids = base.rows[row]
        seen, width = seen | {ids}, len(ids)
        if part and not base.prefix and len(seen) * prefix_bytes(engine, width) > room:
            yield part
            part, seen = [], {ids}
        part.append(row)
    if part:
        yield part
