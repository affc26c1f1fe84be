"""Readout of logits against closed forms worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dst.analysis.readout import contrast, entropy, kl_divergence, log_softmax

LOGITS = arrays(np.float64, 6, elements=st.floats(-40, 40))


def test_contrast_of_single_forms_is_a_difference_of_logits() -> None:
    assert contrast(np.array([1.5, -2.0, 7.0]), [0], [1]) == pytest.approx(3.5)


def test_contrast_of_several_forms_by_hand() -> None:
    # exp: 2 and 3 against 4; log(5 / 4)
    logits = np.log([2.0, 3.0, 4.0, 9.0])
    assert contrast(logits, [0, 1], [2]) == pytest.approx(math.log(5 / 4))


@given(LOGITS, st.floats(-100, 100))
def test_contrast_is_the_same_for_logits_log_probabilities_and_a_shift(
    logits: np.ndarray, shift: float
) -> None:
    known = math.log(sum(map(math.exp, logits[:2]))) - math.log(sum(map(math.exp, logits[2:5])))
    for same in (logits, logits + shift, log_softmax(logits)):
        assert contrast(same, [0, 1], [2, 3, 4]) == pytest.approx(known, abs=1e-9)


@given(LOGITS)
def test_contrast_turns_its_sign_with_the_sides(logits: np.ndarray) -> None:
    assert contrast(logits, [0], [1, 2]) == -contrast(logits, [1, 2], [0])


def test_contrast_reads_each_row_and_overflows_nowhere() -> None:
    logits = np.array([[1e4, 0.0], [0.0, 1e4]], dtype=np.float32)
    assert contrast(logits, [0], [1]).tolist() == [1e4, -1e4]


def test_log_softmax_by_hand_and_for_logits_that_exp_cannot_hold() -> None:
    np.testing.assert_allclose(log_softmax(np.log([1.0, 3.0])), np.log([0.25, 0.75]))
    np.testing.assert_allclose(log_softmax(np.array([2000.0, 2000.0])), [-math.log(2)] * 2)


@given(LOGITS)
def test_probabilities_add_up_to_one(logits: np.ndarray) -> None:
    assert np.exp(log_softmax(logits)).sum() == pytest.approx(1)


def test_entropy_by_hand() -> None:
    assert entropy(np.log(np.full(7, 1 / 7))) == pytest.approx(math.log(7))
    assert entropy(log_softmax(np.array([900.0, 0.0]))) == pytest.approx(0)
    # 1/2, 1/4, 1/4: 1/2 log 2 + 2 * 1/4 log 4 = 3/2 log 2
    assert entropy(np.log([0.5, 0.25, 0.25])) == pytest.approx(1.5 * math.log(2))


def test_divergence_by_hand_row_by_row() -> None:
    p = np.log([0.5, 0.5])
    q = np.log([[0.5, 0.5], [0.25, 0.75]])
    # KL = 1/2 log 2 + 1/2 log(2/3)
    known = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    np.testing.assert_allclose(kl_divergence(p, q), [0, known], atol=1e-15)


@given(LOGITS, LOGITS)
def test_divergence_is_no_less_than_zero_and_zero_from_itself(a: np.ndarray, b: np.ndarray) -> None:
    p, q = log_softmax(a), log_softmax(b)
    assert kl_divergence(p, q) >= 0
    assert kl_divergence(p, p) == 0
    # Pinsker: KL >= 2 TV^2
    variation = 0.5 * np.abs(np.exp(p) - np.exp(q)).sum()
    assert kl_divergence(p, q) >= 2 * variation**2 - 1e-12
