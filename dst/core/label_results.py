"""Labels of cases: whether a model hallucinates there, by one definition, and how often."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from dst.core.results import Provenance, Result, result

OUTCOMES = ("correct", "hallucination", "neither")


@result
class Labels(Result):
    """One outcome per case, and the numbers it rests on.

    Attributes:
        kind: The definition: ``contrast``, ``greedy_token``, ``sampled``, ``yes_no``,
            ``generation``, ``multiple_choice``.
        case_id: The cases.
        group: Their groups, "" where there is none.
        outcome: ``correct``, ``hallucination`` or ``neither`` (an invalid answer, counted apart);
            "" where the case could not be labelled.
        numbers: Name -> one number per case, such as ``error_rate`` with ``error_rate_low``.
        texts: Name -> one text per case, such as ``answer``.
        reason: Why a case has no outcome; "" where it has one.
        note: How the outcome is decided, in a sentence.
        provenance: What it takes to compute this again.
    """

    kind: str
    case_id: tuple[str, ...]
    group: tuple[str, ...]
    outcome: tuple[str, ...]
    numbers: Mapping[str, Float[np.ndarray, " case"]]
    texts: Mapping[str, tuple[str, ...]]
    reason: tuple[str, ...]
    note: str
    provenance: Provenance

    def __post_init__(self) -> None:
        n = len(self.case_id)
        columns = (self.group, self.outcome, self.reason, *self.numbers.values())
        if any(len(column) != n for column in (*columns, *self.texts.values())):
            raise ValueError("one entry per case is needed in every column")
        for outcome, reason in zip(self.outcome, self.reason, strict=True):
            if bool(outcome) == bool(reason) or outcome not in ("", *OUTCOMES):
                raise ValueError("an outcome is one of OUTCOMES, or there is a reason for none")

    @property
    def error(self) -> Float[np.ndarray, " case"]:
        """1 for a hallucination, 0 for a correct answer, NaN for neither and for no outcome."""
        value = {"hallucination": 1.0, "correct": 0.0}
        return np.array([value.get(outcome, math.nan) for outcome in self.outcome])

    def counts(self) -> dict[str, int]:
        """How many cases have each outcome; ``unlabelled`` where there is none."""
        found = Counter(outcome or "unlabelled" for outcome in self.outcome)
        return {name: found[name] for name in (*OUTCOMES, "unlabelled")}

    def to_records(self) -> list[dict[str, Any]]:
        """One row per case."""
        error = self.error
        return [
            {
                "case_id": self.case_id[i],
                "group": self.group[i],
                "outcome": self.outcome[i],
                "error": float(error[i]),
                **{name: float(values[i]) for name, values in self.numbers.items()},
                **{name: values[i] for name, values in self.texts.items()},
                "reason": self.reason[i],
            }
            for i in range(len(self.case_id))
        ]

    def __str__(self) -> str:
        told = ", ".join(f"{n} {name}" for name, n in self.counts().items() if n)
        return f"{len(self.case_id)} cases by {self.kind}: {told}"


@result
class YesNoReport(Result):
    """How yes/no questions are answered, by what is right: a bias to yes shows here.

    Attributes:
        n_yes: Questions whose right answer is yes.
        n_no: Questions whose right answer is no.
        invalid_yes: Invalid answers among the former: neither yes nor no.
        invalid_no: Among the latter.
        accuracy_yes: Share of right answers among the valid ones to yes-questions.
        accuracy_no: To no-questions.
        balanced_accuracy: Mean of the two; .5 for a model that always says yes.
        accuracy: Share of right answers among all valid ones.
        yes_rate: Share of yes among all valid answers.
        yes_bias: Mean share of yes over both kinds of question, minus .5; 0 without a bias.
        reason: Why any of these is NaN; "" where none is.
        provenance: What it takes to compute this again.
    """

    n_yes: int
    n_no: int
    invalid_yes: int
    invalid_no: int
    accuracy_yes: float
    accuracy_no: float
    balanced_accuracy: float
    accuracy: float
    yes_rate: float
    yes_bias: float
    reason: str
    provenance: Provenance

    def __str__(self) -> str:
        invalid = self.invalid_yes + self.invalid_no
        return (
            f"balanced accuracy {self.balanced_accuracy:.3f} ({self.accuracy_yes:.2f} of "
            f"{self.n_yes} where yes is right, {self.accuracy_no:.2f} of {self.n_no} where no is), "
            f"bias to yes {self.yes_bias:+.2f}, {invalid} invalid. {self.reason}".rstrip()
        )

    def to_records(self) -> list[dict[str, Any]]:
        """One row per polarity."""
        rows = [
            ("yes", self.n_yes, self.invalid_yes, self.accuracy_yes),
            ("no", self.n_no, self.invalid_no, self.accuracy_no),
        ]
        return [
            {"gold": gold, "n": n, "invalid": invalid, "accuracy": accuracy}
            for gold, n, invalid, accuracy in rows
        ]


@result
class HalogenScores(Result):
    """HALoGEN's three scores of one model on one task.

    Attributes:
        task: The task.
        hallucination_score: Mean h over answered prompts; h = false atoms / atoms, 0 without any.
        response_ratio: Answered prompts / all.
        utility: Mean utility of a prompt: 1 - h, and 0 where it abstains; in the tasks in which no
            answer can be right, 1 where it abstains and 0 where it answers.
        n: Prompts.
        n_answered: Of them answered.
        reason: Why any of these is NaN; "" where none is.
        provenance: What it takes to compute this again.
    """

    task: str
    hallucination_score: float
    response_ratio: float
    utility: float
    n: int
    n_answered: int
    reason: str
    provenance: Provenance

    def to_records(self) -> list[dict[str, Any]]:
        """One row."""
        names = ("task", "hallucination_score", "response_ratio", "utility", "n", "n_answered")
        return [{name: getattr(self, name) for name in names}]
