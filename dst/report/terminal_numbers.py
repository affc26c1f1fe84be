"""The numbers of a report in a few lines of a terminal: the sum, the flows, scores and marks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from dst.core.results import Mark, Pathways, Report, Score
from dst.plot.text import number, visible
from dst.report.lines import Piece, cut, filled, fit, side, wrapped
from dst.report.rows import mark_interval, marks_by_kind
from dst.report.sums import sum_terms

_NAMES = 18  # columns of the names of scores and marks
_MOST_SPARKS = 24
_SPARKS = "▁▂▃▄▅▆▇█"
_TERMS = {"prior of the subject": "prior", "effect of the context": "context"}


def flow_lines(paths: Pathways, width: int) -> list[list[Piece]]:
    """LD as a sum, and what each flow has brought to the answer position by each state."""
    words: list[list[Piece]] = []
    *terms, whole = sum_terms(paths)
    for term in (whole, *terms):
        sign = {"LD": "", "base": "= "}.get(term.name, "+ ")
        words += [[(part, "")] for part in f"{sign}{_TERMS.get(term.name, term.name)}".split()]
        words.append([(number(term.value), "dim" if term.under_floor else side(term.value))])
        if term.draws > 1:
            words.append([(f"±{number((term.high - term.low) / 2)}", "dim")])
    words.append([("logits", "")])
    curves = {
        "contextual": paths.at_answer("contextual_insertion"),
        "associative": paths.at_answer("associative_insertion"),
    }
    floors = (paths.contextual_floor, paths.associative_floor)
    widest = max(*floors, *(float(abs(value)) for curve in curves.values() for value in curve))
    lines = filled(words, width, indent=0)
    for flow, curve in curves.items():
        spark = _spark(curve, -widest, widest)
        told = _reaches(paths, flow)
        name = fit({"contextual": "context", "associative": "association"}[flow], 13)
        lines.append(
            [(name, flow), (spark, ""), ("  " + cut(told, width - 15 - len(spark)), "dim")]
        )
    return lines


def _reaches(paths: Pathways, flow: str) -> str:
    """When a flow is at the answer, or why it never is."""
    told = []
    for name, words in (("arrival", "at the answer from state"), ("handover", "handed over")):
        for mark in paths.marks:
            if (mark.name, mark.definition) == (name, f"{flow} flow at answer"):
                if mark.reason:
                    return f"not at the answer: {visible(mark.reason)}"
                told.append(f"{words} {_place(mark)}")
    return ", ".join(told)


def score_lines(scores: Sequence[Score], width: int) -> list[list[Piece]]:
    """A row for the first score of ours of each family and unit; all others in lines.

    What is nowhere defined is left out, and the margin: the layers' strip is its curve.
    """
    first: dict[tuple[str, str], Score] = {}
    also, published = [], []
    for score in scores:
        if all(score.reasons) or score.name == "margin":
            continue
        family = (score.name.split("_")[0], score.unit)
        if "published" in score.name:
            published.append(score)
        elif first.setdefault(family, score) is not score and not math.isnan(score.total):
            also.append(score)
    shown = list(first.values())
    name = max([len(visible(score.name)) + 2 for score in shown] + [_NAMES])
    lines: list[list[Piece]] = []
    for score in shown:
        low, high = _scale(score)
        spark = _spark(score.value, low, high)
        reason = score.reasons[-1] if math.isnan(score.total) else ""
        tail = reason or ("" if score.unit == "1" else score.unit)
        lines.append(
            [
                (fit(visible(score.name), name), ""),
                (f"{number(score.total):>8}  ", "bold"),
                (spark, ""),
                ("  " + cut(visible(tail), width - name - 12 - len(spark)), "dim"),
            ]
        )
    for what, group in (("other scores", also), ("published scores", published)):
        told = ", ".join(
            f"{visible(score.name.removesuffix('_published'))} {number(score.total)}"
            for score in group
        )
        if told:
            lines.append([(fit(what, name), ""), (cut(told, width - name), "dim")])
    return lines


def _scale(score: Score) -> tuple[float, float]:
    """A share from 0 to 1; anything else around 0, as far as it goes."""
    if score.unit == "share":
        return 0.0, 1.0
    largest = max(abs(float(value)) for value in score.value if math.isfinite(value)) or 1.0
    return -largest, largest


def _spark(values: Iterable[float], low: float, high: float) -> str:
    """A curve over depth in eighths of the way from ``low`` to ``high``."""
    every = list(values)
    step = -(-len(every) // _MOST_SPARKS)
    return "".join(_level(float(value), low, high) for value in every[::-1][::step][::-1])


def _level(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return "·"
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    return _SPARKS[round(share * (len(_SPARKS) - 1))]


def mark_lines(report: Report, width: int) -> list[list[Piece]]:
    """Two lines at most per kind of mark, the causal ones first.

    Marks of the flows at the answer stand with the flows.
    """
    marks = [
        mark
        for mark in report.markers.marks
        if not (report.pathways and mark.definition.endswith("flow at answer"))
    ]
    lines: list[list[Piece]] = []
    for kind, group in marks_by_kind(marks).items():
        names = {mark.name for mark in group}
        only = names.pop() if kind == "causal" and len(names) == 1 else ""
        told = wrapped(_told(kind, group, only), width - 2, "dim", indent=_NAMES)
        told[0][0] = (fit(f"{kind} {visible(only) or 'marks'}", _NAMES), "")
        if len(told) > 2:
            told[1].append((" …", "dim"))
        lines += told[:2]
    return lines


def _told(kind: str, marks: Sequence[Mark], only: str) -> str:
    """Marks that are there, by their definition; then the names that no definition placed.

    Args:
        kind: Their kind.
        marks: The marks.
        only: The name that all of them have and that need not be repeated, if there is one.
    """
    there = [mark for mark in marks if not mark.reason]
    places: dict[str, list[str]] = {}
    for mark in there:
        place = _place(mark) if only else f"{mark.name} {_place(mark)}"
        places.setdefault(_short(kind, mark), []).append(place)
    alike: dict[str, list[str]] = {}
    for short, placed in places.items():
        alike.setdefault(", ".join(placed), []).append(short)
    told = [
        f"{', '.join(short or 'logit lens' for short in shorts)}: {placed}"
        if any(shorts)
        else placed
        for placed, shorts in alike.items()
    ]
    missing = dict.fromkeys(mark.name for mark in marks)
    for mark in there:
        missing.pop(mark.name, None)
    none = ", ".join("none" if only else f"no {name}" for name in missing)
    return "; ".join([*told, *([none] if none else [])])


def _short(kind: str, mark: Mark) -> str:
    """What tells a mark from others of its kind and name; "" if nothing does."""
    if kind == "lens":
        return "tuned lens" if mark.definition.endswith("margin_tuned") else ""
    if kind == "published" and (found := re.search(r"\((.+?)\)", mark.definition)):
        return found[1]
    return mark.definition.removeprefix("causal, ")


def _place(mark: Mark) -> str:
    interval = mark_interval(mark)
    return f"{mark.state:g}" + (f" ({interval})" if interval else "")
