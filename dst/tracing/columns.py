"""Columns of a grid: positions, roles, spans or heads; and the layers that a cell changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dst.core.case import mentions
from dst.core.errors import InputError, InterventionError
from dst.models.backend import ModelSpec
from dst.models.tokens import Encoding, TokenizedCase
from dst.tracing.prepare import Prepared

By = str | Sequence[str | Sequence[int]]
"""``position``, ``role``, ``all``, or spans: text of the prompt, or lists of positions."""

Heads = str | Sequence[int] | None
"""``each``, some heads (a column for each), or None for all heads at once."""


@dataclass(frozen=True)
class Column:
    """What one column of a grid changes: positions of the prompt, one head or all."""

    name: str
    positions: tuple[int, ...]
    head: int | None = None

    @property
    def heads(self) -> tuple[int, ...] | None:
        """The heads of a `Change`."""
        return None if self.head is None else (self.head,)


def columns_of(
    ready: Prepared, by: By | None, heads: Heads, kind: str, spec: ModelSpec
) -> tuple[str, tuple[Column, ...]]:
    """The kind and the columns of a grid.

    Args:
        ready: The case.
        by: How positions are grouped; by default each is a column, or all are one where
            heads are apart.
        heads: Which heads are apart.
        kind: The kind of site, which says how many heads there are.
        spec: The model's.

    Raises:
        InterventionError: An empty set of positions, a position or head that does not
            exist, or heads at a site that has none.
        InputError: ``by`` or ``heads`` is none of what there is.
    """
    by = by if by is not None else ("position" if heads is None else "all")
    groups = _groups(ready, by)
    grouped = by if isinstance(by, str) else "span"
    if heads is None:
        return grouped, groups
    numbers = _heads(heads, kind, spec)
    if grouped == "all":
        return "head", tuple(Column(f"head {h}", groups[0].positions, h) for h in numbers)
    return f"head x {grouped}", tuple(
        Column(f"head {h}: {group.name}", group.positions, h) for h in numbers for group in groups
    )


def window_of(layer: int, window: int, n_layers: int) -> tuple[int, ...]:
    """The layers that a cell changes: ``window`` of them around its own, cut off at the ends.

    As in ROME: layers l - floor(w/2) .. l + ceil(w/2) - 1.
    """
    first, last = layer - window // 2, layer + (window + 1) // 2
    return tuple(range(max(0, first), min(n_layers, last)))


def layers_of(layers: Sequence[int] | None, window: int, n_layers: int) -> tuple[int, ...]:
    """The layers of a grid, all by default.

    Raises:
        InterventionError: A layer does not exist, or none is named.
        InputError: The window is no positive number.
    """
    if window < 1:
        raise InputError(f"The window is {window}", expected="a number of layers, 1 or more")
    if layers is None:
        return tuple(range(n_layers))
    if not layers:
        raise InterventionError("No layer is named", expected="at least one")
    if bad := [layer for layer in layers if not 0 <= layer < n_layers]:
        raise InterventionError(
            f"The layer {bad[0]} does not exist", expected=f"a layer from 0 to {n_layers - 1}"
        )
    return tuple(layers)


def positions_of(tokenized: TokenizedCase, span: str | Sequence[int]) -> tuple[int, ...]:
    """Positions of a span of the prompt: a role, every mention of a text, or positions as given.

    Raises:
        InterventionError: There is none, or one is outside the prompt.
    """
    if isinstance(span, str) and (found := tokenized.positions_of(span)):
        span = found
    return places_in(tokenized.encoding, len(tokenized.ids), span)


def places_in(encoding: Encoding, n_pos: int, span: str | Sequence[int]) -> tuple[int, ...]:
    """Positions of every mention of a text in a prompt, or positions as given.

    Raises:
        InterventionError: There is none, or one is outside the prompt.
    """
    if isinstance(span, str):
        found = encoding.positions(mentions(encoding.text, span))
    else:
        found = [p + n_pos if p < 0 else p for p in span]
    if not found:
        raise InterventionError(
            f"The span {span!r} has no position" if span else "An empty set of positions is named",
            expected="text of the prompt, one of its roles, or positions",
        )
    if bad := [p for p in found if not 0 <= p < n_pos]:
        raise InterventionError(
            f"The position {bad[0]} is outside the prompt", expected=f"0 to {n_pos - 1}"
        )
    return tuple(dict.fromkeys(found))


def _groups(ready: Prepared, by: By) -> tuple[Column, ...]:
    tokenized = ready.tokenized
    if by == "position":
        return tuple(Column(token, (i,)) for i, token in enumerate(tokenized.tokens))
    if by == "role":
        return tuple(map(Column, ready.roles, ready.positions))
    if by == "all":
        return (Column("all", tuple(range(len(tokenized.ids)))),)
    if isinstance(by, str):
        raise InputError(
            f"by={by!r} is no way to group positions",
            expected="'position', 'role', 'all', or a list of spans",
        )
    if not by:
        raise InterventionError("An empty list of spans is named", expected="at least one span")
    return tuple(Column(_name(span), positions_of(tokenized, span)) for span in by)


def _name(span: str | Sequence[int]) -> str:
    return span if isinstance(span, str) else " ".join(map(str, span))


def _heads(heads: str | Sequence[int], kind: str, spec: ModelSpec) -> tuple[int, ...]:
    if kind not in ("q", "k", "v", "z", "pattern", "attention"):
        raise InterventionError(
            f"The site {kind} has no heads", expected="heads at z, q, k, v or pattern"
        )
    n = spec.heads_at(kind)
    if isinstance(heads, str):
        if heads != "each":
            raise InputError(f"heads={heads!r} names no heads", expected="'each', or numbers")
        return tuple(range(n))
    if not heads or len(set(heads)) < len(heads):
        raise InterventionError("No head is named, or one twice", expected="each head once")
    if bad := [head for head in heads if not 0 <= head < n]:
        raise InterventionError(
            f"The head {bad[0]} does not exist at {kind}", expected=f"a head from 0 to {n - 1}"
        )
    return tuple(heads)
