"""A study as one HTML file: outcomes, which scores tell errors, marks, why cases failed."""

from __future__ import annotations

from pathlib import Path

from dst.core.files import write_text_atomic
from dst.core.statistics_results import Statistic
from dst.core.study_summary import StudySummary
from dst.plot.text import number
from dst.report.document import drawn, render_document

OUTCOMES = {
    "correct": "the answer the context supports",
    "hallucination": "the association’s answer",
    "neither": "another answer: counted apart",
    "failed": "not measured",
}


def write_study(found: StudySummary, path: str | Path) -> Path:
    """Write the page atomically, and return where it is.

    Raises:
        ResultError: The path cannot be written.
    """
    return write_text_atomic(path, render_study(found))


def render_study(found: StudySummary) -> str:
    """The page of a study."""
    from dst import plot

    return render_document(
        "study.html",
        title=headline(found),
        found=found,
        outcomes=[(name, found.count(name), OUTCOMES[name]) for name in found.outcomes],
        lead=lead(found),
        scores=drawn(plot.study_scores(found)),
        groups=drawn(plot.study_groups(found)) if found.shown else None,
        marks=drawn(plot.study_marks(found)) if found.marks else None,
        told=told,
        rows=found.to_records(),
        number=number,
    )


def headline(found: StudySummary) -> str:
    """Cases, models and how many hallucinate."""
    n, wrong = int(found.counts.sum()), found.count("hallucination")
    answered = wrong + found.count("correct")
    models = f"{len(found.models)} models" if len(found.models) > 1 else found.models[0]
    rate = f"{wrong / answered:.0%} of the answered hallucinate" if answered else "none answered"
    return f"{n} cases on {models}: {rate}"


def lead(found: StudySummary) -> str:
    """What the best score before the end does, and whether it beats the model's own confidence."""
    if not found.shown:
        return "No score tells errors here: there are not both correct answers and hallucinations."
    score, depth = found.shown.split("@")
    place = found.at(score, float(depth))
    own, gain = found.auroc[place], found.over_confidence[place]
    beats = "more than" if gain.interval.low > 0 else "not told apart from"
    return (
        f"The score that tells errors best before the last state is {score} at "
        f"{float(depth):.0%} of the depth: AUROC {told(own)}, {beats} the maximum probability "
        f"(difference {told(gain)}). It is the best of {len(found.scores)} scores on these very "
        "cases; judge it on others."
    )


def told(one: Statistic) -> str:
    """A statistic with its interval, or why there is none."""
    if one.reason:
        return f"undefined ({one.reason})"
    ends = one.interval
    return number(one.value) + (
        "" if ends.reason else f" ({number(ends.low)} to {number(ends.high)})"
    )
