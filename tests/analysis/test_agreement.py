"""Agreement of an estimate with the exact effect, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dst.analysis.agreement import RESOLUTION, agreement
from dst.core.path_results import Agreement


def compared(estimate: list[float], exact: list[float], *, signed: bool = True) -> Agreement:
    names = [f"cell {i}" for i in range(len(exact))]
    return agreement(
        "atp",
        np.array(estimate),
        np.array(exact),
        names,
        n_all=9,
        chosen="every cell",
        signed=signed,
    )


def test_worked_by_hand() -> None:
    # Ranks 1 2 3 4 5 against 1 3 2 4 5: rho = 1 - 6 * 2 / (5 * 24).
    found = compared([-2.0, 0.5, 0.1, 1.0, 3.0], [-1.0, 0.2, 0.25, 1.0, 2.0])
    assert found.spearman == pytest.approx(1 - 12 / 120)
    assert (found.n, found.n_all, found.chosen) == (5, 9, "every cell")
    assert found.floor == pytest.approx(0.02)
    assert (found.top_k, found.top_overlap, found.sign_agreement) == (5, 1.0, 1.0)
    assert found.mean_error == pytest.approx((1 + 0.3 + 0.15 + 0 + 1) / 5)
    assert found.worst == ("cell 0", "cell 4", "cell 1", "cell 2", "cell 3")
    np.testing.assert_allclose(found.worst_estimate, [-2, 3, 0.5, 0.1, 1])
    np.testing.assert_allclose(found.worst_exact, [-1, 2, 0.2, 0.25, 1])
    assert found.reason == ""
    assert str(found).startswith("atp against exact patching on 5 of 9 cells: Spearman 0.90, top-5")


def test_only_effects_over_the_floor_have_a_sign_and_a_place_at_the_top() -> None:
    # 1 % of 2 is 0.02: two cells are over it, and the estimate's two largest hold one of them.
    found = compared([1.0, 0.0, -3.0, 0.1], [2.0, 0.5, 0.01, -0.01])
    assert (found.top_k, found.top_overlap) == (2, 0.5)
    assert found.sign_agreement == 0.5  # an estimate of 0 has not the sign of 0.5


def test_more_than_ten_large_cells_are_compared_by_ten() -> None:
    exact = [float(i) for i in range(1, 31)]
    found = compared(exact[:20] + exact[20:][::-1], exact)
    assert (found.top_k, found.top_overlap) == (10, 1.0)
    found = compared(exact[::-1], exact)
    assert found.spearman == pytest.approx(-1.0)
    assert found.top_overlap == 0.0


def test_sizes_are_compared_where_there_is_no_sign() -> None:
    found = compared([1.0, 2.0, 3.0], [-1.0, 2.0, -3.0], signed=False)
    assert found.spearman == pytest.approx(1.0)
    assert found.mean_error == 0.0
    assert np.isnan(found.sign_agreement)
    assert found.reason == "the estimate has no sign"


def test_rounding_has_no_rank() -> None:
    noise = RESOLUTION / 2
    found = compared([1e-30, -noise, 1.0, 0.0], [noise, 0.0, 1.0, -noise])
    assert found.spearman == pytest.approx(1.0)


def test_what_cannot_be_compared_is_undefined_with_a_reason() -> None:
    found = compared([], [])
    assert np.isnan(
        [found.spearman, found.top_overlap, found.sign_agreement, found.mean_error]
    ).all()
    assert "fewer than 3 cells were compared" in found.reason
    assert "no exact effect is over the floor" in found.reason
    found = compared([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])
    assert np.isnan(found.spearman)
    assert found.reason == "the exact effects or the estimates are all equal"
    found = compared([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert np.isnan(found.top_overlap)
    assert found.mean_error == 2.0
