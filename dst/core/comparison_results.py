"""Two reports held against each other: what differs, by how much, and whether draws tell it."""

import math
from pathlib import Path
from typing import Any

from dst.core.claims import Claim
from dst.core.results import Provenance, Report, Result, result


@result
class Difference(Result):
    """One quantity of two reports, A - B.

    Attributes:
        name: Such as ``effect of the context`` or ``dss_causal at 50 % of depth``.
        group: ``sum``, ``arrival``, ``score`` or ``commitment``.
        unit: ``logits``, ``share``, or ``share of depth`` (a state over L).
        a: The quantity of A; NaN where it has none.
        a_low: Lower end of its 95 % interval; NaN where it has none.
        a_high: Upper end.
        b: The quantity of B.
        b_low: Lower end of its interval.
        b_high: Upper end.
        value: a - b.
        low: Lower end of the interval of the difference.
        high: Upper end.
        method: How that interval is made.
        reason: Why there is no difference, or none with an interval; "" where there is both.
    """

    name: str
    group: str
    unit: str
    a: float
    a_low: float
    a_high: float
    b: float
    b_low: float
    b_high: float
    value: float
    low: float
    high: float
    method: str
    reason: str = ""

    def __post_init__(self) -> None:
        if math.isnan(self.low) != bool(self.reason):
            raise ValueError(f"{self.name}: no interval if and only if there is a reason")

    @property
    def told_apart(self) -> bool:
        """Whether the interval of the difference leaves 0 out; False where there is none."""
        return self.low > 0 or self.high < 0

    def to_records(self) -> list[dict[str, Any]]:
        """One row."""
        names = (
            "name", "group", "unit", "a", "a_low", "a_high", "b", "b_low", "b_high",
            "value", "low", "high", "told_apart", "method", "reason",
        )  # fmt: skip
        return [{name: getattr(self, name) for name in names}]


@result
class Comparison(Result):
    """Two cases of one model, or one case of two models (`dst.compare`).

    Attributes:
        kind: ``two cases``, ``two models``, or ``two runs`` (both the same: settings differ).
        names: What to call A and B.
        a: The first report.
        b: The second report.
        differences: Every quantity, A - B.
        claims: What differs in sentences, each with what it rests on.
        notes: What else differs between the two, and what cannot be compared.
        provenance: What it takes to compute this again.
    """

    kind: str
    names: tuple[str, str]
    a: Report
    b: Report
    differences: tuple[Difference, ...]
    claims: tuple[Claim, ...]
    notes: tuple[str, ...]
    provenance: Provenance

    def __getitem__(self, name: str) -> Difference:
        """The difference of that name.

        Raises:
            KeyError: There is none; the message lists the names there are.
        """
        for one in self.differences:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.differences)
        raise KeyError(f"{name!r}; the quantities here are {known}")

    @property
    def sentences(self) -> tuple[str, ...]:
        """What differs, in sentences."""
        return tuple(claim.says for claim in self.claims)

    def to_records(self) -> list[dict[str, Any]]:
        """One row per quantity."""
        return [row for one in self.differences for row in one.to_records()]

    def to_html(self, path: str | Path) -> Path:
        """Write both side by side as one offline HTML page (see `dst.report.comparison_page`)."""
        from dst.report.comparison_page import write_comparison

        return write_comparison(self, path)
