"""Separation: closed forms by angle, what a projection leaves, and what is undefined."""

from __future__ import annotations

import numpy as np
import pytest

from dst.analysis.separation import NO_STATE, separation, without
from dst.core.errors import InputError, NumericalError


def at_angle(phi: float, size: float = 1.0) -> np.ndarray:
    return size * np.array([np.cos(phi), np.sin(phi), 0.0])


@pytest.mark.parametrize("phi", [0.0, 0.3, np.pi / 2, np.pi])
def test_of_equal_norms_it_is_twice_the_sine_of_half_the_angle(phi: float) -> None:
    x = np.stack([at_angle(0, 3), at_angle(0, 3)])
    score = separation(x, np.stack([at_angle(0, 3), at_angle(phi, 3)])[None])
    np.testing.assert_allclose(score.value, [0, 2 * np.sin(phi / 2)], atol=1e-12)
    assert score.total == score.value[-1]


def test_draws_are_averaged_and_the_unit_of_the_states_does_not_count() -> None:
    """Distances 3 and 5 from [4, 0]; norms 4, and 5 and 3: mean 4 / ((4 + 4) / 2) = 1."""
    x = np.array([[4.0, 0], [4.0, 0]])
    others = np.array([[[4.0, 3], [4.0, 3]], [[0.0, 3], [0.0, 3]]])
    np.testing.assert_allclose(separation(x, others).value, 1.0)
    np.testing.assert_allclose(separation(1e-7 * x, 1e-7 * others).value, 1.0)


def test_it_is_undefined_without_a_variant_and_without_a_state() -> None:
    zero = np.zeros((2, 3))
    score = separation(zero, np.zeros((0, 2, 3)), name="separation_neutral")
    assert np.isnan(score.value).all()
    assert score.reasons == ("no variant to compare with",) * 2
    score = separation(zero, zero[None])
    assert score.reasons == (NO_STATE,) * 2


def test_wrong_shapes_and_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="draw state d_model"):
        separation(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(NumericalError):
        separation(np.ones((2, 3)), np.full((1, 2, 3), np.nan))


def test_what_is_left_knows_nothing_of_the_directions_and_all_of_the_rest() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(3, 8))
    directions[2] = directions[0] - 2 * directions[1]  # a form that two others span
    states = rng.normal(size=(4, 5, 8))
    left = without(states, directions)
    np.testing.assert_allclose(left @ directions.T, 0, atol=1e-12)
    free = rng.normal(size=8)
    free -= np.linalg.lstsq(directions.T, free, rcond=None)[0] @ directions
    np.testing.assert_allclose(left @ free, states @ free)
    np.testing.assert_array_equal(without(states, np.zeros((0, 8))), states)
