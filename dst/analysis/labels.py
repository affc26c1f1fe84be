"""What counts as a hallucination, as formulas on numbers and texts (METHOD 8)."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from dst.analysis.proportion import wilson
from dst.core.errors import InputError
from dst.core.label_results import HalogenScores, YesNoReport
from dst.core.results import Provenance

Match = Literal["exact", "starts", "contains"]


def outcome_of_contrast(contrast: float) -> str:
    """``correct`` where LD > 0, ``hallucination`` where LD < 0, ``neither`` at 0; LD in logits.

    It forces a choice between the two answers, however unlikely both are.
    """
    return "correct" if contrast > 0 else "hallucination" if contrast < 0 else "neither"


class SampledRate(NamedTuple):
    """A share of hallucinations among samples, with its binomial interval.

    Attributes:
        rate: Hallucinations / samples.
        low: Lower end of Wilson's 95 % interval.
        high: Its upper end.
        invalid_rate: Samples that are neither answer / samples.
        rate_of_valid: Hallucinations / samples that are one of the answers; NaN without any.
    """

    rate: float
    low: float
    high: float
    invalid_rate: float
    rate_of_valid: float


def sampled_rate(n_hallucination: int, n_correct: int, n_samples: int) -> SampledRate:
    """The rate of hallucination of one prompt from K samples at temperature 1.

    Invalid samples count in the denominator of ``rate`` and are told apart in ``invalid_rate``.

    Raises:
        InputError: The counts do not add up to at most ``n_samples``, or that is no sample.
    """
    valid = n_hallucination + n_correct
    if n_samples < 1 or min(n_hallucination, n_correct) < 0 or valid > n_samples:
        raise InputError(
            f"{n_hallucination} and {n_correct} of {n_samples} samples are no rate",
            expected="counts from 0 that add up to at most the samples",
        )
    low, high = wilson(n_hallucination, n_samples)
    return SampledRate(
        rate=n_hallucination / n_samples,
        low=low,
        high=high,
        invalid_rate=1 - valid / n_samples,
        rate_of_valid=n_hallucination / valid if valid else math.nan,
    )


def normalised(text: str) -> str:
    """Text for comparing answers: lower case, no punctuation, no articles, single spaces.

    Source: Rajpurkar et al. (2016), SQuAD's evaluation.
    """
    bare = "".join(c for c in text.casefold() if c not in _PUNCTUATION)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", bare).split())


_PUNCTUATION = frozenset(string.punctuation + "\u2018\u2019\u201c\u201d\u2013\u2014\u2026")


def matches(text: str, golds: Sequence[str], how: Match = "starts") -> bool:
    """Whether an answer says any of some golds, both `normalised`, whole words only.

    Args:
        text: What was generated.
        golds: Forms of the answer. One that normalises to nothing never matches.
        how: ``exact``: the text is the gold; ``starts``: it begins with it, for a model that goes
            on talking; ``contains``: it stands anywhere in it.

    Raises:
        InputError: ``how`` is none of the three.
    """
    check_match(how)
    said = normalised(text)
    wanted = [form for form in map(normalised, golds) if form]
    if how == "exact":
        return said in wanted
    if how == "starts":
        return any(f"{said} ".startswith(f"{form} ") for form in wanted)
    return any(f" {form} " in f" {said} " for form in wanted)


def check_match(how: str) -> None:
    """Refuse a way of matching that there is not.

    Raises:
        InputError: It is none of exact, starts and contains.
    """
    if how not in ("exact", "starts", "contains"):
        raise InputError(f"match is {how!r}", expected="exact, starts or contains")


class MultipleChoice(NamedTuple):
    """TruthfulQA's scores of one question.

    Attributes:
        mc1: 1 where the best right choice is likelier than every wrong one, else 0.
        mc2: Probability of the right choices / of all.
    """

    mc1: float
    mc2: float


def multiple_choice(
    log_prob: Float[np.ndarray, " choice"], right: Bool[np.ndarray, " choice"], best: int = 0
) -> MultipleChoice:
    """Official multiple-choice scores from the choices' whole log-probabilities, in nats.

    MC1 = [log p(best) > max over wrong of log p]; MC2 = sum over right of p / sum over all of p.
    Computed on logarithms, so that long choices do not vanish. Source: Lin et al. (2022).

    Raises:
        InputError: There is no right or no wrong choice, or the best one is not right.
    """
    if not right.any() or right.all():
        raise InputError("A question needs a right and a wrong choice", do="Leave it out")
    if not right[best]:
        raise InputError(f"The best choice, {best}, is a wrong one", expected="a right one")
    plus, minus = (np.logaddexp.reduce(log_prob[side]) for side in (right, ~right))
    return MultipleChoice(
        mc1=float(log_prob[best] > log_prob[~right].max()),
        mc2=float(np.exp(plus - np.logaddexp(plus, minus))),
    )


def yes_no_report(
    gold: Sequence[str], answer: Sequence[str], provenance: Provenance | None = None
) -> YesNoReport:
    """How yes/no questions are answered, by what is right; invalid answers are counted apart.

    Args:
        gold: ``yes`` or ``no`` per question.
        answer: ``yes``, ``no``, or anything else for an invalid answer.
        provenance: Of the answers.

    Raises:
        InputError: Unequal lengths, or a gold answer that is neither yes nor no.
    """
    if len(gold) != len(answer):
        raise InputError(f"{len(gold)} right answers for {len(answer)} answers", expected="as many")
    if other := [g for g in gold if g not in ("yes", "no")]:
        raise InputError(f"A right answer is {other[0]!r}", expected="yes or no")
    said: dict[str, list[str]] = {
        side: [a for g, a in zip(gold, answer, strict=True) if g == side] for side in ("yes", "no")
    }
    valid = {side: [a for a in said[side] if a in ("yes", "no")] for side in said}
    hits = {side: sum(a == side for a in valid[side]) for side in said}
    accuracy = {side: _share(hits[side], len(valid[side])) for side in said}
    n_valid = len(valid["yes"]) + len(valid["no"])
    n_said_yes = hits["yes"] + len(valid["no"]) - hits["no"]
    missing = [side for side in said if not valid[side]]
    return YesNoReport(
        n_yes=len(said["yes"]),
        n_no=len(said["no"]),
        invalid_yes=len(said["yes"]) - len(valid["yes"]),
        invalid_no=len(said["no"]) - len(valid["no"]),
        accuracy_yes=accuracy["yes"],
        accuracy_no=accuracy["no"],
        balanced_accuracy=(accuracy["yes"] + accuracy["no"]) / 2,
        accuracy=_share(hits["yes"] + hits["no"], n_valid),
        yes_rate=_share(n_said_yes, n_valid),
        yes_bias=(accuracy["yes"] - accuracy["no"]) / 2,
        reason="".join(f"No valid answer where {side} is right. " for side in missing).strip(),
        provenance=provenance or Provenance(),
    )


def halogen_scores(
    false: Int[np.ndarray, " prompt"],
    total: Int[np.ndarray, " prompt"],
    answered: Bool[np.ndarray, " prompt"],
    *,
    task: str,
    abstaining_is_right: bool,
    provenance: Provenance | None = None,
) -> HalogenScores:
    """HALoGEN's scores: h = false / total (0 without atoms), averaged over answered prompts.

    Args:
        false: False atoms of each reply.
        total: All its atoms.
        answered: Whether it answers at all.
        task: Its name.
        abstaining_is_right: Of a task in which no answer can be right: utility is then 1 for an
            abstention and 0 for an answer; else 1 - h for an answer and 0 for an abstention.
        provenance: Of the replies.

    Raises:
        InputError: More false atoms than atoms, or a negative count.

    Source: Ravichander et al. (2025), and the benchmark's scorers.
    """
    if (false < 0).any() or (false > total).any():
        raise InputError("A reply has more false atoms than atoms", expected="0 to all of them")
    n, n_answered = len(total), int(answered.sum())
    h = np.divide(false, total, out=np.zeros(n), where=total > 0)
    worth = ~answered if abstaining_is_right else np.where(answered, 1 - h, 0.0)
    reason = "" if n_answered else "No prompt is answered." if n else "There are no prompts."
    return HalogenScores(
        task=task,
        hallucination_score=float(h[answered].mean()) if n_answered else math.nan,
        response_ratio=_share(n_answered, n),
        utility=float(worth.mean()) if n else math.nan,
        n=n,
        n_answered=n_answered,
        reason=reason,
        provenance=provenance or Provenance(),
    )


def _share(count: int, n: int) -> float:
    return count / n if n else math.nan
