"""What a measurement of a planted model must return, and how far one is from it.

Quantities are named; ``name@place`` is a quantity at one role or under one repair, and all
places of a quantity are graded together. An *effect* is in logits (or 0/1 for a flag) and 0
where nothing is planted; a *share* is NaN where there is nothing to share; a *mark* is a state,
NaN where the plan has none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dst.core.errors import InputError
from dst.testbed.planted_marks import dss
from dst.testbed.planted_plan import Plant
from dst.testbed.planted_truth import Truth

RIGHT = 1e-3
"""Largest error of a right value, in logits or of a share. A right mark is at the very state."""

FLOOR = 0.05
"""Logits that count as something, where nothing is planted."""

Kind = Literal["effect", "share", "mark"]
_FLOWS = (("contextual", "context"), ("associative", "association"))


@dataclass(frozen=True)
class Known:
    """What a quantity is in one planted model."""

    kind: Kind
    value: np.ndarray


def known(truth: Truth) -> dict[str, Known]:
    """Every quantity that can be graded, by name; arrays run over states, layers or components."""
    effects: dict[str, Any] = {f"ld@{run}": ld for run, ld in truth.ld.items()}
    effects |= {name: getattr(truth, name) for name in ("base", "prior", "total_effect")}
    effects |= {"lens_margin": truth.margin, "margin_causal": truth.coherence_margin}
    effects |= {"cancelled": truth.context_cancelled, "redundant": truth.context_redundant}
    effects |= {f"repaired@{name}": ld for name, ld in truth.repaired.items()}
    effects |= {f"repaired_control@{name}": ld for name, ld in truth.control.items()}
    effects |= {f"attribution@{part}": value for part, value in truth.attribution.items()}
    effects["cut_cue"] = truth.cut_cue
    marks: dict[str, Any] = {
        "onset": truth.onset,
        "inversion": truth.inversion,
        "lens_commitment": truth.lens_commitment,
        "commitment": last_repair(truth.commitment),
    }
    marks |= {f"commitment_of@{name}": state for name, state in truth.commitment.items()}
    for ours, theirs in _FLOWS:
        for i, role in enumerate(truth.role_names):
            for form in ("removal", "insertion"):
                effects[f"{ours}_{form}@{role}"] = getattr(truth, f"{theirs}_{form}")[:, i]
            for mark in ("arrival", "departure"):
                marks[f"{ours}_{mark}@{role}"] = getattr(truth, f"{theirs}_{mark}")[i]
        marks[f"{ours}_handover"] = truth.handover[theirs]
    table = {name: Known("effect", np.asarray(value, float)) for name, value in effects.items()}
    table |= {name: Known("share", np.asarray(v, float)) for name, v in _shares(truth).items()}
    table |= {name: Known("mark", np.asarray(value, float)) for name, value in marks.items()}
    return table


def last_repair(commitments: Mapping[str, float]) -> float:
    """The state from which no repair of a failure works; NaN if none ever does."""
    states = [state for name, state in commitments.items() if name != "remove cue"]
    return max((state for state in states if not math.isnan(state)), default=math.nan)


def _shares(truth: Truth) -> dict[str, Any]:
    """DSS* in its forms, from the flows and the attribution that were planted."""
    answer = truth.role_names.index("answer")
    removal = truth.context_removal, truth.association_removal
    written = [truth.attribution[part].cumsum()[::2] for part in ("context", "association")]
    forms = {
        "dss_removal": [table[:, answer] for table in removal],
        "dss_in_transit": [np.delete(table, answer, axis=1).sum(axis=1) for table in removal],
        "dss_attribution": written,
    }
    return {"dss": truth.dss, "dss_total": truth.dss_total} | {
        name: [dss(c, a, FLOOR)[0] for c, a in zip(*sides, strict=True)]
        for name, sides in forms.items()
    }


def strength_of(plant: Plant) -> float:
    """What is planted in all, in logits: |context| + |association| + |spurious word|."""
    planted = [plant.alpha + plant.late_strength] if plant.context else []
    planted += [plant.beta] if plant.prior is not None else []
    planted += [plant.spurious_strength] if plant.spurious is not None else []
    return float(sum(map(abs, planted)))


@dataclass(frozen=True)
class Item:
    """One measured quantity of one planted model, beside what is known.

    Attributes:
        measure: Who measured.
        quantity: What, without its place.
        kind: Of the quantity.
        model: The plan's name.
        nothing: Whether the plan has no mechanism at all.
        strength: What is planted in all, in logits.
        known: The known values, flat.
        measured: What was measured, likewise.
    """

    measure: str
    quantity: str
    kind: Kind
    model: str
    nothing: bool
    strength: float
    known: np.ndarray
    measured: np.ndarray

    @property
    def is_there(self) -> bool:
        """Whether there is anything to find."""
        there = ~np.isnan(self.known)
        return bool(np.abs(self.known[there]).max(initial=0) > 0 if self.kind == "effect"
                    else there.any())  # fmt: skip

    @property
    def gap(self) -> np.ndarray:
        """|measured - known| where there is a known value; infinite where none was measured."""
        there = ~np.isnan(self.known)
        return np.nan_to_num(np.abs(self.measured - self.known)[there], nan=np.inf)

    @property
    def is_right(self) -> bool:
        """Within `RIGHT` everywhere; for a mark, at the very state."""
        allowed = 0.0 if self.kind == "mark" else RIGHT
        return bool((self.gap <= allowed).all())

    @property
    def can_alarm(self) -> bool:
        """Whether there is a place where nothing should be found."""
        return not self.is_there if self.kind == "effect" else bool(np.isnan(self.known).any())

    @property
    def alarms(self) -> bool:
        """Whether something was found where nothing is."""
        if self.kind == "effect":
            return not self.is_there and bool((np.abs(self.measured) > FLOOR).any())
        return bool((np.isnan(self.known) & ~np.isnan(self.measured)).any())


def items(measure: str, measured: Mapping[str, Any], truth: Truth, plant: Plant) -> Iterable[Item]:
    """What one measure returned for one planted model, quantity by quantity.

    Raises:
        InputError: A quantity has a name or a shape that no planted model knows.
    """
    table = known(truth)
    for name, value in measured.items():
        quantity = name.partition("@")[0]
        if name not in table:
            names = sorted({other.partition("@")[0] for other in table})
            raise InputError(
                f"The measure {measure} returned {name!r}", expected="one of " + ", ".join(names)
            )
        array, right = np.asarray(value, dtype=float), table[name]
        if array.shape != right.value.shape:
            raise InputError(
                f"The measure {measure} returned {name!r} with shape {list(array.shape)}",
                expected=f"{list(right.value.shape)}",
            )
        yield Item(
            measure,
            quantity,
            right.kind,
            plant.name,
            strength_of(plant) == 0,
            strength_of(plant),
            right.value.ravel(),
            array.ravel(),
        )


@dataclass(frozen=True)
class Grade:
    """How one measure does on one quantity, over all models and places.

    Attributes:
        kind: Of the quantity.
        n: Models.
        planted: Items with something to find.
        max_error: Largest |measured - known|, in logits (of a mark: in states), where both are.
        mean_error: Mean over items of their largest.
        correlation: Pearson's, over all values; NaN if one side does not vary.
        correlation_in_conflict: Of a share, over known values strictly between 0 and 1 only,
            where context and association compete: the ends are easily told apart.
        missed: Share of the planted items in which nothing was returned somewhere.
        hit_rate: Share of the planted items within `RIGHT`; of marks, at the very state.
        absent: Items with a place where there is nothing to find.
        false_alarms: Share of those in which something was found.
        false_alarms_on_nothing: The same over the models without any mechanism.
        by_strength: Thirds of the planted items by strength: upper end, n, errors, hit rate.
    """

    kind: Kind
    n: int
    planted: int
    max_error: float
    mean_error: float
    correlation: float
    correlation_in_conflict: float
    missed: float
    hit_rate: float
    absent: int
    false_alarms: float
    false_alarms_on_nothing: float
    by_strength: tuple[Mapping[str, float], ...]


def grade(rows: Sequence[Item]) -> Grade:
    """The grade of one measure on one quantity."""
    there = [row for row in rows if row.is_there]
    open_to = [row for row in rows if row.can_alarm]
    gaps = [row.gap for row in there]
    return Grade(
        kind=rows[0].kind,
        n=len({row.model for row in rows}),
        planted=len(there),
        max_error=_largest(gaps),
        mean_error=_mean([_largest([gap]) for gap in gaps]),
        correlation=_correlation(rows),
        correlation_in_conflict=_correlation(rows, between=True)
        if rows[0].kind == "share"
        else math.nan,
        missed=_mean([np.isinf(gap).any() for gap in gaps]),
        hit_rate=_mean([row.is_right for row in there]),
        absent=len(open_to),
        false_alarms=_mean([row.alarms for row in open_to]),
        false_alarms_on_nothing=_mean([row.alarms for row in open_to if row.nothing]),
        by_strength=_thirds(there),
    )


def _thirds(rows: Sequence[Item]) -> tuple[Mapping[str, float], ...]:
    """Errors of weakly, middling and strongly planted items."""
    if len(rows) < 3:
        return ()
    ordered = sorted(rows, key=lambda row: row.strength)
    ends = [round(len(rows) * k / 3) for k in range(4)]
    parts = [ordered[a:b] for a, b in itertools.pairwise(ends)]
    return tuple(
        {
            "up_to": part[-1].strength,
            "n": len(part),
            "max_error": _largest([row.gap for row in part]),
            "mean_error": _mean([_largest([row.gap]) for row in part]),
            "hit_rate": _mean([row.is_right for row in part]),
        }
        for part in parts
    )


def _largest(gaps: Sequence[np.ndarray]) -> float:
    """The largest finite gap; NaN if there is none."""
    found = [float(gap[np.isfinite(gap)].max()) for gap in gaps if np.isfinite(gap).any()]
    return max(found, default=math.nan)


def _mean(values: Sequence[Any]) -> float:
    """The mean of what is not NaN; NaN of nothing."""
    kept = [float(value) for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else math.nan


def _correlation(rows: Sequence[Item], *, between: bool = False) -> float:
    right, found = (
        np.concatenate([getattr(row, name) for row in rows]) for name in ("known", "measured")
    )
    both = np.isfinite(right) & np.isfinite(found)
    if between:
        both &= (right > 0) & (right < 1)
    right, found = right[both], found[both]
    if len(right) < 3 or min(np.ptp(right), np.ptp(found)) < 1e-9:
        return math.nan
    return float(np.corrcoef(right, found)[0, 1])
