"""Scores against hand-worked values, closed forms, plain second implementations and nulls."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dst.analysis import coherence
from dst.core.errors import InputError, NumericalError
from dst.core.results import Score

# Deviations from the mean of UP are (-3, -1, 1, 3) / 2, squared norm 5; the others' are orders
# of the same four numbers, so that every r is a fraction of 20.
UP = [1.0, 2, 3, 4]
NEAR = [1.0, 3, 2, 4]  # r with UP: (9 - 1 - 1 + 9) / 20 = 4/5
FAR = [2.0, 1, 4, 3]  # r with UP: (3 + 3 + 3 + 3) / 20 = 3/5
ASKEW = [3.0, 1, 4, 2]  # r with UP: (-3 + 3 + 3 - 3) / 20 = 0
DOWN = [4.0, 3, 2, 1]  # r with UP: -1

FINITE = st.floats(-100, 100, allow_subnormal=False).map(lambda x: round(x, 3))


def vectors(*shape: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, shape, elements=FINITE)


def chain(*words: list[float], states: int = 2) -> np.ndarray:
    """[state word d_model], the same at every state."""
    return np.broadcast_to(np.array(words), (states, len(words), len(words[0]))).copy()


def same(score: Score, expected: float | Fraction, state: int = 1) -> None:
    assert score.value[state] == pytest.approx(float(expected), abs=1e-9)


def undefined(score: Score, reason: str, states: slice = slice(None)) -> None:
    assert np.isnan(score.value[states]).all()
    assert all(reason in found for found in score.reasons[states]), score.reasons


# -- DSS as published -----------------------------------------------------------------------


def test_published_dss_is_the_share_of_summed_correlations() -> None:
    score = coherence.dss_published(chain(UP, NEAR), chain(UP, FAR))
    same(score, Fraction(4, 5) / (Fraction(4, 5) + Fraction(3, 5)))
    assert score.total == score.value[-1]
    assert score.unit == "share"
    undefined(score, "published per block", slice(0, 1))


def test_published_dss_agrees_with_numpys_corrcoef() -> None:
    rng = np.random.default_rng(1)
    contextual, associative = rng.normal(size=(5, 4, 30)), rng.normal(size=(5, 3, 30))

    def strength(words: np.ndarray) -> float:
        return sum(abs(np.corrcoef(a, b)[0, 1]) for a, b in pairwise(words))

    score = coherence.dss_published(contextual, associative)
    for state in range(1, 5):
        c, a = strength(contextual[state]), strength(associative[state])
        assert score.value[state] == pytest.approx(c / (c + a + 1e-10), abs=1e-14)


def test_published_dss_keeps_the_small_number_in_the_denominator() -> None:
    # Nearly orthogonal words, r about 1e-10 on both sides: a third, not a half.
    rng = np.random.default_rng(0)
    first, second = (v - v.mean() for v in rng.normal(size=(2, 50)))
    second -= first * (first @ second) / (first @ first)
    tiny = second + 1e-10 * first * np.linalg.norm(second) / np.linalg.norm(first)
    words = chain(list(first), list(tiny))
    value = coherence.dss_published(words, words).total
    assert value == pytest.approx(1 / 3, rel=1e-6)  # 1e-10 has about 1e-16 of rounding


def test_published_dss_of_a_single_word_chain_follows_the_published_code() -> None:
    alone = coherence.dss_published(chain(UP), chain(UP, FAR))
    same(alone, 0)
    assert "the contextual chain has a single word" in alone.note
    other = coherence.dss_published(chain(UP, FAR), chain(UP))
    same(other, 1)
    assert "the associative chain has a single word" in other.note


def test_published_dss_is_undefined_without_pairs_or_words() -> None:
    undefined(coherence.dss_published(chain(UP), chain(FAR)), "one word a chain")
    empty = np.empty((2, 0, 4))
    undefined(coherence.dss_published(empty, chain(UP, FAR)), "no concept words")
    undefined(coherence.dss_published(chain(UP, FAR), empty), "no concept words")


def test_published_dss_is_undefined_for_a_vector_without_spread() -> None:
    flat = chain(UP, [0.1, 0.1, 0.1, 0.1], states=3)
    flat[2, 1] = NEAR
    score = coherence.dss_published(flat, chain(UP, FAR, states=3))
    undefined(score, "no spread", slice(1, 2))
    same(score, Fraction(4, 7), 2)


def test_shortcoming_published_dss_counts_opposite_vectors_as_support() -> None:
    published = coherence.dss_published(chain(UP, DOWN), chain(UP, FAR))
    same(published, Fraction(1) / (1 + Fraction(3, 5)))
    corrected = coherence.dss_corrected(chain(UP, DOWN), chain(UP, FAR), np.zeros((2, 4)))
    same(corrected, 0)


def test_shortcoming_published_dss_favours_the_longer_chain() -> None:
    same(coherence.dss_published(chain(UP, NEAR, UP), chain(UP, NEAR)), Fraction(2, 3))
    mean = coherence.dss_corrected(chain(UP, NEAR, UP), chain(UP, NEAR), np.zeros((2, 4)))
    same(mean, Fraction(1, 2))


def unrelated_words(n: int, shared: float, seed: int) -> Score:
    """Published DSS of n draws, as states: three unrelated words a side, 576 wide.

    To each draw's six words one vector is added, of `shared` times their own variance.
    """
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n + 1, 1, 576)) * np.sqrt(shared)
    words = rng.normal(size=(2, n + 1, 3, 576)) + common
    return coherence.dss_published(words[0], words[1])


def test_shortcoming_published_dss_of_unrelated_words_is_widely_spread() -> None:
    # r of unrelated wide vectors is normal around 0, so DSS is a share of half-normals.
    value = unrelated_words(1500, 0.0, seed=2).value[1:]
    half = np.abs(np.random.default_rng(8).normal(size=(200_000, 4)))
    share = half[:, :2].sum(axis=1) / half.sum(axis=1)
    assert share.std() == pytest.approx(0.19, abs=0.005)
    assert value.mean() == pytest.approx(0.5, abs=4 * share.std() / np.sqrt(len(value)))
    assert value.std() == pytest.approx(share.std(), rel=4 / np.sqrt(2 * len(value)))


@pytest.mark.parametrize("shared", [1.0, 9.0])
def test_shortcoming_a_shared_component_leaves_published_dss_the_ratio_of_pairs(
    shared: float,
) -> None:
    # Large-sample variances and covariances of correlations that all are rho (Olkin and Siotani
    # 1976): of one, of two that share a word, of two that share none.
    rho = shared / (1 + shared)
    one = (1 - rho**2) ** 2
    joined = (2 * rho - rho**2) * (1 - 3 * rho**2) / 2 + rho**3
    apart = 2 * rho**2 * (1 - rho) ** 2
    spread = np.sqrt((one + joined - 2 * apart) / 576) / (4 * rho)  # .015 and .002
    value = unrelated_words(1500, shared, seed=2).value[1:]
    assert value.mean() == pytest.approx(0.5, abs=4 * spread / np.sqrt(len(value)))
    assert value.std() == pytest.approx(spread, rel=4 / np.sqrt(2 * len(value)) + 0.02)


def test_shortcoming_a_shared_component_hides_from_published_dss_what_ours_sees() -> None:
    # Context words correlate by .8, competing words by a normal of SD 1 / sqrt(576).
    rng = np.random.default_rng(3)
    centre = 30 * rng.normal(size=(4, 576))
    root = rng.normal(size=(4, 1, 576))
    contextual = root + 0.5 * rng.normal(size=(4, 3, 576)) + centre[:, None]
    associative = rng.normal(size=(4, 3, 576)) + centre[:, None]
    published = coherence.dss_published(contextual, associative)
    corrected = coherence.dss_corrected(contextual, associative, centre)
    assert np.all(np.abs(published.value[1:] - 0.5) < 0.01)
    assert np.all(corrected.value > 0.8 / (0.8 + 4 / 24))


# -- DSS corrected --------------------------------------------------------------------------


def test_corrected_dss_is_the_share_of_mean_positive_correlations() -> None:
    # Pairs 4/5 and -1 (clipped to 0) on one side: mean 2/5. Pair 3/5 on the other.
    centre = np.array([[0.0] * 4, [7.0, -1, 2, 5]])
    contextual = chain(NEAR, UP, DOWN) + centre[:, None]
    associative = chain(UP, FAR) + centre[:, None]
    score = coherence.dss_corrected(contextual, associative, centre)
    for state in (0, 1):
        same(score, Fraction(2, 5) / (Fraction(2, 5) + Fraction(3, 5)), state)
    assert score.note == "pairs in the prompt: 2 of 2 contextual, 1 of 1 associative"


def test_corrected_dss_leaves_out_pairs_with_a_missing_word() -> None:
    contextual = chain(UP, NEAR, FAR, UP)
    contextual[:, 2] = np.nan
    score = coherence.dss_corrected(contextual, chain(UP, FAR), np.zeros((2, 4)))
    same(score, Fraction(4, 7))
    assert score.note == "pairs in the prompt: 1 of 3 contextual, 1 of 1 associative"


def test_corrected_dss_does_not_bridge_a_missing_word() -> None:
    associative = chain(UP, FAR, NEAR)
    associative[:, 1] = np.nan
    score = coherence.dss_corrected(chain(UP, NEAR), associative, np.zeros((2, 4)))
    undefined(score, "the associative chain has no two neighbouring words in the prompt")


def test_corrected_dss_is_undefined_without_evidence() -> None:
    zeros = np.zeros((2, 4))
    empty = np.empty((2, 0, 4))
    undefined(coherence.dss_corrected(empty, chain(UP, FAR), zeros), "no concept words")
    one = coherence.dss_corrected(chain(UP), chain(UP, FAR), zeros)
    undefined(one, "the contextual chain has no two neighbouring words in the prompt")
    against = coherence.dss_corrected(chain(UP, DOWN), chain(UP, DOWN), zeros)
    undefined(against, "no neighbouring words correlate positively")
    at_centre = coherence.dss_corrected(chain(UP, FAR), chain(UP, FAR), chain(UP)[:, 0])
    undefined(at_centre, "the contextual chain has no two neighbouring words whose vectors differ")


def test_corrected_dss_refuses_a_word_that_is_missing_in_part() -> None:
    contextual = chain(UP, NEAR)
    contextual[1, 0, 2] = np.nan
    with pytest.raises(NumericalError, match="contextual chain is NaN in part"):
        coherence.dss_corrected(contextual, chain(UP, FAR), np.zeros((2, 4)))


@given(vectors(3, 3, 6), vectors(3, 2, 6), vectors(3, 6))
def test_corrected_dss_is_a_share_whose_swap_is_its_complement(
    contextual: np.ndarray, associative: np.ndarray, centre: np.ndarray
) -> None:
    score = coherence.dss_corrected(contextual, associative, centre)
    swapped = coherence.dss_corrected(associative, contextual, centre)
    defined = ~np.isnan(score.value)
    assert np.array_equal(defined, ~np.isnan(swapped.value))
    assert np.all((score.value[defined] >= 0) & (score.value[defined] <= 1))
    assert np.allclose(score.value[defined] + swapped.value[defined], 1, atol=1e-9)


@given(vectors(2, 3, 6), vectors(2, 3, 6), st.floats(0.01, 100), st.floats(-50, 50))
def test_published_dss_ignores_the_scale_and_offset_of_a_word(
    contextual: np.ndarray, associative: np.ndarray, scale: float, offset: float
) -> None:
    # Spreads near nothing leave r to rounding; those are not what this says.
    assume(min(contextual.std(axis=2).min(), associative.std(axis=2).min()) > 0.1)
    moved = contextual.copy()
    moved[:, 1] = scale * moved[:, 1] + offset
    plain = coherence.dss_published(contextual, associative).value[1:]
    assert np.allclose(coherence.dss_published(moved, associative).value[1:], plain, atol=1e-4)
    assert np.all((plain >= 0) & (plain < 1))


# -- DSS* -----------------------------------------------------------------------------------


def flows(contextual: Any, associative: Any, floor: Any = 0.0) -> Score:
    """DSS* of flows that are 0 at the embedding, as flows at i* are."""
    return coherence.dss_causal(np.array([0.0, *contextual]), np.array([0.0, *associative]), floor)


def test_causal_dss_of_planted_strengths_is_alpha_over_alpha_plus_beta() -> None:
    score = flows([0, 0.5, 5], [-1, -3, -3])
    undefined(score, "nothing has arrived", slice(0, 1))
    for state, expected in ((1, Fraction(0)), (2, Fraction(1, 7)), (3, Fraction(5, 8))):
        same(score, expected, state)
    assert score.total == pytest.approx(0.625)


@pytest.mark.parametrize(
    ("contextual", "associative", "value", "word"),
    [
        (2.0, 3.0, 1.0, "no conflict at state 1"),
        (-2.0, -3.0, 0.0, "no support at state 1"),
        (2.0, -2.0, 0.5, ""),
        (0.5, -3.0, Fraction(1, 7), ""),  # one under the floor is still evidence
    ],
)
def test_causal_dss_open_cases_with_a_value(
    contextual: float, associative: float, value: float, word: str
) -> None:
    score = flows([contextual], [associative], 1.0)
    same(score, value)
    assert score.note == word


@pytest.mark.parametrize(
    ("contextual", "associative", "reason"),
    [
        (-2.0, 3.0, "misled by the context"),
        (0.9, -1.0, "nothing has arrived"),
        (-0.5, 3.0, "neither flow pushes toward its own answer"),
        (-3.0, 0.5, "neither flow pushes toward its own answer"),
        (np.nan, -3.0, "the contextual flow is undefined"),
        (2.0, np.nan, "the associative flow is undefined"),
    ],
)
def test_causal_dss_open_cases_without_a_value(
    contextual: float, associative: float, reason: str
) -> None:
    undefined(flows([contextual], [associative], 1.0), reason, slice(1, 2))


def test_causal_dss_takes_one_floor_per_flow() -> None:
    undefined(flows([0.5], [-2.0], (1.0, 3.0)), "nothing has arrived", slice(1, 2))
    same(flows([0.5], [-2.0], (0.1, 3.0)), Fraction(1, 5))
    same(flows([0.5], [-2.0], (1.0, 0.1)), Fraction(1, 5))


def test_causal_dss_notes_every_open_state() -> None:
    score = flows([1, 2, -1], [1, 1, -1])
    assert score.note == "no conflict at states 1, 2; no support at state 3"


@pytest.mark.parametrize("floor", [-1.0, np.nan, (1.0, -2.0), np.inf])
def test_causal_dss_refuses_a_floor_that_is_none(floor: Any) -> None:
    with pytest.raises(InputError, match="one or two numbers of logits"):
        flows([1], [1], floor)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(0, 1e-4))
def test_causal_dss_depends_on_the_ratio_of_strengths_only(
    alpha: float, beta: float, scale: float, floor: float
) -> None:
    value = flows([alpha], [-beta], floor).total
    assert value == pytest.approx(alpha / (alpha + beta))
    assert flows([scale * alpha], [-scale * beta], scale * floor).total == pytest.approx(value)
    assert flows([beta], [-alpha], floor).total == pytest.approx(1 - value)


# -- CAS as published -----------------------------------------------------------------------


def test_published_cas_is_the_share_of_summed_cosines() -> None:
    # h = (3, 4): cosines 3/5 and 4/5 with the axes, 1 with itself.
    resid = np.array([[1.0, 0], [3, 4]])
    score = coherence.cas_published(resid, np.array([[2.0, 0], [0, -7]]), np.array([[6.0, 8]]))
    same(score, (Fraction(3, 5) + Fraction(4, 5)) / (Fraction(7, 5) + 1))
    undefined(score, "published per block", slice(0, 1))
    assert score.note == ""


def test_published_cas_fills_a_zero_denominator_with_a_half_and_says_so() -> None:
    resid = np.array([[1.0, 0, 0], [0, 0, 5], [1, 0, 0], [0, 0, 0]])
    words = np.eye(3)
    score = coherence.cas_published(resid, words[:1], words[1:2])
    assert list(score.value[1:]) == [0.5, 1.0, 0.5]
    assert score.note == "0.5 at states 1, 3 fills a zero denominator, as published"


def test_cas_is_undefined_for_an_empty_list() -> None:
    resid, words, empty = np.ones((2, 3)), np.ones((1, 3)), np.empty((0, 3))
    for cas in (coherence.cas_published, coherence.cas_corrected):
        undefined(cas(resid, empty, words), "no concept words")
        undefined(cas(resid, words, empty), "no concept words")


@pytest.mark.parametrize(("n_c", "n_a"), [(6, 6), (6, 3), (2, 8)])
def test_shortcoming_the_mean_of_published_cas_on_nothing_is_the_share_of_words(
    n_c: int, n_a: int
) -> None:
    # Orthogonal words and an isotropic state: the |cosines| are exchangeable, so the mean share
    # is n_c / (n_c + n_a) exactly, whatever their law. The corrected score has mean 0.
    rng = np.random.default_rng(4)
    states, words = rng.normal(size=(20_000, 40)), np.eye(40)
    value = coherence.cas_published(states, words[:n_c], words[n_c : n_c + n_a]).value[1:]
    error = 4 * value.std() / np.sqrt(len(value))
    assert value.mean() == pytest.approx(n_c / (n_c + n_a), abs=error)
    ours = coherence.cas_corrected(states, words[:n_c], words[n_c : n_c + n_a]).value
    assert ours.mean() == pytest.approx(0, abs=4 * ours.std() / np.sqrt(len(ours)))


def test_shortcoming_published_cas_on_nothing_is_nearly_always_below_its_inversion_threshold() -> (
    None
):
    rng = np.random.default_rng(5)
    states, words = rng.normal(size=(20_000, 576)), np.eye(576)
    value = coherence.cas_published(states, words[:6], words[6:12]).value[1:]
    assert (value < 0.8).mean() == pytest.approx(0.996, abs=0.002)


def test_shortcoming_published_cas_counts_pointing_away_as_support() -> None:
    away = np.array([[-1.0, 0], [-1, 0]])
    axes = np.eye(2)
    same(coherence.cas_published(away, axes[:1], axes[1:]), 1)
    same(coherence.cas_corrected(away, axes[:1], axes[1:]), Fraction(-1, 2))


def test_shortcoming_repeating_the_context_words_moves_published_cas_and_not_ours() -> None:
    rng = np.random.default_rng(6)
    resid, context, competing = rng.normal(size=(3, 8)), rng.normal(size=(2, 8)), np.eye(8)[:2]
    twice = np.concatenate([context, context])
    plain = coherence.cas_published(resid, context, competing).value[1:]
    assert np.all(coherence.cas_published(resid, twice, competing).value[1:] > plain)
    ours = coherence.cas_corrected(resid, context, competing).value
    assert np.allclose(coherence.cas_corrected(resid, twice, competing).value, ours)


@given(vectors(3, 5), vectors(2, 5), vectors(3, 5), st.floats(1e-6, 1e6))
def test_published_cas_is_a_share_whose_swap_is_its_complement(
    resid: np.ndarray, context: np.ndarray, competing: np.ndarray, scale: float
) -> None:
    value = coherence.cas_published(resid, context, competing).value[1:]
    assert np.all((value >= 0) & (value <= 1))
    swapped = coherence.cas_published(resid, competing, context).value[1:]
    assert np.allclose(value + swapped, 1)
    scaled = coherence.cas_published(scale * resid, context, competing).value[1:]
    assert np.allclose(scaled, value)


# -- CAS-prob -------------------------------------------------------------------------------


@given(arrays(np.float64, (4, 9), elements=st.floats(-30, 30)), st.integers(1, 8))
def test_cas_prob_is_the_sigmoid_of_the_difference_of_logsumexps(
    logits: np.ndarray, split: int
) -> None:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    prob = weights / weights.sum(axis=1, keepdims=True)
    context, competing = prob[:, :split].sum(axis=1), prob[:, split:].sum(axis=1)
    score = coherence.cas_prob_published(context, competing)
    lse = np.logaddexp.reduce
    gap = lse(logits[:, :split], axis=1) - lse(logits[:, split:], axis=1)
    assert np.allclose(score.value[1:], 1 / (1 + np.exp(-gap[1:])), atol=1e-12)
    undefined(score, "published per block", slice(0, 1))


def test_cas_prob_without_any_probability_is_undefined() -> None:
    score = coherence.cas_prob_published(np.array([0.1, 0, 0.2]), np.array([0.1, 0, 0.6]))
    undefined(score, "neither list any probability", slice(1, 2))
    same(score, Fraction(1, 4), 2)


@pytest.mark.parametrize("context", [-0.1, 0.8])
def test_cas_prob_refuses_what_is_no_probability(context: float) -> None:
    with pytest.raises(InputError, match="below 0 or sum to more than 1"):
        coherence.cas_prob_published(np.array([0.1, context]), np.array([0.1, 0.3]))


# -- CAS corrected and CAS* -----------------------------------------------------------------


def test_corrected_cas_is_half_the_difference_of_mean_cosines() -> None:
    normed = np.array([[3.0, 4], [3, 4]])
    score = coherence.cas_corrected(normed, np.eye(2)[:1], np.array([[0.0, 5], [6, 8]]))
    expected = (Fraction(3, 5) - (Fraction(4, 5) + 1) / 2) / 2
    for state in (0, 1):
        same(score, expected, state)
    assert score.unit == "1"


def test_corrected_cas_is_undefined_for_zero_vectors() -> None:
    score = coherence.cas_corrected(np.array([[0.0, 0], [1, 0]]), np.eye(2)[:1], np.eye(2)[1:])
    undefined(score, "the normed residual is zero", slice(0, 1))
    same(score, Fraction(1, 2))
    words = np.array([[1.0, 0], [0, 0]])
    undefined(coherence.cas_corrected(np.ones((2, 2)), words, words[:1]), "direction is zero")


@given(vectors(3, 5), vectors(2, 5), vectors(3, 5), st.floats(1e-6, 1e6))
def test_corrected_cas_is_bounded_antisymmetric_and_free_of_scale(
    normed: np.ndarray, context: np.ndarray, competing: np.ndarray, scale: float
) -> None:
    value = coherence.cas_corrected(normed, context, competing).value
    defined = ~np.isnan(value)
    assert np.all(np.abs(value[defined]) <= 1)
    swapped = coherence.cas_corrected(normed, competing, context).value
    assert np.allclose(swapped, -value, equal_nan=True)
    assert np.allclose(
        coherence.cas_corrected(scale * normed, context, competing).value, value, equal_nan=True
    )
    turned = coherence.cas_corrected(-normed, context, competing).value
    assert np.allclose(turned, -value, equal_nan=True)


def test_signed_cas_is_a_sigmoid_less_its_mean_on_the_neutral_draws() -> None:
    log3 = np.log(3)
    z_context = np.array([[0.0, 0], [log3 + 1, log3 - 1]])  # means 0 and log 3
    z_competing = np.array([[0.0], [0]])
    neutral_context = np.array([[[0.0, 0], [0, 0]], [[0, 0], [2 * log3, 0]]])  # means 0, log 3
    neutral_competing = np.zeros((2, 2, 1))
    score = coherence.cas_signed(z_context, z_competing, neutral_context, neutral_competing)
    same(score, 0, 0)
    same(score, Fraction(3, 4) - (Fraction(1, 2) + Fraction(3, 4)) / 2)


def test_signed_cas_is_undefined_where_a_word_has_no_spread_on_any_prompt() -> None:
    z = np.zeros((3, 2))
    hole, neutral = z.copy(), np.zeros((2, 3, 2))
    hole[1, 0], neutral[1, 2, 1] = np.nan, np.nan
    score = coherence.cas_signed(hole, z, np.zeros((2, 3, 2)), neutral)
    assert list(np.isnan(score.value)) == [False, True, True]
    undefined(score, "no spread over the reference", slice(1, 3))


def test_signed_cas_needs_words_and_a_draw() -> None:
    z, draws = np.zeros((2, 1)), np.zeros((1, 2, 1))
    empty, no_draws = np.empty((2, 0)), np.empty((0, 2, 1))
    undefined(coherence.cas_signed(z, empty, draws, draws[:, :, :0]), "no concept words")
    with pytest.raises(InputError, match="no draw of the neutral prompt"):
        coherence.cas_signed(z, z, no_draws, no_draws)


@given(vectors(2, 3), vectors(2, 2), vectors(4, 2, 3), vectors(4, 2, 2))
def test_signed_cas_is_bounded_and_antisymmetric(
    c: np.ndarray, a: np.ndarray, c_neutral: np.ndarray, a_neutral: np.ndarray
) -> None:
    value = coherence.cas_signed(c, a, c_neutral, a_neutral).value
    assert np.all(np.abs(value) <= 1)
    assert np.allclose(coherence.cas_signed(a, c, a_neutral, c_neutral).value, -value)
    itself = coherence.cas_signed(c, a, c[None], a[None])
    assert np.allclose(itself.value, 0)


# -- margin, input --------------------------------------------------------------------------


def test_margin_is_passed_on_in_logits() -> None:
    score = coherence.margin(np.array([0.0, -1.5, 2.5], dtype=np.float32))
    assert list(score.value) == [0.0, -1.5, 2.5]
    assert (score.name, score.unit, score.total) == ("margin", "logits", 2.5)


def test_arrays_that_do_not_fit_are_named() -> None:
    with pytest.raises(InputError, match=r"resid has shape \[3\]; expected axes \[state d_model\]"):
        coherence.cas_published(np.ones(3), np.ones((1, 3)), np.ones((1, 3)))
    with pytest.raises(InputError, match="competing_directions has d_model = 4, but resid has 3"):
        coherence.cas_published(np.ones((2, 3)), np.ones((1, 3)), np.ones((1, 4)))
    with pytest.raises(InputError, match="associative has state = 3, but contextual has 2"):
        coherence.dss_published(np.ones((2, 2, 4)), np.ones((3, 2, 4)))
    with pytest.raises(InputError, match="There are 1 states"):
        coherence.margin(np.ones(1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(bad: float) -> None:
    resid = np.ones((2, 3))
    resid[1, 1] = bad
    with pytest.raises(NumericalError, match="resid holds NaN or infinite values"):
        coherence.cas_published(resid, np.ones((1, 3)), np.ones((1, 3)))


def test_no_input_is_changed() -> None:
    rng = np.random.default_rng(7)
    inputs = rng.normal(size=(3, 2, 4)), rng.normal(size=(3, 2, 4)), rng.normal(size=(3, 4))
    before = [array.copy() for array in inputs]
    contextual, associative, middle = inputs
    coherence.dss_published(contextual, associative)
    coherence.dss_corrected(contextual, associative, middle)
    coherence.cas_published(middle, contextual[0], associative[0])
    coherence.cas_corrected(middle, contextual[0], associative[0])
    for array, copy in zip(inputs, before, strict=True):
        assert np.array_equal(array, copy)


def test_a_score_does_not_share_memory_with_its_input() -> None:
    given = np.zeros(3)
    coherence.margin(given).value[0] = 5
    assert given[0] == 0
