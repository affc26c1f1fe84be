"""Rows for a statistic: complete, in an order of their own, each in a cluster and a stratum.

A cluster is what is drawn again in a bootstrap, such as a word with all its items. A stratum is
what is never mixed in a permutation, such as one model on one task.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dst.core.errors import InputError

Labels = Sequence[Hashable] | np.ndarray
"""One label per row: text, a number, or a tuple such as (model, task)."""


@dataclass(frozen=True)
class Rows:
    """Complete rows, sorted by cluster, stratum and values: their given order changes nothing.

    Attributes:
        columns: The values, NaN-free.
        clusters: Code of each row's cluster, ascending from 0.
        strata: Code of each row's stratum, from 0.
        kept: Where each row stood in what was given.
        n_dropped: Rows left out for a NaN.
    """

    columns: tuple[Float[np.ndarray, " row"], ...]
    clusters: Int[np.ndarray, " row"]
    strata: Int[np.ndarray, " row"]
    kept: Int[np.ndarray, " row"]
    n_dropped: int

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.clusters)

    @property
    def n_clusters(self) -> int:
        """Clusters."""
        return int(self.clusters[-1]) + 1 if self.n else 0


def codes(labels: Labels, *, name: str = "clusters") -> Int[np.ndarray, " row"]:
    """Labels as numbers from 0, in the order of their text: equal labels, equal numbers.

    Raises:
        InputError: A label is missing (None or NaN).
    """
    plain: list[Any] = [tuple(a) if isinstance(a, (list, np.ndarray)) else a for a in labels]
    for row, label in enumerate(plain):
        if label is None or label != label:  # NaN is what differs from itself
            raise InputError(f"Row {row} has no label in {name}", expected="one label per row")
    known = {
        label: i for i, label in enumerate(sorted(set(plain), key=lambda a: (str(a), repr(a))))
    }
    return np.array([known[label] for label in plain], dtype=np.int64)


def complete_rows(
    columns: dict[str, Any], clusters: Labels | None = None, strata: Labels | None = None
) -> Rows:
    """The rows in which no column is NaN, sorted so that the given order changes no number.

    Args:
        columns: Name -> one number per row.
        clusters: One label per row; by default every row is a cluster of its own.
        strata: One label per row; by default there is one stratum.

    Raises:
        InputError: A column is no row of numbers, holds an infinity, or the lengths differ.
    """
    values = {name: as_numbers(column, name) for name, column in columns.items()}
    lengths = {name: len(column) for name, column in values.items()}
    for name, labels in (("clusters", clusters), ("strata", strata)):
        if labels is not None:
            lengths[name] = len(labels)
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InputError(f"The columns differ in length: {found}", expected="one entry per row")
    table = np.stack(list(values.values()))
    whole = np.flatnonzero(~np.isnan(table).any(axis=0))
    n = table.shape[1]
    group = np.arange(n) if clusters is None else codes(clusters)
    stratum = np.zeros(n, dtype=np.int64) if strata is None else codes(strata, name="strata")
    keys = [*table[::-1, whole], stratum[whole]]
    if clusters is not None:
        keys.append(group[whole])
    kept = whole[np.lexsort(keys)]
    # Codes anew: a cluster may have lost all its rows.
    cluster = (
        np.arange(len(kept))
        if clusters is None
        else np.unique(group[kept], return_inverse=True)[1].reshape(-1)
    )
    return Rows(tuple(table[:, kept]), cluster, stratum[kept], kept, n - len(kept))


def as_numbers(column: Any, name: str) -> Float[np.ndarray, " row"]:
    """One column as float64; NaN passes.

    Raises:
        InputError: It is no row of numbers, or holds an infinity.
    """
    try:
        numbers = np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} is not numeric", expected="one number per row") from None
    if numbers.ndim != 1:
        raise InputError(
            f"{name} has {numbers.ndim} axes", expected="one axis, with one number per row"
        )
    if np.isinf(numbers).any():
        raise InputError(
            f"{name} holds an infinity", expected="numbers, or NaN where there is none"
        )
    return numbers


def constant(column: Float[np.ndarray, " row"]) -> bool:
    """Whether a column is constant up to the rounding of its own size."""
    return bool(np.ptp(column) <= 1e-13 * np.abs(column).max(initial=0.0))


def check_binary(column: Float[np.ndarray, " row"], name: str) -> None:
    """Refuse a column that holds anything but 0 and 1.

    Raises:
        InputError: It does.
    """
    if not np.isin(column, (0.0, 1.0)).all():
        odd = column[~np.isin(column, (0.0, 1.0))][0]
        raise InputError(f"{name} holds {odd:g}", expected="0 or 1 (or NaN where there is none)")
