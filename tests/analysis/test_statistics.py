"""Correlations against SciPy, statsmodels and hand-worked cases; intervals and p by their rules."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dst.analysis.bootstrap import Resampling
from dst.analysis.statistics import (
    correlation,
    indicators,
    leave_one_group_out,
    partial_correlation,
    ranks,
    remove_group_means,
)
from dst.core.errors import InputError
from dst.core.results import open_result
from dst.core.statistics_results import Correlation

FEW = Resampling(n_resamples=500, n_permutations=500)
NONE = Resampling(n_resamples=0, n_permutations=0)
SMALL = st.integers(-3, 3).map(float)  # many ties
COLUMNS = st.integers(3, 12).flatmap(lambda n: arrays(np.float64, (3, n), elements=SMALL))


def clustered(seed: int, n_clusters: int = 30, size: int = 6, share: float = 0.5) -> np.ndarray:
    """Rows (x, y, cluster): x and y unrelated, ``share`` of each one's variance its cluster's."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_clusters), size)
    x, y = (
        math.sqrt(share) * rng.normal(size=n_clusters)[group]
        + math.sqrt(1 - share) * rng.normal(size=len(group))
        for _ in range(2)
    )
    return np.stack([x, y, group])


# -- values -----------------------------------------------------------------------------------


def test_pearson_by_hand() -> None:
    # Deviations (-1, 0, 1) and (-1, 1, 0): 1 / sqrt(2 * 2)
    assert correlation([1, 2, 3], [0, 2, 1], method="pearson").value == pytest.approx(0.5)


def test_spearman_with_a_tie_by_hand() -> None:
    # Ranks (1.5, 1.5, 3) and (1, 2, 3): 1.5 / sqrt(1.5 * 2)
    assert correlation([4, 4, 9], [1, 2, 3]).value == pytest.approx(1.5 / math.sqrt(3))


@given(COLUMNS)
def test_values_are_scipys_ties_included(columns: np.ndarray) -> None:
    x, y = columns[:2]
    for method, theirs in (("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)):
        ours = correlation(x, y, method=method, resampling=NONE)  # type: ignore[arg-type]
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            assert math.isnan(ours.value)
            assert "is constant" in ours.reason
        else:
            assert ours.value == pytest.approx(theirs(x, y)[0], abs=1e-12)


def test_point_biserial_is_scipys() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=50), (rng.random(50) < 0.4).astype(float)
    ours = correlation(x, y, method="point_biserial", resampling=NONE)
    assert ours.value == pytest.approx(scipy.stats.pointbiserialr(y, x)[0])
    with pytest.raises(InputError, match="0 or 1"):
        correlation(x, 2 * y, method="point_biserial")


@given(arrays(np.float64, st.integers(1, 30), elements=SMALL))
def test_ranks_are_scipys(column: np.ndarray) -> None:
    np.testing.assert_array_equal(ranks(column), scipy.stats.rankdata(column))


def test_a_large_offset_costs_no_digits() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40))
    plain, moved = (
        correlation(x + shift, y, method="pearson", resampling=NONE).value for shift in (0, 1e7)
    )
    assert moved == pytest.approx(plain, abs=1e-8)


# -- what does not matter ---------------------------------------------------------------------


def test_the_order_of_rows_changes_no_number() -> None:
    x, y, group = clustered(0, 8, 5)
    x = np.round(x, 1)  # ties
    mixed = np.random.default_rng(5).permutation(len(x))
    for options in ({"clusters": group}, {"strata": group}, {}):
        shuffled = {name: labels[mixed] for name, labels in options.items()}
        first = correlation(x, y, resampling=FEW, **options)
        second = correlation(x[mixed], y[mixed], resampling=FEW, **shuffled)
        assert first.to_records() == second.to_records()


def test_a_monotone_transform_changes_no_rank_statistic() -> None:
    x, y, group = clustered(1, 8, 5)
    first, second = (correlation(a, y, clusters=group, resampling=FEW) for a in (x, np.exp(3 * x)))
    assert first.to_records() == second.to_records()
    pearson = correlation(np.exp(3 * x), y, method="pearson", resampling=NONE).value
    assert pearson != pytest.approx(correlation(x, y, method="pearson", resampling=NONE).value)


def test_the_seed_decides_every_draw() -> None:
    x, y, group = clustered(2)
    once, again = (correlation(x, y, clusters=group, resampling=FEW) for _ in range(2))
    other = correlation(x, y, clusters=group, resampling=Resampling(500, 500, seed=1))
    assert once.to_records() == again.to_records()
    assert once.interval.low != other.interval.low
    assert once.value == other.value


