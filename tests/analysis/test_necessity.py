"""Which word is cue and which subject, on effects worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dst.analysis.necessity import (
    choose,
    choose_subject,
    excess,
    further_cues,
    promising,
    threshold,
)

SPREAD = np.array([-0.3, -0.1, 0.1, 0.3])
"""Four draws around a mean; s = sqrt(.2/3) = .2582."""


def table(*means: float) -> np.ndarray:
    return np.array([m + SPREAD for m in means])


def test_excess_is_the_distance_from_neutral_words_in_their_own_spread() -> None:
    """1 / (sqrt(.2/3) sqrt(1 + 1/4)) = 1 / .288675 = 2 sqrt 3."""
    assert excess(1 + SPREAD) == pytest.approx(2 * math.sqrt(3))
    assert excess(-1 + SPREAD) == pytest.approx(-2 * math.sqrt(3))
    assert excess(np.array([1.0, np.nan, 1.0])) == math.inf
    assert excess(np.array([0.04, 0.04])) == 0  # under the floor
    assert math.isnan(excess(np.array([3.0, np.nan])))


def test_the_threshold_is_student_s_t_shared_by_the_words_tried() -> None:
    assert threshold(4, 5) == pytest.approx(stats.t.ppf(0.99, 3))
    assert threshold(4, 5, level=0.5) == pytest.approx(stats.t.ppf(0.9, 3))
    assert math.isnan(threshold(1, 5))


def test_a_word_like_any_other_stands_out_at_the_stated_rate() -> None:
    """The word and its neutral replacements from one distribution; 12 words, 9 draws."""
    rng = np.random.default_rng(0)
    n, n_words, level = 4000, 12, 0.2
    hits = 0
    for _ in range(n):
        own, neutral = rng.normal(size=n_words), rng.normal(size=(n_words, 9))
        found = choose(
            own[:, None] - neutral, range(n_words), [True] * n_words, tried=n_words, level=level
        )
        hits += found.word >= 0
    expected = 1 - (1 - level / n_words) ** n_words
    assert hits / n == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / n))


def test_a_few_draws_leave_a_word_in_as_long_as_it_may_stand_out() -> None:
    assert promising(0.4 + SPREAD)  # .4 / .2887 = 1.39
    assert not promising(0.2 + SPREAD)
    assert not promising(-2 + SPREAD)
    assert promising(np.array([0.1, np.nan]))


def pick(effect: np.ndarray, places: Sequence[int], **how: Any) -> Any:
    return choose(effect, places, [True] * len(effect), tried=len(effect), **how)


def test_the_largest_is_chosen_and_of_equals_the_first_in_the_prompt() -> None:
    assert pick(table(5, 3, 0), [0, 1, 2]) == (0, ())
    assert pick(table(5, 5.2, 0), [7, 4, 2]) == (1, (0,))
    assert pick(table(5, 5.2, 0), [4, 7, 2]) == (0, (1,))
    # 4.6 is outside the interval of 5.2 (+-.41), and the two intervals still meet.
    assert pick(table(4.6, 5.2), [0, 1]) == (1, (0,))


def test_what_does_not_stand_out_is_not_chosen() -> None:
    assert pick(table(0.5, 0.3), [0, 1]).word == -1
    assert pick(table(-5, 0), [0, 1]).word == -1
    assert choose(table(5, 0), [0, 1], [False, True], tried=2).word == -1


def test_that_there_is_one_being_sure_the_mean_over_draws_has_to_be_above_zero() -> None:
    """.5: excess 1.73; mean / (s / sqrt 4) = 3.87 against t = 3.18."""
    assert pick(table(0.5, 0.0), [0, 1]).word == -1
    assert pick(table(0.5, 0.0), [0, 1], sure=True).word == 0


def pair(
    necessity: np.ndarray,
    own: np.ndarray,
    *,
    first: Sequence[int] = (0, 1, 2, 3),
    last: Sequence[int] | None = None,
    mentions: Sequence[int] | None = None,
    asked: Sequence[int] = (),
    fixed: bool = False,
) -> Any:
    n = len(own)
    own = np.where(np.arange(n)[:, None] == 0, np.nan, own)  # word 0 is the cue
    return choose_subject(
        necessity, own, 0, first[:n], (last or first)[:n], (mentions or [1] * n)[:n],
        [False] + [True] * (n - 1), asked=[i in asked for i in range(n)], tried=n - 1, fixed=fixed,
    )  # fmt: skip


def test_the_subject_brings_the_associative_answer_by_itself() -> None:
    """Additive: N = P = -3 at the subject, nothing elsewhere."""
    found = pair(table(5, -3, 0), table(0, -3, 0))
    assert (found.cue, found.subject.word, found.kind) == (0, 1, "conflict")


def test_a_relay_of_the_cue_brings_nothing_and_is_no_subject() -> None:
    """Word 1 carries the whole cue (I = 5) and brings nothing; word 2 brings -3."""
    exact = np.array([[5.0], [5.0], [-3.0]]) + np.zeros(4)
    own = np.array([[0.0], [0.0], [-3.0]]) + np.zeros(4)
    assert pair(exact, own).subject.word == 2


def test_the_subject_is_where_the_cue_works() -> None:
    """N(subject) = 3 although it brings -2: without it the cue has nothing to work on."""
    found = pair(table(6, 3, 1), table(0, -2, -0.4))
    assert (found.subject.word, found.kind) == (1, "conflict")


def test_what_points_the_other_way_elsewhere_is_no_subject() -> None:
    """Word 1 pushes to A- (-2), earlier and named once; word 2 (I = 3, P = -.6) is named thrice."""
    necessity, own = table(5, -2, 2.4), table(0, -2, -0.6)
    found = pair(necessity, own, last=[2, 1, 9], mentions=[1, 1, 3])
    assert found.subject.word == 2
    assert pair(necessity, own, last=[2, 1, 9], mentions=[1, 3, 3]).subject.word == 1


def test_what_the_prompt_asks_about_is_the_subject() -> None:
    """Word 1 brings more (-3), word 2 less (-1): asked about it is the subject, conflict or not."""
    necessity, own = table(5, -3, 0.5), table(0, -3, -1)
    assert pair(necessity, own).subject.word == 1
    found = pair(necessity, own, asked=[2])
    assert (found.subject.word, found.kind) == (2, "conflict")


def test_what_is_asked_about_is_the_subject_though_draws_do_not_tell_it_from_zero() -> None:
    noise = np.array([0.5, -0.5, 0.4, -0.4])
    necessity = np.array([[5.0] * 4, [-3.0] * 4, noise])
    found = pair(necessity, np.array([[0.0] * 4, [-3.0] * 4, noise / 2]), asked=[2])
    assert (found.cue, found.subject.word, found.kind) == (0, 2, "asked")


def test_without_conflict_the_one_named_last_is_the_subject() -> None:
    necessity, own = table(4, 2.5, 0), table(0, 0.8, 0)
    found = pair(necessity, own, first=[0, 1, 2], last=[3, 9, 2])
    assert (found.cue, found.subject.word, found.kind) == (0, 1, "agreement")
    found = pair(necessity, own, first=[0, 1, 2], last=[9, 3, 2])
    assert (found.cue, found.subject.word, found.kind) == (1, 0, "agreement")
    found = pair(necessity, own, first=[0, 1, 2], last=[9, 3, 2], fixed=True)
    assert (found.cue, found.subject.word, found.kind) == (0, -1, "")


def test_no_subject_where_nothing_else_moves() -> None:
    found = pair(table(5, 0.05, 0), table(0, 0.02, 0))
    assert (found.cue, found.subject.word, found.kind) == (0, -1, "")


def test_a_second_cue_says_the_same_once_the_first_is_gone() -> None:
    """P = 3 is at least half of N(c) = 5; P = 2 is not."""
    necessity, own = table(5, 3, 2, -3), table(0, 3, 2, -3)
    found = pair(necessity, own)
    assert found.subject.word == 3
    own[0] = np.nan
    assert further_cues(necessity, own, found, [False, True, True, True]) == (1,)
