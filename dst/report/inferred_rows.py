"""What was inferred of a case: the words that were tried, and how much hangs on the choice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dst.core.results import Estimate, Report
from dst.core.suggestion import Candidate, Suggestion

_MOST_CANDIDATES = 10


@dataclass(frozen=True)
class Tried:
    """One candidate, with its interval on the scale of all.

    Attributes:
        candidate: The words and what LD loses without them.
        chosen: ``cue``, ``subject`` or "".
        zero: Where 0 is, from 0 to 100.
        place: Where its mean is.
        start: Lower end of its interval.
        width: Width of its interval.
    """

    candidate: Candidate
    chosen: str
    zero: float
    place: float
    start: float
    width: float


@dataclass(frozen=True)
class Choice:
    """One choice of cue and subject, and the terms that it gives.

    Attributes:
        name: ``suggested``, or which of the two the runner-up replaces.
        cue: The cue then.
        subject: The subject then.
        total_effect: Effect of the context; None where there is none.
        prior: Prior of the subject; None where there is none.
    """

    name: str
    cue: str
    subject: str
    total_effect: Estimate | None
    prior: Estimate | None


def inferred_values(report: Report) -> dict[str, Any]:
    """What the section on what was inferred shows."""
    found = report.suggestion
    if not isinstance(found, Suggestion):
        return {}
    return {
        "found": found,
        "parts": [
            ("cue", " + ".join(found.cue), found.cue_reason),
            ("subject", found.subject or "", found.subject_reason),
        ],
        "choices": _choices(found) if found.inferred else [],
        "tried": _tried(found),
        "left_out": max(len(found.candidates) - _MOST_CANDIDATES, 0),
    }


def _choices(found: Suggestion) -> list[Choice]:
    given = [("suggested", found.cue, found.subject, found.total_effect, found.prior)]
    given += [
        (f"other {one.role}", one.cue, one.subject, one.total_effect, one.prior)
        for one in found.alternatives
    ]
    return [
        Choice(name, " + ".join(cue), subject or "", _known(effect), _known(prior))
        for name, cue, subject, effect, prior in given
    ]


def _known(term: Estimate) -> Estimate | None:
    return None if math.isnan(term.mean) else term


def _tried(found: Suggestion) -> list[Tried]:
    """The most necessary candidates, and the chosen ones wherever they stand."""
    chosen = {i: _chosen(one, found) for i, one in enumerate(found.candidates)}
    shown = [
        one
        for i, one in enumerate(found.candidates)
        if i < _MOST_CANDIDATES or chosen[i]
    ]  # fmt: skip
    ends = [
        end
        for one in shown
        for end in (one.necessity.mean, one.necessity.low, one.necessity.high)
        if not math.isnan(end)
    ]
    low, high = min([0.0, *ends]), max([0.0, *ends])

    def place(value: float) -> float:
        return 3 + 94 * (value - low) / ((high - low) or 1.0)

    rows = []
    for one in shown:
        n = one.necessity
        known = not math.isnan(n.low)
        start, end = (place(n.low), place(n.high)) if known else (place(n.mean), place(n.mean))
        rows.append(Tried(one, _chosen(one, found), place(0), place(n.mean), start, end - start))
    return rows


def _chosen(one: Candidate, found: Suggestion) -> str:
    if set(one.words) <= set(found.cue):
        return "cue"
    return "subject" if found.subject is not None and one.words == (found.subject,) else ""