def test_asking_for_no_p_changes_no_interval() -> None:
    x, y, _ = clustered(2)
    first, second = (correlation(x, y, resampling=Resampling(500, n)) for n in (500, 0))
    assert first.interval == second.interval or first.interval.low == second.interval.low
    assert second.p_reason == "no permutations were asked for"


def test_labels_may_be_text_or_tuples() -> None:
    x, y, group = clustered(3, 6, 5)
    text = [f"word {int(g)}" for g in group]
    pairs = [("model", int(g)) for g in group]
    first, second = (correlation(x, y, clusters=g, resampling=FEW) for g in (text, pairs))
    assert first.interval.low == second.interval.low
    assert first.n_clusters == 6


# -- what is undefined ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1, 2], [1, 2], "2 complete rows, fewer than 3"),
        ([1, 1, 1], [1, 2, 3], "the score is constant"),
        ([1, 2, 3], [5, 5, 5], "the outcome is constant"),
        ([0.1 + 0.2, 0.3, 0.3], [1, 2, 3], "the score is constant"),  # but for rounding
        ([1, math.nan, 3], [1, 2, 3], "2 complete rows, fewer than 3"),
        ([], [], "0 complete rows, fewer than 3"),
    ],
)
def test_what_is_undefined_is_nan_with_a_reason(x: list, y: list, reason: str) -> None:
    found = correlation(x, y, resampling=FEW)
    assert math.isnan(found.value)
    assert math.isnan(found.p)
    assert math.isnan(found.interval.low)
    assert found.reason == reason
    assert reason in str(found)


def test_one_cluster_has_a_value_but_no_interval() -> None:
    found = correlation([1, 2, 3, 4], [1, 3, 2, 4], clusters=["a"] * 4, resampling=FEW)
    assert found.value == pytest.approx(0.8)
    assert found.interval.reason == found.percentile.reason == "one cluster"
    assert found.p_reason == "one cluster"


def test_a_perfect_correlation_has_no_interval() -> None:
    found = correlation([1, 2, 3, 4, 5, 6, 7], [2, 4, 6, 8, 10, 12, 14], resampling=FEW)
    assert found.value == pytest.approx(1)
    assert found.interval.reason == "every resample gives the same value"
    assert found.p < 0.02


def test_few_clusters_are_noted() -> None:
    x, y, group = clustered(4, 5, 8)
    assert correlation(x, y, clusters=group, resampling=FEW).note.startswith("5 clusters")
    assert correlation(x, y, resampling=FEW).note == ""


