"""Scores and marks of known curves, by the definitions of the method (sections 2a, 3a, 4).

Written apart from `dst.analysis`, which is graded against it. Curves are in logits of LD over
states 0..L; a mark is a state, or NaN and a reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

NAN = float("nan")


@dataclass(frozen=True)
class Thresholds:
    """The numbers that marks depend on. A clear plan gives the same marks for others nearby.

    Attributes:
        floor: tau in logits. Planted runs are exact, so it stands for the width of an interval.
        half: Share of a flow's total at which it has arrived.
        handover: Share of the total at which a flow is handed over.
        redundant: Removals that add up to less than this share of the total are redundant.
        band: How far below the correct run's lens margin its band ends, in logits.
        drop: What the lens margin must fall for an onset, in logits.
    """

    floor: float = 0.05
    half: float = 0.5
    handover: float = 0.9
    redundant: float = 0.9
    band: float = 0.5
    drop: float = 0.5


@dataclass(frozen=True)
class Travel:
    """Where one flow was when: arrival and departure per role, and its handover."""

    arrival: Float[np.ndarray, " role"]
    departure: Float[np.ndarray, " role"]
    handover: float


def travel(
    removal: Float[np.ndarray, "state role"],
    insertion: Float[np.ndarray, "state role"],
    answer: int,
    total: float,
    use: Thresholds,
) -> Travel:
    """Arrival and departure per role and handover of one flow, as states.

    At the answer (column ``answer``): the first state from which the insertion stays at half of
    the total or more. At a source: the first state with half of the largest |removal|, and the
    first after it from which |removal| stays under that half. Handover: the first state with .9
    of the total at the answer. NaN where the total, or the largest |removal|, is under the floor.
    """
    n_roles = removal.shape[1]
    arrival, departure = np.full(n_roles, NAN), np.full(n_roles, NAN)
    for role in range(n_roles):
        size = np.abs(removal[:, role])
        if role == answer or size.max() < use.floor:
            continue
        holds = size >= use.half * size.max()
        arrival[role] = float(np.argmax(holds))
        departure[role] = settles(~holds)
    handover = NAN
    if abs(total) >= use.floor:
        there = insertion[:, answer] / total
        arrival[answer] = settles(there >= use.half)
        handover = float(np.argmax(there >= use.handover))
    return Travel(arrival, departure, handover)


def settles(holds: Bool[np.ndarray, " state"]) -> float:
    """First state from which ``holds`` is true to the end; NaN if it is not true at the end."""
    if not holds[-1]:
        return NAN
    return 0.0 if holds.all() else float(len(holds) - np.argmin(holds[::-1]))


def dss(context: float, association: float, floor: float) -> tuple[float, str]:
    """DSS* = [context]+ / ([context]+ + [-association]+), and what is to be said of it.

    NaN while both are under the floor, with the reason as the note.
    """
    plus, minus = max(context, 0.0), max(-association, 0.0)
    if plus + minus <= floor:
        return NAN, "misled by the context" if context < -floor else "nothing arrived"
    note = ""
    if context > floor and association > floor:
        note = "no conflict"
    if context < -floor and association < -floor:
        note = "no support"
    return plus / (plus + minus), note


def onset(
    margin: Float[np.ndarray, " state"], band_low: Float[np.ndarray, " state"], drop: float
) -> tuple[float, str]:
    """First state under the band for max(2, ceil(L / 8)) states in a row.

    The margin must also fall by ``drop`` from the state before to its lowest from there on.
    """
    width = max(2, math.ceil((len(margin) - 1) / 8))
    below = margin < band_low
    for state in range(len(margin) - width + 1):
        fall = margin[max(state - 1, 0)] - margin[state:].min()
        if below[state : state + width].all() and fall >= drop:
            return float(state), ""
    return NAN, "the margin never falls out of the band of correct runs"


def inversion(margin: Float[np.ndarray, " state"], floor: float) -> tuple[float, str]:
    """First state from which the lens margin stays under -floor, if it was over floor before."""
    if margin.max() <= floor:
        return NAN, "never held the contextual answer"
    state = settles(margin < -floor)
    return state, "the final answer is not the associative one" if math.isnan(state) else ""


def outcome(ld: float, floor: float) -> str:
    """``correct``, ``hallucination``, or ``neither`` while |LD| is within the floor."""
    if abs(ld) <= floor:
        return "neither"
    return "correct" if ld > 0 else "hallucination"


def commitment(
    name: str,
    answered: str,
    repaired: Mapping[str, Float[np.ndarray, " state"]],
    control: Mapping[str, Float[np.ndarray, " state"]],
    floor: float,
) -> tuple[float, str]:
    """1 + the last state at which a repair works: it flips the answer, and its control does not.

    A repair is asked for when the run hallucinates, ``remove cue`` (which breaks a success) when
    it is correct.
    """
    breaks = name == "remove cue"
    if name not in repaired:
        return NAN, "the case has no clean variant"
    if answered != ("correct" if breaks else "hallucination"):
        return NAN, "nothing to break" if breaks else "nothing to repair"
    sign = -1.0 if breaks else 1.0
    freed = repaired[name] - control[name]
    works = (sign * repaired[name] > floor) & (sign * freed > floor)
    if not works.any():
        return NAN, f"not breakable by {name}" if breaks else f"not repairable by {name}"
    return 1.0 + float(np.flatnonzero(works)[-1]), ""
