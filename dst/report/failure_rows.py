"""The failure mode: every rule with its conditions, and which of them it fell by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dst.core.failure_results import FailureMode, Finding
from dst.core.results import Report
from dst.report.rows import claims_of

_NUMBERS = (
    ("contrast", "LD of the run"),
    ("floor", "floor (tau)"),
    ("total_effect", "effect of the context"),
    ("prior", "prior of the subject"),
    ("association_arrived", "association at the answer"),
    ("donor_subject", "LD with another subject’s states"),
    ("cue_knockout", "LD lost when the cue is cut off"),
    ("separation", "separation of the senses (ratio)"),
    ("separation_threshold", "its threshold (ratio)"),
)


@dataclass(frozen=True)
class Rule:
    """One rule, its conditions, and what became of it.

    Attributes:
        mode: What it would name.
        findings: Its conditions, with their numbers.
        holds: Whether all of them hold.
        became: What became of it, in words.
    """

    mode: str
    findings: list[Finding]
    holds: bool
    became: str


def failure_values(report: Report) -> dict[str, Any]:
    """What the section on the failure mode shows."""
    mode = report.failure
    if not isinstance(mode, FailureMode):
        return {}
    evidence = mode.evidence
    numbers = [(text, float(getattr(evidence, name))) for name, text in _NUMBERS]
    numbers += [
        (f"LD without distractors, {outcome}", float(value))
        for value, outcome in zip(evidence.clean_contrasts, evidence.clean_outcomes, strict=True)
    ]
    columns = (
        evidence.de_primed,
        evidence.de_primed_control,
        evidence.random_route.mean(axis=0),
        evidence.random_route.max(axis=0),
    )
    name, says = claimed_mode(report)
    return {
        "name_of_mode": name or "none",
        "says": says,
        "mode": mode,
        "rules": rules_of(mode),
        "numbers": numbers,
        "evidence": evidence,
        "routes": [
            (state, *map(float, row)) for state, row in enumerate(zip(*columns, strict=True))
        ],
    }


def claimed_mode(report: Report) -> tuple[str, str]:
    """The mode that the verdict claims, and its sentence; "not claimed" where it claims none."""
    mode = report.failure
    if not isinstance(mode, FailureMode) or not mode.mode:
        return "", ""
    said = [claim.says for claim in claims_of(report) if claim.rests_on == "failure"]
    if said and said[0] != mode.says:
        return "not claimed", said[0]
    return mode.mode, mode.says


def rules_of(mode: FailureMode) -> list[Rule]:
    """The rules in the order in which they are tried; the first that holds names the mode."""
    grouped: dict[str, list[Finding]] = {}
    for finding in mode.findings:
        grouped.setdefault(finding.rule, []).append(finding)
    rules = []
    for name, findings in grouped.items():
        missed = [finding.name for finding in findings if not finding.holds]
        if missed:
            became = (
                f"does not hold: {_listed(missed)} {'is' if len(missed) == 1 else 'are'} not so"
            )
        elif name == mode.rule:
            became = "holds, and is the first that does"
        else:
            became = "would hold, but an earlier rule does"
        rules.append(Rule(name or "conditions", findings, not missed, became))
    return rules


def _listed(names: list[str]) -> str:
    quoted = [f"“{name}”" for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
