"""Necessity, sufficiency and interaction by hand, on y that is known for every set of words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection

import numpy as np
import pytest

from dst.analysis import spans as rules
from dst.analysis.bootstrap import Resampling

FEW = Resampling(n_resamples=400, n_permutations=0, seed=3)
Y = Callable[[Collection[int]], float]  # y by the words that are kept


def joints(y: Y, n: int) -> dict[frozenset[int], float]:
    """G of every set of words of a known y."""
    every = frozenset(range(n))
    out = {}
    for size in range(1, n + 1):
        for some in map(frozenset, itertools.combinations(range(n), size)):
            out[some] = rules.joint(y(every) - y(every - some), y(some) - y(()))
    return out


def both(kept: Collection[int]) -> float:
    """Words 0 and 1 act only together, word 2 by itself."""
    return 4.0 * ({0, 1} <= {*kept}) + 1.5 * (2 in kept)


def either(kept: Collection[int]) -> float:
    """Words 0 and 1 are each enough, word 2 acts by itself."""
    return 4.0 * (0 in kept or 1 in kept) + 1.5 * (2 in kept)


def apart(kept: Collection[int]) -> float:
    """Every word acts by itself, word 3 against the answer."""
    return sum(weight for word, weight in enumerate((4.0, 3.0, 1.5, -2.0)) if word in kept)


@pytest.mark.parametrize("y", [both, either])
def test_words_that_act_together_are_one_span_and_come_first(y: Y) -> None:
    found = rules.ranked(joints(y, 4))
    assert found[0] == {0, 1}
    assert joints(y, 4)[frozenset({0, 1})] == 4.0
    assert [units for units in found if len(units) == 1] == [frozenset({2})]
    assert all(joints(y, 4)[frozenset({i})] == 0 for i in (0, 1, 3))


def test_words_that_act_by_themselves_stay_apart() -> None:
    assert rules.ranked(joints(apart, 4)) == [frozenset({0}), frozenset({1}), frozenset({2})]


def test_no_word_of_a_span_can_be_left_out() -> None:
    """0 and 1 act together; with 2, which does nothing, they are no larger span."""
    value = joints(lambda kept: 4.0 * ({0, 1} <= {*kept}), 3)
    assert rules.gains(frozenset({0, 1, 2}), value) == 0
    assert not rules.is_one_span(frozenset({0, 1, 2}), value)
    assert rules.is_one_span(frozenset({2}), value)


def test_a_word_belongs_from_a_tenth_on() -> None:
    def value(gain: float) -> dict[frozenset[int], float]:
        return {frozenset({0}): 4.0, frozenset({1}): -1.0, frozenset({0, 1}): 4.0 + gain}

    assert rules.is_one_span(frozenset({0, 1}), value(0.45))
    assert not rules.is_one_span(frozenset({0, 1}), value(0.44))


def test_what_is_within_the_floor_explains_nothing() -> None:
    assert rules.ranked({frozenset({0}): 0.049, frozenset({1}): -3.0}) == []


def test_numbers_are_means_over_fills() -> None:
    resampled = np.array([1.0, 2.0, 3.0, np.nan])
    only, nothing = np.array([2.0, 3.0, 1.0, 4.0]), np.array([0.0, 1.0, -1.0, np.nan])
    n = rules.necessity(5.0, resampled, FEW)
    k = rules.kept(only, nothing, FEW)
    share = rules.sufficiency(5.0, only, nothing, FEW)
    assert (n.mean, n.n) == (3.0, 3)
    assert n.low < 3.0 < n.high
    assert (k.mean, k.low, k.high, k.n) == (2.0, 2.0, 2.0, 3)  # every fill says 2: no spread
    assert share.mean == pytest.approx(2.0 / 5.0)


def test_the_interval_is_that_of_the_mean() -> None:
    """Of many normal fills, 1.96 standard errors either way."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=400)
    found = rules.necessity(0.0, y, Resampling(n_resamples=4000, n_permutations=0, seed=0))
    half = 1.96 * y.std() / 20
    assert found.low == pytest.approx(found.mean - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.1 * half)


def test_nothing_measured_is_nan_and_one_fill_has_no_interval() -> None:
    nothing = np.full(3, np.nan)
    assert math.isnan(rules.necessity(1.0, nothing, FEW).mean)
    assert math.isnan(rules.sufficiency(1.0, nothing, nothing, FEW).mean)
    one = rules.necessity(1.0, np.array([0.25, np.nan]), FEW)
    assert one.mean == 0.75
    assert math.isnan(one.low)
    assert math.isnan(rules.joint(math.nan, 1.0))


def test_a_share_of_nothing_is_undefined() -> None:
    """All words together bring 0.01 logits: under the floor."""
    assert math.isnan(rules.sufficiency(1.0, np.ones(4), np.full(4, 0.99), FEW).mean)


def test_effects_of_random_refills_are_the_planted_ones() -> None:
    """All 2^6 refills once: exact for sums, products and either-or."""
    is_kept = np.array(list(itertools.product([False, True], repeat=6)))
    a, b, c, d = is_kept[:, :4].astype(float).T
    y = 1 + 2 * a - 3 * b + 4 * c * d + 5 * np.maximum(a, is_kept[:, 4])
    main, pairs, noise = rules.effects(is_kept, y)
    np.testing.assert_allclose(main, [2 + 2.5, -3, 2, 2, 2.5, 0], atol=1e-9)
    expected = np.zeros((6, 6))
    expected[2, 3] = expected[3, 2] = 4
    expected[0, 4] = expected[4, 0] = -5
    np.testing.assert_allclose(pairs[~np.eye(6, dtype=bool)], expected[~np.eye(6, dtype=bool)],
                               atol=1e-9)  # fmt: skip
    assert np.isnan(np.diag(pairs)).all()
    # What main effects leave: 4 (c - .5)(d - .5) + (-5)(a - .5)(e - .5), sd of 1 and of 1.25.
    assert noise == pytest.approx(4 * np.hypot(1, 1.25) / 8)


def test_the_gain_over_fills_has_an_interval() -> None:
    s, a, b = frozenset({0, 1}), frozenset({0}), frozenset({1})
    lost = {s: np.array([4.0, 6.0]), a: np.array([1.0, 1.0]), b: np.array([0.0, 0.0])}
    gained = {s: np.array([5.0, 5.0]), a: np.array([2.0, 2.0]), b: np.array([-1.0, -1.0])}
    gain = rules.gain_over_fills(s, lost, gained, FEW)
    # G is 5 over both fills; word 0 by itself has 1, word 1 none: each is left with 5 - 1 - 0.
    assert gain.mean == 4.0
    assert gain.low < 4.0


def test_rarity_counts_the_set_itself() -> None:
    assert rules.rarity(2.0, [1.0, 0.5, 3.0]) == 0.5
    assert rules.rarity(2.0, [1.0, 0.5, 0.0]) == 0.25
    assert rules.rarity(2.0, [2.0, math.nan]) == 1.0
    assert math.isnan(rules.rarity(2.0, []))
