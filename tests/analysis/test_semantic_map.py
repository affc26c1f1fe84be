"""Nodes, tests, shares and path weights: by hand, in fractions, and against plain loops."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from dst.analysis.semantic_map import (
    choose_nodes,
    edge_p,
    edge_shares,
    jaccard,
    path_weights,
    pruned,
    stability,
    top_edges,
)
from dst.core.errors import InputError
from tests.core.test_map_results import by_hand

# -- nodes ------------------------------------------------------------------------------------


def test_the_likeliest_words_are_taken_until_they_hold_the_mass() -> None:
    score = np.log([[0.05, 0.4, 0.2, 0.1, 0.05], [0.01, 0.02, 0.7, 0.01, 0.01]])
    given = np.array([True, False, False, False, False])
    on_words = np.array([0.9, 0.8])
    node, covered = choose_nodes(score, given, on_words, mass=0.75, most=30)
    # Wanted: .675 and .6. The given word holds .05 and .01, then .4 + .2 + .1, and .7.
    assert node.tolist() == [
        [True, True, True, True, False],
        [True, False, True, False, False],
    ]
    np.testing.assert_allclose(covered, [0.75 / 0.9, 0.71 / 0.8])
    capped, _ = choose_nodes(score, given, on_words, mass=0.75, most=1)
    assert capped.tolist() == [[True, True, False, False, False], [True, False, True, False, False]]


def test_nodes_ask_for_a_share_and_a_number() -> None:
    score, given, on_words = np.zeros((1, 2)), np.array([True, False]), np.ones(1)
    for mass in (0.0, 1.5):
        with pytest.raises(InputError, match="a share above 0"):
            choose_nodes(score, given, on_words, mass=mass, most=3)
    with pytest.raises(InputError, match="at least 1"):
        choose_nodes(score, given, on_words, mass=0.9, most=0)


# -- the test of an edge ------------------------------------------------------------------------


def test_p_is_the_rank_among_the_controls_of_all_edges() -> None:
    """The same by a plain loop over edges, controls and their fellows."""
    rng = np.random.default_rng(0)
    effect, control = rng.normal(size=6) * 3, rng.normal(size=(5, 6)) * np.arange(1, 7)
    control += np.arange(6)

    def t(value: float, others: np.ndarray) -> float:
        n = len(others)
        return abs(value - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / n))

    own = [t(effect[e], control[:, e]) for e in range(6)]
    pool = [t(control[j, e], np.delete(control[:, e], j)) for e in range(6) for j in range(5)]
    expected = [(1 + sum(other >= one for other in pool)) / 31 for one in own]
    np.testing.assert_allclose(edge_p(effect, control), expected)


def test_an_edge_that_is_one_more_control_has_a_uniform_p() -> None:
    rng = np.random.default_rng(1)
    spread, mean = rng.lognormal(size=20_000), rng.normal(size=20_000)
    draws = mean + spread * rng.normal(size=(21, 20_000))
    p = edge_p(draws[0], draws[1:])
    for level in (0.001, 0.01, 0.05, 0.5):
        # Judged by 20 controls and compared with controls judged by 19: a hair on the safe side.
        expected = 2 * stats.t.sf(stats.t.isf(level / 2, 18), 19)
        error = np.sqrt(expected * (1 - expected) / 20_000)
        assert abs((p < level).mean() - expected) < 4 * error
        assert 0.85 * level < expected < level


def test_an_effect_beyond_its_controls_has_a_small_p_whatever_its_scale() -> None:
    rng = np.random.default_rng(2)
    control = rng.normal(size=(20, 300)) * np.geomspace(1e-4, 1, 300)
    effect = rng.normal(size=300) * np.geomspace(1e-4, 1, 300)
    effect[0] = 1e-3 * 4  # 40 of its own spreads, though smaller than nearly all others
    p = edge_p(effect, control)
    assert p[0] == 1 / 6001
    assert (p[1:] > p[0]).mean() > 0.98


def test_rounding_is_no_effect() -> None:
    control = np.zeros((20, 3))
    control[:, 2] = np.random.default_rng(0).normal(size=20)
    effect = np.array([0.0, 1e-9, 0.1])
    # Of 60 controls only the 20 of the third edge are further out than nothing at all.
    np.testing.assert_allclose(edge_p(effect, control, floor=1e-6)[:2], [1, 21 / 61])
    assert edge_p(effect, control)[1] == 1 / 61  # without a floor it would be an edge
    with pytest.raises(InputError, match="3 or more"):
        edge_p(np.zeros(2), np.zeros((2, 2)))


# -- what the edges connect ---------------------------------------------------------------------


def test_shares_of_the_edges_sum_to_one() -> None:
    """.5 from song to fish, .25 from song to instrument, .75 from fish to instrument."""
    shares = edge_shares(by_hand())
    assert shares == {
        "contextual": pytest.approx(0.25 / 1.5),
        "associative": 0.0,
        "across": pytest.approx(1.25 / 1.5),
        "other": 0.0,
    }
    assert edge_shares(by_hand(side=("other", "contextual", "associative")))[
        "other"
    ] == pytest.approx(0.5)
    assert edge_shares(by_hand(), "output")["contextual"] == 1.0
    assert all(np.isnan(list(edge_shares(by_hand(rate=0.001)).values())))
    with pytest.raises(InputError, match="no hop '\\+9'"):
        edge_shares(by_hand(), "+9")


def test_path_weights_in_fractions() -> None:
    """Instrument@2 is reached by song@0 (1/4) and fish@1 (3/4); fish@1 by song@0 alone."""
    weights = path_weights(by_hand())
    half, quarter = Fraction(1, 2), Fraction(1, 4)
    song, instrument, fish = 0, 1, 2
    assert weights.node[2, instrument] == weights.node[2, fish] == half
    assert weights.edge[0, 1, fish, instrument] == half * (1 - quarter)
    assert weights.node[1, fish] == half * (1 - quarter)
    assert weights.edge[1, 0, song, instrument] == half * quarter
    assert weights.edge[0, 0, song, fish] == half * (1 - quarter)  # all that arrives at fish@1
    # Both paths of song@0: straight, and over fish@1.
    assert weights.node[0, song] == half
    assert weights.edge.sum() == half * (1 - quarter) * 2 + half * quarter
    assert weights.node[0, fish] == weights.node[1, instrument] == 0


def test_pruning_keeps_what_leads_to_the_answers() -> None:
    found = by_hand()
    assert pruned(found, 0.0).sum() == 3
    left = pruned(found, 0.2)
    assert left.sum() == 2
    assert not left[1].any()
    assert pruned(found, 0.9).sum() == 0
    with pytest.raises(InputError, match="a share from 0 to 1"):
        pruned(found, 2)


def test_an_edge_that_leads_nowhere_has_no_weight() -> None:
    weights = path_weights(by_hand(answer=np.array([True, False, False])))
    assert weights.edge.sum() == 0


# -- stability ----------------------------------------------------------------------------------


def test_the_jaccard_index_of_sets() -> None:
    found = jaccard([{1, 2, 3}, {2, 3, 4}, set()])
    np.testing.assert_allclose(found[:2, :2], [[1, 0.5], [0.5, 1]])
    assert found[0, 2] == 0
    assert np.isnan(found[2, 2])


def test_stability_is_the_mean_over_pairs_of_maps() -> None:
    whole, one, none = by_hand(), by_hand(rate=0.015), by_hand(rate=0.001)
    assert top_edges(whole, 1) == {("fish", "instrument", 1, "+1")}
    assert top_edges(whole, 9, states=False) == {
        *(("song", "fish"), ("song", "instrument"), ("fish", "instrument")),
    }
    assert stability([whole, whole]) == 1
    assert stability([whole, one]) == pytest.approx(1 / 3)
    assert stability([whole, whole, one]) == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert np.isnan(stability([none, none]))
    assert stability([none, none], kept=False) == 1  # the largest effects, kept or not
    with pytest.raises(InputError, match="two or more"):
        stability([whole])
