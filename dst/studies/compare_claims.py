"""What a comparison says in sentences: only what the draws tell apart, each with its number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from dst.core.claims import Claim
from dst.core.comparison_results import Difference
from dst.core.failure_results import FailureMode
from dst.core.results import Report
from dst.studies.verdict_failure import unmeasured
from dst.studies.verdict_flows import failed_control, undrawn

OUTCOMES = {
    "hallucination": "hallucinates",
    "correct": "is correct",
    "neither": "gives neither answer",
}


def comparison_claims(
    a: Report, b: Report, names: tuple[str, str], differences: Sequence[Difference]
) -> tuple[Claim, ...]:
    """Outcome, sum, arrival, DSS*, commitment and failure mode of two reports in sentences."""
    by_group: dict[str, list[Difference]] = {}
    for one in differences:
        by_group.setdefault(one.group, []).append(one)
    claims = [*_outcome(a, b, names), *_sum(by_group.get("sum", []), names)]
    if why := _refused(a, b, names):
        claims.append(Claim(f"Nothing is said of what made the difference: {why}.", "sum"))
    else:
        claims += _terms(by_group.get("sum", []))
        claims += _flows(by_group.get("arrival", []), names)
        claims += _score(by_group.get("score", []), a, b, names)
        claims += _commitment(by_group.get("commitment", []), names)
    return (*claims, *_failure(a, b, names))


def _refused(a: Report, b: Report, names: tuple[str, str]) -> str:
    """Why causes may not be compared; "" if they may."""
    for name, report in zip(names, (a, b), strict=True):
        if report.pathways is None:
            return f"the two pathways of {name} were not measured"
        if why := undrawn(report.pathways) or failed_control(report.pathways):
            return f"of {name}, {why}"
    return ""


def _outcome(a: Report, b: Report, names: tuple[str, str]) -> Iterator[Claim]:
    told = [
        f"{name} {OUTCOMES.get(one.outcome, one.outcome)}: {one.answer!r} (p {one.answer_prob:.2f})"
        for name, one in zip(names, (a, b), strict=True)
    ]
    yield Claim(f"{told[0]}; {told[1]}.", "outcome")


def _sum(terms: Sequence[Difference], names: tuple[str, str]) -> Iterator[Claim]:
    for one in terms:
        if one.name == "LD":
            yield Claim(
                f"LD differs by {one.value:+.2f} logits ({names[0]} {one.a:+.2f}, {names[1]} "
                f"{one.b:+.2f}).",
                "sum",
            )


def _terms(terms: Sequence[Difference]) -> Iterator[Claim]:
    """Which terms of the sum make the difference."""
    terms = [one for one in terms if one.name != "LD"]
    apart = sorted((one for one in terms if one.told_apart), key=lambda one: -abs(one.value))
    same = [one for one in terms if not one.told_apart and not one.reason]
    sizes = sum(abs(one.value) for one in terms)
    if apart:
        told = _listed([f"the {one.name} ({_told(one)})" for one in apart])
        most = ", most of it in the first" if abs(apart[0].value) > sizes / 2 else ""
        more = most if len(apart) > 1 else ""
        yield Claim(f"It lies in {told}{more}.", "sum", _apart(apart))
    if same:
        told = _listed([f"the {one.name} ({_told(one)})" for one in same])
        yield Claim(f"The draws do not tell the two apart by {told}.", "sum", "interval holds 0")


def _flows(arrivals: Sequence[Difference], names: tuple[str, str]) -> Iterator[Claim]:
    for one in arrivals:
        flow = one.name.removeprefix("arrival of the ")
        places = [
            f"at {value:.0%} of depth in {name}".replace("%", " %")
            for value, name in ((one.a, names[0]), (one.b, names[1]))
            if not math.isnan(value)
        ]
        if len(places) < 2:
            nowhere = [n for n, v in zip(names, (one.a, one.b), strict=True) if math.isnan(v)]
            if places:
                yield Claim(
                    f"The {flow} reaches the answer {places[0]}, and not in {nowhere[0]}.",
                    "arrival",
                    one.reason,
                )
        elif one.told_apart:
            says = f"The {flow} reaches the answer {places[0]} and {places[1]}."
            yield Claim(says, "arrival", _apart([one]))
        elif one.reason:
            yield Claim(
                f"The {flow} reaches the answer {places[0]} and {places[1]}, without an interval.",
                "arrival",
                one.reason,
            )
        elif one.a == one.b:
            says = f"The {flow} reaches the answer at the same depth ({_share(one.a)})."
            yield Claim(says, "arrival", f"A − B {_told(one)}")
        else:
            yield Claim(
                f"The {flow} reaches the answer {places[0]} and {places[1]}; the draws do not tell "
                "them apart.",
                "arrival",
                f"A − B {_told(one)}",
            )


def _score(
    scores: Sequence[Difference], a: Report, b: Report, names: tuple[str, str]
) -> Iterator[Claim]:
    for one in scores:
        if one.name == "dss_causal, total" and not one.reason:
            end = "" if one.told_apart else "; the draws do not tell them apart"
            yield Claim(
                f"The context has {_share(one.a)} of the evidence in {names[0]}{_open(a)} and "
                f"{_share(one.b)} in {names[1]}{_open(b)}{end}.",
                "score",
                f"A − B {_told(one)}",
            )


def _open(report: Report) -> str:
    """That there is nothing to share where the subject pulls toward the context's answer too."""
    paths = report.pathways
    if paths is None or paths.prior.mean <= paths.associative_floor:
        return ""
    return " (no conflict there)"


def _commitment(marks: Sequence[Difference], names: tuple[str, str]) -> Iterator[Claim]:
    for one in marks:
        repair = one.name.removeprefix("commitment, ")
        if one.told_apart:
            yield Claim(
                f"By {repair}, {names[0]} is committed from {_share(one.a)} of depth on and "
                f"{names[1]} from {_share(one.b)}.",
                "commitment",
                _apart([one]),
            )


def _failure(a: Report, b: Report, names: tuple[str, str]) -> Iterator[Claim]:
    modes = [_mode(report) for report in (a, b)]
    if not any(modes):
        return
    if modes[0] == modes[1]:
        yield Claim(f"Both fail by {modes[0]}.", "failure")
        return
    told = [
        f"{name} fails by {mode}" if mode else f"{name} {_unfailed(report)}"
        for name, mode, report in zip(names, modes, (a, b), strict=True)
    ]
    yield Claim(f"{told[0]}; {told[1]}.", "failure")


def _mode(report: Report) -> str:
    """The failure mode that may be claimed; "" if none."""
    mode = report.failure
    if not isinstance(mode, FailureMode) or not mode.mode:
        return ""
    return (
        "a mode that the rules leave unclassified"
        if mode.mode == "unclassified"
        else ("" if unmeasured(mode) else mode.mode)
    )


def _unfailed(report: Report) -> str:
    return "does not fail" if report.outcome == "correct" else "has no mode that can be claimed"


def _told(one: Difference) -> str:
    return f"{one.value:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"


def _apart(differences: Sequence[Difference]) -> str:
    return "; ".join(f"{one.name}: A − B {_told(one)}, {one.method}" for one in differences)


def _share(value: float) -> str:
    return f"{value:.0%}".replace("%", " %")


def _listed(texts: list[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
