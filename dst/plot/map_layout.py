"""Where the nodes of a map stand: columns, an order with few crossings, and the curves between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dst.core.map_results import ASSOCIATIVE, CONTEXTUAL, OTHER

_SWEEPS = 8
_WIDE = 12
"""Words in the middle column from which on it is two."""

_T = np.linspace(0, 1, 21)


def columns(sides: Sequence[str]) -> np.ndarray:
    """The x of each node, 0 to 2: contextual left, associative right, others between.

    More than 12 others stand in two columns, in turn. Where all nodes are others, they are dealt
    to three columns.
    """
    others = [i for i, side in enumerate(sides) if side == OTHER]
    x = np.array([{CONTEXTUAL: 0.0, ASSOCIATIVE: 2.0}.get(side, 1.0) for side in sides])
    if len(others) == len(sides) > 3:
        return np.arange(len(sides)) % 3 * 1.0
    if len(others) > _WIDE:
        x[others] = np.where(np.arange(len(others)) % 2, 1.3, 0.7)
    return x


def rows(column: np.ndarray, links: Sequence[tuple[int, int, float]]) -> np.ndarray:
    """The row of each node, so that few links cross; the nodes come in the order wanted.

    Each column is sorted in turn by the mean row of what its nodes are linked to in other
    columns, weighted by the links' sizes (Sugiyama, Tagawa and Toda 1981); of all orders that were
    tried the first with the fewest crossings is taken. Columns are centred on row 0; the inner
    ones are moved by part of a row, so that a level link from left to right lies on no node.

    Args:
        column: The x of each node, as `columns` gives it.
        links: (node, node, size) of each link.
    """
    n = len(column)
    order = {x: [i for i in range(n) if column[i] == x] for x in sorted(set(column.tolist()))}
    pull = np.zeros((n, n))
    for v, w, size in links:
        if column[v] != column[w]:
            pull[v, w] += abs(size)
            pull[w, v] += abs(size)
    best = _rows_of(order, n)
    fewest = crossings(column, best, links)
    for sweep in range(_SWEEPS):
        for x in list(order) if sweep % 2 == 0 else list(order)[::-1]:
            at = _rows_of(order, n)
            total = pull.sum(axis=1)
            wanted = np.divide(pull @ at, total, where=total > 0, out=at.copy())
            order[x] = sorted(order[x], key=lambda i: float(wanted[i]))
        tried = _rows_of(order, n)
        if (count := crossings(column, tried, links)) < fewest:
            best, fewest = tried, count
    return best


def crossings(column: np.ndarray, row: np.ndarray, links: Sequence[tuple[int, int, float]]) -> int:
    """How many pairs of links between the same two columns cross."""
    ends = [
        (v, w) if column[v] < column[w] else (w, v) for v, w, _ in links if column[v] != column[w]
    ]
    return sum(
        column[a] == column[c]
        and column[b] == column[d]
        and (row[a] - row[c]) * (row[b] - row[d]) < 0
        for i, (a, b) in enumerate(ends)
        for c, d in ends[:i]
    )


def spread(wanted: np.ndarray, least: float) -> np.ndarray:
    """``wanted`` with neighbours at least ``least`` apart, moved as little as possible.

    The sum of squared moves is the smallest there is (isotonic regression of wanted - i least).
    """
    order = np.argsort(wanted, kind="stable")
    blocks: list[tuple[float, int]] = []  # mean, size
    for i, value in enumerate(wanted[order]):
        blocks.append((float(value) - i * least, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m)]
    moved = np.concatenate([np.full(size, mean) for mean, size in blocks] or [np.empty(0)])
    out = np.empty(len(wanted))
    out[order] = moved + least * np.arange(len(wanted))
    return out


def arc(start: tuple[float, float], end: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """A curve from one node to another; those of a pair in both directions lie apart.

    Between columns it bends up on the way to the right and down on the way back. Within a column
    it bulges to the inside of the figure, more on the way up.
    """
    (x0, y0), (x1, y1) = start, end
    if x0 != x1:
        middle = ((x0 + x1) / 2, (y0 + y1) / 2 - 0.45 * np.sign(x1 - x0))
    else:
        out = min(0.3 + 0.11 * abs(y1 - y0), 0.9) * (1.3 if y1 < y0 else 1.0)
        middle = (x0 + (-out if x0 > 1 else out), (y0 + y1) / 2)
    weights = (1 - _T) ** 2, 2 * _T * (1 - _T), _T**2
    x = weights[0] * x0 + weights[1] * middle[0] + weights[2] * x1
    return x, weights[0] * y0 + weights[1] * middle[1] + weights[2] * y1


def bend(start: tuple[float, float], end: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """A curve that leaves and arrives level, for a graph in layers."""
    (x0, y0), (x1, y1) = start, end
    return x0 + (x1 - x0) * _T, y0 + (y1 - y0) * _T**2 * (3 - 2 * _T)


_SHIFT = {0.7: 0.25, 1.0: 0.5, 1.3: 0.75}
"""Rows by which an inner column is lower."""


def _rows_of(order: dict[float, list[int]], n: int) -> np.ndarray:
    row = np.zeros(n)
    for x, nodes in order.items():
        for place, i in enumerate(nodes):
            row[i] = place - (len(nodes) - 1) // 2 + _SHIFT.get(x, 0.0)
    return row
