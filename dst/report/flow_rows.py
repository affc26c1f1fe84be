"""The words and the components that carry each flow, as rows with bars."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dst.core.carriers import ComponentCarrier, WordCarrier, component_carriers, word_carriers
from dst.core.results import Estimate, Mark, Report
from dst.plot.text import state_number

FLOWS = ("contextual", "associative")
_MOST_COMPONENTS = 6


@dataclass(frozen=True)
class Carried:
    """One flow and what carries it.

    Attributes:
        flow: ``contextual`` or ``associative``.
        total: The flow's total: effect of the context, or prior.
        floor: tau; less is no more than draws differ.
        arrival: When it is at the answer, in words, or why it is not.
        words: The roles that carry it before the answer.
        components: What writes it at the answer, the largest first.
        others: What all other components write, in logits.
        idle: Roles that do not carry it.
    """

    flow: str
    total: Estimate
    floor: float
    arrival: str
    words: list[WordCarrier]
    components: list[ComponentCarrier]
    others: float
    idle: list[str]

    @property
    def under_floor(self) -> bool:
        """Whether the flow's total is no more than its draws differ by."""
        return abs(self.total.mean) < self.floor


def carried(report: Report) -> dict[str, Any]:
    """What the section on words and heads shows: both flows, and the scale of their bars."""
    paths, parts = report.pathways, report.attribution
    if paths is None:
        return {}
    marks = {(mark.name, mark.definition): mark for mark in paths.marks}
    flows = []
    for flow in FLOWS:
        contextual = flow == "contextual"
        words = word_carriers(paths, report.trace.tokens, flow)
        components = component_carriers(parts, flow, _MOST_COMPONENTS) if parts else []
        total = components[0].total if components else 0.0
        known = {one.role for one in words} | {"answer"}
        flows.append(
            Carried(
                flow=flow,
                total=paths.total_effect if contextual else paths.prior,
                floor=paths.contextual_floor if contextual else paths.associative_floor,
                arrival=_arrival(marks.get(("arrival", f"{flow} flow at answer"))),
                words=words,
                components=components,
                others=total - sum(one.part for one in components),
                idle=[role for role in paths.roles if role not in known],
            )
        )
    return {
        "flows": flows,
        "word_scale": _largest([one.removal for flow in flows for one in flow.words]),
        "part_scale": _largest([one.part for flow in flows for one in flow.components]),
        "n_layers": len(paths.redundant) - 1,
        "closure": None if parts is None else parts.closure_error,
    }


def _largest(values: list[float]) -> float:
    return max((abs(value) for value in values), default=0.0) or 1.0


def _arrival(mark: Mark | None) -> str:
    """``at the answer from state 2 (1 to 2) of 4``, or why it is not."""
    if mark is None:
        return ""
    if mark.reason:
        return f"not at the answer: {mark.reason}"
    known = not math.isnan(mark.low)
    spread = f" ({state_number(mark.low)} to {state_number(mark.high)})" if known else ""
    return f"at the answer from state {state_number(mark.state)}{spread} of {mark.n_layers}"
