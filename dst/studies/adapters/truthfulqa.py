"""TruthfulQA: 790 rows of 2025, 817 of the first release; tables and multiple choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dst.studies.adapters.account import Left, Made
from dst.studies.adapters.reading import Row
from dst.studies.adapters.wording import apart, fields, first_of, listed, text

TABLE = frozenset(("Question", "Best Answer", "Correct Answers", "Incorrect Answers"))
GENERATION = frozenset(("question", "best_answer", "correct_answers", "incorrect_answers"))
CHOICES = frozenset(("question", "mc1_targets", "mc2_targets"))


def convert(rows: Sequence[Row], detected: list[str]) -> Iterator[Made | Left]:
    """One case a row: the best answer comes first among the right ones (MC1 asks for it)."""
    columns = set(rows[0].values)
    choices = columns >= CHOICES
    layout = "multiple choice" if choices else "a table of answers"
    release = "2025" if columns & {"Best Incorrect Answer", "mc0_targets"} else "first"
    detected.append(f"layout: {layout}, the {release} release's columns")
    for row in rows:
        yield _choices(row) if choices else _table(row)


def _table(row: Row) -> Made | Left:
    columns = [
        first_of(row, names)
        for names in (
            ("Question", "question"),
            ("Best Answer", "best_answer"),
            ("Correct Answers", "correct_answers"),
            ("Best Incorrect Answer",),
            ("Incorrect Answers", "incorrect_answers"),
        )
    ]
    question, best, right, worst, wrong = (row.values[name] if name else None for name in columns)
    plus = [*listed(best, "\n"), *listed(right)]
    minus = [*listed(worst, "\n"), *listed(wrong)]
    category = first_of(row, ("Category", "category"))
    return _case(row, question, plus, minus, text(row, category) if category else None)


def _choices(row: Row) -> Made | Left:
    one, all_of = (_targets(row.values.get(name)) for name in ("mc1_targets", "mc2_targets"))
    plus = [choice for choice, right in (*one, *all_of) if right]
    minus = [choice for choice, right in (*one, *all_of) if not right]
    return _case(row, row.values.get("question"), plus, minus, None)


def _targets(value: Any) -> list[tuple[str, bool]]:
    """``{choice: 0 or 1}`` as in mc_task.json, or ``{choices, labels}`` as on the hub."""
    if not isinstance(value, Mapping):
        return []
    if set(value) == {"choices", "labels"} and not isinstance(value["choices"], (str, int)):
        return [(str(c), bool(r)) for c, r in zip(value["choices"], value["labels"], strict=False)]
    return [(str(choice), bool(right)) for choice, right in value.items()]


def _case(
    row: Row, question: Any, plus: list[str], minus: list[str], category: str | None
) -> Made | Left:
    right, wrong, n_both = apart(plus, minus)
    if not str(question or "").strip():
        return Left(row, "no question")
    if not right or not wrong:
        return Left(row, "no right answer, or no wrong one, that is not also the other")
    derived = ["prompt: Q: question, new line, A:"]
    if n_both:
        derived.append("contextual, associative: an answer given as right and as wrong is dropped")
    asked = str(question).strip()
    return Made(
        row,
        fields(
            prompt=f"Q: {asked}\nA:",
            contextual=right,
            associative=wrong,
            question=asked,
            group=category,
        ),
        tuple(derived),
        ("subject, cue: a bare question has no context",)
        + (() if category else ("group: this layout has no category",)),
    )
