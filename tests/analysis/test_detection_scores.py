"""Detectors' scores: closed forms, hand-worked cases, and the traps of public ports."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon

from dst.analysis import detectors, redeep
from dst.analysis.readout import log_softmax
from dst.core.errors import InputError

LOGITS = arrays(np.float64, (2, 6), elements=st.floats(-20, 20))


def test_probability_and_entropy_of_a_hand_worked_row() -> None:
    log_prob = np.log([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]])
    assert detectors.max_probability(log_prob).tolist() == pytest.approx([0.5, 1 / 3])
    assert detectors.entropy(log_prob).tolist() == pytest.approx([1.5 * math.log(2), math.log(3)])


# -- Jensen-Shannon, DoLa ------------------------------------------------------------------------


@given(LOGITS)
def test_js_divergence_is_scipys(logits: np.ndarray) -> None:
    p, q = log_softmax(logits)
    ours = detectors.js_divergence(p, q)
    assert ours == pytest.approx(jensenshannon(np.exp(p), np.exp(q)) ** 2, abs=1e-7)
    assert ours == pytest.approx(detectors.js_divergence(q, p), abs=1e-12)
    assert 0 <= ours <= math.log(2)


def test_js_divergence_at_its_ends() -> None:
    with np.errstate(divide="ignore"):
        p, q = np.log([1.0, 0.0]), np.log([0.0, 1.0])  # -inf is a probability of 0
    assert detectors.js_divergence(p, q) == pytest.approx(math.log(2))
    assert detectors.js_divergence(p, p) == 0


def test_reversed_arguments_would_be_another_number() -> None:
    # KL(m || p) + KL(m || q), as in public ports, is not bounded by ln 2.
    p, q = np.log([1 - 1e-9, 1e-9]), np.log([1e-9, 1 - 1e-9])
    m = np.log((np.exp(p) + np.exp(q)) / 2)
    reverse = sum(float(np.exp(m) @ (m - side)) for side in (p, q)) / 2
    assert reverse > 9
    assert detectors.js_divergence(p, q) == pytest.approx(math.log(2), abs=1e-6)


def test_dola_takes_the_layer_that_differs_most() -> None:
    log_prob = np.log([[0.5, 0.5], [0.1, 0.9], [0.4, 0.6], [0.9, 0.1]])
    found = detectors.dola(log_prob)
    assert found.premature == 1
    assert found.score == pytest.approx(detectors.js_divergence(log_prob[1], log_prob[3]))
    assert math.isnan(found.divergence[3])
    some = detectors.dola(log_prob, np.array([0, 2]))
    assert some.premature == 0 if some.divergence[0] > some.divergence[2] else 2
    assert math.isnan(some.divergence[1])
    for candidates in ([3], [-1], []):
        with pytest.raises(InputError, match="states from 0 to 2"):
            detectors.dola(log_prob, np.array(candidates))


def test_dola_contrasts_only_what_is_plausible() -> None:
    log_prob = np.log([[0.2, 0.7, 0.1], [0.6, 0.35, 0.05]])
    ratio = detectors.dola_log_ratio(log_prob, 0)
    assert ratio[:2].tolist() == pytest.approx([math.log(3), math.log(0.5)])
    assert ratio[2] == -math.inf  # .05 < .1 * .6


# -- attention -----------------------------------------------------------------------------------


def test_lookback_by_hand() -> None:
    # Context .3 and .1, mean .2; the rest .6, mean .6
    pattern = np.array([[0.3, 0.1, 0.6], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    context = np.array([True, True, False])
    found = detectors.lookback_ratio(pattern, context)
    assert found.tolist() == pytest.approx([0.25, 1, 0])
    assert math.isnan(detectors.lookback_ratio(np.zeros((1, 3)), context)[0])


def test_lookback_does_not_grow_with_the_length_of_the_context() -> None:
    # Uniform attention is 1/2, however long the context: means, not sums.
    for n in (1, 5, 30):
        pattern = np.full((2, 3, 40), 1 / 40)
        found = detectors.lookback_ratio(pattern, np.arange(40) < n)
        assert found == pytest.approx(np.full((2, 3), 0.5))


def test_lookback_needs_both_sides() -> None:
    pattern, none = np.full(3, 1 / 3), np.zeros(3, dtype=bool)
    for context, rest in ((none, None), (~none, None), (~none, ~none)):
        with pytest.raises(InputError, match="at least one of each"):
            detectors.lookback_ratio(pattern, context, rest)


def test_ecs_reads_the_most_attended_tokens_of_the_context() -> None:
    states = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [5.0, -5.0]])
    context = np.array([True, True, True, False])
    pattern = np.array([[0.1, 0.5, 0.2, 0.9], [0.6, 0.1, 0.2, 0.9]])
    found = redeep.redeep_ecs(pattern, states, np.array([1.0, 0.0]), context)
    assert found.tolist() == pytest.approx([0, 1])  # one token: 10 % of three, at least one
    both = redeep.redeep_ecs(pattern, states, np.array([1.0, 0.0]), context, share=0.67)
    # Means of tokens 1, 2 and of 0, 2
    assert both.tolist() == pytest.approx([0.5 / math.hypot(0.5, 1), 1 / math.hypot(1, 0.5)])
    with pytest.raises(InputError, match="0 keys"):
        redeep.redeep_ecs(pattern, states, states[0], np.zeros(4, dtype=bool))


def test_pks_is_what_the_mlp_moves() -> None:
    before = np.log([[0.5, 0.5], [0.9, 0.1]])
    after = np.log([[0.5, 0.5], [0.1, 0.9]])
    found = redeep.redeep_pks(before, after)
    assert found[0] == pytest.approx(0, abs=1e-12)
    assert found[1] == pytest.approx(jensenshannon([0.9, 0.1], [0.1, 0.9]) ** 2)


def planted_redeep(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Head (1, 2) falls and layer 3 rises with errors; all else is noise."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.4).astype(float)
    ecs, pks = rng.normal(size=(n, 4, 3)), rng.normal(size=(n, 4))
    ecs[:, 1, 2] -= 2 * label
    pks[:, 3] += 2 * label
    return ecs, pks, label


def test_redeep_chooses_on_one_set_and_scores_another() -> None:
    ecs, pks, label = planted_redeep(200, 0)
    chosen = redeep.redeep_select(ecs, pks, label, n_heads=1, n_layers=1)
    assert chosen.heads.tolist() == [[1, 2]]
    assert chosen.layers.tolist() == [3]
    ecs, pks, label = planted_redeep(200, 1)
    score = redeep.redeep_score(ecs, pks, chosen)
    assert score[label == 1].mean() - score[label == 0].mean() > 2
    # The scale is of the development cases: a case alone scores as among others.
    assert redeep.redeep_score(ecs[:1], pks[:1], chosen)[0] == pytest.approx(score[0])


def test_choosing_on_noise_finds_nothing_elsewhere() -> None:
    rng = np.random.default_rng(2)
    ecs, pks = rng.normal(size=(2, 60, 8, 8)), rng.normal(size=(2, 60, 8))
    label = rng.permuted(np.repeat([0.0, 1.0], 30))
    chosen = redeep.redeep_select(ecs[0], pks[0], label)

    def gap(i: int) -> float:
        score = redeep.redeep_score(ecs[i], pks[i], chosen)
        return score[label == 1].mean() - score[label == 0].mean()

    assert gap(0) > 1  # what scoring the development cases themselves would report
    assert abs(gap(1)) < gap(0) / 2


def test_redeep_needs_two_classes_and_enough_heads() -> None:
    ecs, pks, label = planted_redeep(20, 0)
    with pytest.raises(InputError, match="one class"):
        redeep.redeep_select(ecs, pks, np.ones(20))
    with pytest.raises(InputError, match="13 heads"):
        redeep.redeep_select(ecs, pks, label, n_heads=13)


# -- semantic entropy ----------------------------------------------------------------------------


def test_semantic_entropy_of_counts_is_their_entropy() -> None:
    found = detectors.semantic_entropy(["a", "a", "b", "c"])
    assert found == pytest.approx(scipy.special.entr([0.5, 0.25, 0.25]).sum())
    assert detectors.semantic_entropy(["a", "a"]) == 0


def test_semantic_entropy_sums_the_answers_of_a_meaning() -> None:
    # Meanings a (.3 + .2) and b (.1): - (2 log .5 + log .1) / 3
    log_p = np.log([0.3, 0.2, 0.1])
    found = detectors.semantic_entropy(["a", "a", "b"], log_p)
    assert found == pytest.approx(-(2 * math.log(0.5) + math.log(0.1)) / 3)
    share = detectors.semantic_entropy(["a", "a", "b"], log_p, normalise=True)
    assert share == pytest.approx(-(2 * math.log(5 / 6) + math.log(1 / 6)) / 3)


def test_an_answer_sampled_twice_has_one_probability() -> None:
    log_p = np.log([0.3, 0.3, 0.1])
    found = detectors.semantic_entropy(["a", "a", "b"], log_p)
    assert found == pytest.approx(-(2 * math.log(0.3) + math.log(0.1)) / 3)
    # Two different answers that happen to be as likely
    apart = detectors.semantic_entropy(["a", "a", "b"], log_p, texts=["x", "y", "z"])
    assert apart == pytest.approx(-(2 * math.log(0.6) + math.log(0.1)) / 3)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-30, -1)), min_size=1, max_size=8))
def test_semantic_entropy_knows_neither_order_nor_names(samples: list) -> None:
    meanings, log_p = [m for m, _ in samples], np.array([p for _, p in samples])
    for normalise in (True, False):
        found = detectors.semantic_entropy(meanings, log_p, normalise=normalise)
        again = detectors.semantic_entropy(
            [f"class {m}" for m in meanings[::-1]], log_p[::-1], normalise=normalise
        )
        assert again == pytest.approx(found, abs=1e-9)
    assert detectors.semantic_entropy(meanings, log_p, normalise=True) >= 0


def test_no_samples_have_no_entropy() -> None:
    with pytest.raises(InputError, match="above 0"):
        detectors.semantic_entropy([])
    with pytest.raises(InputError, match=r"lengths \[1, 2\]"):
        detectors.semantic_entropy(["a"], np.zeros(2))


def test_every_detector_is_described() -> None:
    for name, definition in detectors.DETECTORS.items():
        assert definition.says.endswith(".")
        assert definition.unit
        assert definition.source
        assert any(hasattr(m, name) for m in (detectors, redeep)) or name in {
            "dola_divergence",
            "linear_probe",
        }