def test_nan_rows_are_dropped_and_counted() -> None:
    x, y, group = clustered(5, 10, 4)
    holes = x.copy()
    holes[group == 3] = math.nan  # a whole cluster, and one row more
    holes[0] = math.nan
    keep = ~np.isnan(holes)
    found = correlation(holes, y, clusters=group, resampling=FEW)
    alone = correlation(x[keep], y[keep], clusters=group[keep], resampling=FEW)
    assert (found.n_dropped, found.n, found.n_clusters) == (5, 35, 9)
    assert (found.value, found.p) == (alone.value, alone.p)
    assert found.interval.low == alone.interval.low


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x": [1.0, math.inf, 2.0]}, "the score holds an infinity"),
        ({"x": [1.0, 2.0]}, "differ in length: the score has 2, the outcome has 3"),
        ({"x": ["a", "b", "c"]}, "the score is not numeric"),
        ({"x": [[1.0], [2.0], [3.0]]}, "the score has 2 axes"),
        ({"clusters": ["a", None, "b"]}, "Row 1 has no label in clusters"),
        ({"clusters": ["a", "b"]}, "clusters has 2"),
        ({"strata": [0.0, 1.0, math.nan]}, "Row 2 has no label in strata"),
        ({"method": "kendall"}, "no correlation 'kendall'"),
        ({"exchange": "words"}, "no exchange 'words'"),
    ],
)
def test_bad_input_is_a_sentence(change: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        correlation(**({"x": [1.0, 2.0, 4.0], "y": [1.0, 3.0, 2.0]} | change))


# -- partial correlation ----------------------------------------------------------------------


def test_partial_pearson_is_the_textbook_formula() -> None:
    x, y, z = np.random.default_rng(0).normal(size=(3, 60)) + np.linspace(0, 2, 60)
    (xy, xz, yz) = (np.corrcoef(a, b)[0, 1] for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    found = partial_correlation(x, y, {"z": z}, ranked=False, resampling=NONE)
    assert found.value == pytest.approx(expected)
    assert found.covariates == ("z",)


def test_partial_spearman_is_the_correlation_of_rank_residuals() -> None:
    rng = np.random.default_rng(1)
    z = np.round(rng.normal(size=(80, 2)), 1)
    x, y = z[:, 0] + rng.normal(size=80), z @ [1, -1] + rng.normal(size=80)
    design = np.column_stack([np.ones(80), *(scipy.stats.rankdata(c) for c in z.T)])
    left = [
        r - design @ np.linalg.lstsq(design, r, rcond=None)[0]
        for r in (scipy.stats.rankdata(x), scipy.stats.rankdata(y))
    ]
    found = partial_correlation(x, y, {"z": z}, resampling=NONE)
    assert found.value == pytest.approx(np.corrcoef(*left)[0, 1])


def test_what_a_third_column_makes_is_gone() -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(size=400)
    x, y = z + 0.5 * rng.normal(size=400), z + 0.5 * rng.normal(size=400)
    assert correlation(x, y, resampling=FEW).p < 0.01
    found = partial_correlation(x, y, {"z": z}, resampling=FEW)
    assert abs(found.value) < 0.1
    assert 0 in found.interval
    assert found.p > 0.05


def test_indicators_leave_what_is_inside_groups() -> None:
    rng = np.random.default_rng(3)
    group = rng.integers(4, size=60)
    x, y = rng.normal(size=(2, 60)) + 3 * rng.normal(size=4)[group]
    inside = correlation(
        remove_group_means(x, group),
        remove_group_means(y, group),
        method="pearson",
        resampling=NONE,
    )
    found = partial_correlation(x, y, {"model": indicators(group)}, ranked=False, resampling=NONE)
    assert found.value == pytest.approx(inside.value)


def test_covariates_may_repeat_each_other() -> None:
    rng = np.random.default_rng(4)
    x, y, z = rng.normal(size=(3, 50))
    once = partial_correlation(x, y, {"z": z}, ranked=False, resampling=FEW)
    twice = partial_correlation(x, y, {"z": z, "again": 2 * z + 1}, ranked=False, resampling=FEW)
    assert twice.value == pytest.approx(once.value)
    assert twice.interval.low == pytest.approx(once.interval.low)


def test_covariates_that_explain_everything_leave_nothing() -> None:
    x, y = np.random.default_rng(5).normal(size=(2, 30))
    found = partial_correlation(x, y, {"same": 3 * x}, ranked=False, resampling=FEW)
    assert found.reason == "the covariates explain the score or the outcome completely"
    assert math.isnan(found.value)


def test_a_partial_correlation_needs_covariates() -> None:
    with pytest.raises(InputError, match="no covariates"):
        partial_correlation([1, 2, 3], [1, 2, 3], {})


# -- groups -----------------------------------------------------------------------------------


def test_indicators_by_hand() -> None:
    assert indicators(["b", "a", "c"]).tolist() == [[1, 0], [0, 0], [0, 1]]


def test_group_means_pass_over_nan() -> None:
    found = remove_group_means([1.0, 3.0, math.nan, 5.0], ["a", "a", "a", "b"])
    np.testing.assert_array_equal(found, [-1, 1, math.nan, 0])


def test_one_group_is_left_out_at_a_time() -> None:
    x = np.array([1.0, 2.0, 3.0, 10.0])
    found = leave_one_group_out(lambda rows: x[rows].mean(), ["a", "a", "b", "b"])
    assert [(f.group, f.n, f.without, f.alone) for f in found] == [
        ("a", 2, 6.5, 1.5),
        ("b", 2, 1.5, 6.5),
    ]


# -- results ----------------------------------------------------------------------------------


def test_a_correlation_is_saved_and_opened(tmp_path: Path) -> None:
    x, y, group = clustered(6, 10, 4)
    found = correlation(
        x, y, clusters=group, score="dss_causal", outcome="error", unit="item", resampling=FEW
    )
    opened = open_result(found.save(tmp_path / "rho.npz"))
    assert isinstance(opened, Correlation)
    assert opened.to_records() == found.to_records()
    assert opened.to_records()[0]["score"] == "dss_causal"


def test_an_undefined_correlation_is_saved_and_opened(tmp_path: Path) -> None:
    opened = open_result(correlation([1, 1, 1], [1, 2, 3]).save(tmp_path / "rho.npz"))
    assert math.isnan(opened.value)
    assert opened.reason == "the score is constant"


def test_a_result_says_where_it_comes_from() -> None:
    x, y, group = clustered(6, 20, 4)
    found = correlation(x, y, clusters=group, resampling=FEW)
    assert "bootstrap of clusters, then items" in found.method
    assert "sign-flips of whole clusters' scores" in found.method
    assert "80 items in 20 clusters" in str(found)
    inside = correlation(x, y, strata=group, resampling=FEW)
    assert "permutation of items inside strata" in inside.method
