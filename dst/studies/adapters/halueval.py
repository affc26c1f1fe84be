"""HaluEval QA: a passage, a question, the right answer and one that was made up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dst.studies.adapters.account import Left, Made
from dst.studies.adapters.reading import Row
from dst.studies.adapters.wording import MISSING, apart, fields, has, text

QA = frozenset(("knowledge", "question", "right_answer", "hallucinated_answer"))
SAMPLES = frozenset(("knowledge", "question", "answer", "hallucination"))
GIVEN = frozenset(("knowledge", "question"))


def convert(
    rows: Sequence[Row], detected: list[str], *, judge: bool = False
) -> Iterator[Made | Left]:
    """One case a row; asked to judge, one for each answer of a row.

    Args:
        rows: The rows.
        detected: Takes the layout.
        judge: Ask whether an answer is made up (yes or no), as the benchmark scores models,
            instead of asking the question itself.
    """
    samples = not set(rows[0].values) >= QA
    detected.append("layout: " + ("one answer a row, judged" if samples else "two answers a row"))
    for row in rows:
        if not has(row, *(SAMPLES if samples else QA)):
            yield Left(row, MISSING)
        elif samples:
            verdict = text(row, "hallucination").strip().casefold()
            if verdict in ("yes", "no"):
                yield _judged(row, text(row, "answer"), verdict)
            else:
                yield Left(row, "the verdict is neither yes nor no")
        elif judge:
            yield _judged(row, text(row, "right_answer"), "no")
            yield _judged(row, text(row, "hallucinated_answer"), "yes")
        else:
            yield _asked(row)


def _asked(row: Row) -> Made | Left:
    right, wrong, _ = apart([text(row, "right_answer")], [text(row, "hallucinated_answer")])
    if not right:
        return Left(row, "the made-up answer is the right one")
    knowledge, question = text(row, "knowledge").strip(), text(row, "question").strip()
    return Made(
        row,
        fields(
            prompt=f"{knowledge}\nQuestion: {question}\nAnswer:",
            contextual=right,
            associative=wrong,
            cue=knowledge,
            question=question,
            group=_group(row),
        ),
        ("prompt: the passage, Question:, Answer:", "cue: the whole passage", DERIVED_GROUP),
        ("subject: the file names none",),
    )


DERIVED_GROUP = "group: the passage's beginning"


def _judged(row: Row, answer: str, verdict: str) -> Made:
    knowledge, question = text(row, "knowledge").strip(), text(row, "question").strip()
    prompt = (
        f"Passage: {knowledge}\nQuestion: {question}\nAnswer: {answer.strip()}\n"
        "Does the answer say something that the passage does not support? Yes or no:"
    )
    return Made(
        row,
        fields(
            prompt=prompt,
            contextual=verdict,
            associative="no" if verdict == "yes" else "yes",
            cue=knowledge,
            group=_group(row),
        ),
        ("prompt: passage, question, answer, and whether it is supported", DERIVED_GROUP),
        ("subject: the file names none", "twin_question: the same for the other answer"),
        extra={"gold": verdict},
    )


def _group(row: Row) -> str:
    return text(row, "knowledge").strip()[:80]
