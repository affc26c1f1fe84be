"""What counts as a hallucination, in closed form and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from dst.analysis.labels import (
    halogen_scores,
    matches,
    multiple_choice,
    normalised,
    outcome_of_contrast,
    sampled_rate,
    yes_no_report,
)
from dst.core.errors import InputError


def test_the_sign_of_the_contrast() -> None:
    assert [outcome_of_contrast(x) for x in (0.1, -0.1, 0.0, math.nan)] == [
        "correct",
        "hallucination",
        "neither",
        "neither",
    ]


def test_a_rate_counts_invalid_samples_apart() -> None:
    rate = sampled_rate(5, 10, 20)
    assert (rate.rate, rate.invalid_rate, rate.rate_of_valid) == (0.25, 0.25, 1 / 3)
    # Wilson's interval solves |p - 1/4| = z sqrt(p (1 - p) / 20).
    for p in (rate.low, rate.high):
        assert abs(p - 0.25) == pytest.approx(1.959963984540054 * math.sqrt(p * (1 - p) / 20))
    assert math.isnan(sampled_rate(0, 0, 20).rate_of_valid)
    with pytest.raises(InputError, match="no rate"):
        sampled_rate(15, 10, 20)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The Eiffel-Tower, in  Paris!", "eiffeltower in paris"),
        ("an apple a day", "apple day"),
        ("Another theory", "another theory"),
        ("\u201cYes\u201d\u2026", "yes"),
        ("the", ""),
    ],
)
def test_normalised_as_in_squad(text: str, plain: str) -> None:
    assert normalised(text) == plain


@pytest.mark.parametrize(
    ("text", "golds", "exact", "starts", "contains"),
    [
        ("Paris.", ["paris"], True, True, True),
        ("Paris is in France", ["Paris"], False, True, True),
        ("It is Paris", ["Paris"], False, False, True),
        ("Parisian", ["Paris"], False, False, False),
        ("New York City", ["London", "New York"], False, True, True),
        ("", [""], False, False, False),
        ("the", ["a"], False, False, False),
    ],
)
def test_matching(text: str, golds: list[str], exact: bool, starts: bool, contains: bool) -> None:
    found = [matches(text, golds, how) for how in ("exact", "starts", "contains")]
    assert found == [exact, starts, contains]
    with pytest.raises(InputError, match="exact, starts or contains"):
        matches(text, golds, "fuzzy")  # type: ignore[arg-type]


def test_multiple_choice_by_hand() -> None:
    log_prob = np.log([0.2, 0.1, 0.3, 0.15])
    right = np.array([True, True, False, False])
    score = multiple_choice(log_prob, right)
    assert score.mc1 == 0.0  # 0.2 < 0.3
    assert score.mc2 == pytest.approx(0.3 / 0.75)
    assert multiple_choice(np.log([0.4, 0.1, 0.3, 0.15]), right).mc1 == 1.0
    # MC1 asks for the best choice, not for any right one.
    assert multiple_choice(np.log([0.2, 0.5, 0.3, 0.15]), right).mc1 == 0.0
    assert multiple_choice(np.log([0.2, 0.5, 0.3, 0.15]), right, best=1).mc1 == 1.0


def test_long_choices_do_not_vanish() -> None:
    log_prob = np.array([-2000.0, -2001.0])
    score = multiple_choice(log_prob, np.array([True, False]))
    assert score.mc2 == pytest.approx(1 / (1 + math.exp(-1)))
    for right, best in (([True, True], 0), ([False, False], 0), ([True, False], 1)):
        with pytest.raises(InputError):
            multiple_choice(log_prob, np.array(right), best)


ANSWERS = st.lists(
    st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(["yes", "no", "invalid"])),
    min_size=1,
    max_size=40,
)


@given(ANSWERS)
def test_the_yes_no_report_agrees_with_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    gold, said = zip(*pairs, strict=True)
    report = yes_no_report(gold, said)
    valid = [(g, a) for g, a in pairs if a != "invalid"]
    assert report.n_yes + report.n_no == len(pairs)
    assert report.invalid_yes + report.invalid_no == len(pairs) - len(valid)
    if not valid:
        assert math.isnan(report.accuracy)
        return
    truth, answer = zip(*valid, strict=True)
    assert report.accuracy == pytest.approx(accuracy_score(truth, answer))
    assert report.yes_rate == pytest.approx(answer.count("yes") / len(valid))
    if {*truth} == {"yes", "no"}:
        assert report.reason == ""
        assert report.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, answer))
        rates = [sum(a == "yes" for g, a in valid if g == side) for side in ("yes", "no")]
        shares = [n / truth.count(side) for n, side in zip(rates, ("yes", "no"), strict=True)]
        assert report.yes_bias == pytest.approx(sum(shares) / 2 - 0.5)
    else:
        assert math.isnan(report.balanced_accuracy)
        assert "is right" in report.reason


def test_a_model_that_always_says_yes() -> None:
    report = yes_no_report(["yes"] * 9 + ["no"], ["yes"] * 10)
    assert (report.accuracy, report.balanced_accuracy) == (0.9, 0.5)
    assert (report.yes_bias, report.yes_rate) == (0.5, 1.0)
    assert str(report) == (
        "balanced accuracy 0.500 (1.00 of 9 where yes is right, 0.00 of 1 where no is), bias to "
        "yes +0.50, 0 invalid."
    )
    with pytest.raises(InputError, match="yes or no"):
        yes_no_report(["maybe"], ["yes"])
    with pytest.raises(InputError, match="as many"):
        yes_no_report(["yes"], [])


def test_halogen_scores_by_hand() -> None:
    false, total = np.array([1, 0, 2, 3]), np.array([2, 0, 4, 3])
    answered = np.array([True, True, True, False])
    scores = halogen_scores(false, total, answered, task="code", abstaining_is_right=False)
    assert scores.hallucination_score == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert scores.response_ratio == 0.75
    assert scores.utility == pytest.approx((0.5 + 1 + 0.5 + 0) / 4)
    scores = halogen_scores(false, total, answered, task="references", abstaining_is_right=True)
    assert scores.utility == 0.25
    assert scores.to_records()[0]["n_answered"] == 3


def test_halogen_scores_that_are_undefined_say_why() -> None:
    nobody = halogen_scores(
        np.array([1]), np.array([2]), np.array([False]), task="x", abstaining_is_right=False
    )
    assert math.isnan(nobody.hallucination_score)
    assert (nobody.reason, nobody.utility) == ("No prompt is answered.", 0.0)
    with pytest.raises(InputError, match="more false atoms"):
        halogen_scores(
            np.array([3]), np.array([2]), np.array([True]), task="x", abstaining_is_right=False
        )
