"""Many tests, effects over maps, power, shares and survival: by hand, SciPy and statsmodels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import stdtrit

from dst.analysis.bootstrap import Resampling
from dst.analysis.effects import effect_map, mean_effect
from dst.analysis.multiple import benjamini_hochberg, holm
from dst.analysis.power import (
    correlation_power,
    correlation_sample_size,
    effective_n,
    fisher_interval,
)
from dst.analysis.proportion import wilson
from dst.analysis.survival import kaplan_meier
from dst.core.errors import InputError
from dst.core.results import open_result

FEW = Resampling(n_resamples=500, n_permutations=500)
P_VALUES = arrays(np.float64, st.integers(1, 20), elements=st.floats(0, 1))


# -- Holm, Benjamini-Hochberg -------------------------------------------------------------------


def test_holm_by_hand() -> None:
    # .01 * 4, .02 * 3, .03 * 2, max(.06, .5 * 1)
    assert holm([0.02, 0.5, 0.01, 0.03]).tolist() == pytest.approx([0.06, 0.5, 0.04, 0.06])


def test_benjamini_hochberg_by_hand() -> None:
    # .01 * 4 / 1, min(.02 * 4 / 2, .03 * 4 / 3) = .04, .04, .5
    found = benjamini_hochberg([0.02, 0.5, 0.01, 0.03])
    assert found.tolist() == pytest.approx([0.04, 0.5, 0.04, 0.04])


@given(P_VALUES)
def test_benjamini_hochberg_is_scipys(p: np.ndarray) -> None:
    np.testing.assert_allclose(
        benjamini_hochberg(p), scipy.stats.false_discovery_control(p), rtol=1e-12
    )


@pytest.mark.parametrize("decimals", [1, 3, 15])
def test_both_are_statsmodels(decimals: int) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.round(np.random.default_rng(0).random(30) ** 3, decimals)  # ties at one decimal
    np.testing.assert_allclose(holm(p), multitest.multipletests(p, method="holm")[1])
    np.testing.assert_allclose(
        benjamini_hochberg(p), multitest.multipletests(p, method="fdr_bh")[1]
    )


@given(P_VALUES, st.randoms())
def test_adjusting_knows_no_order_and_no_nan(p: np.ndarray, random) -> None:
    order = random.sample(range(len(p)), len(p))
    for adjust in (holm, benjamini_hochberg):
        np.testing.assert_array_equal(adjust(p[order]), adjust(p)[order])
        with_hole = adjust(np.stack([p, np.full(len(p), np.nan)]))
        np.testing.assert_array_equal(with_hole[0], adjust(p))
        assert np.isnan(with_hole[1]).all()
        assert (adjust(p) >= p).all()


def test_no_test_is_adjusted_to_none() -> None:
    assert np.isnan(holm([math.nan])).all()
    assert benjamini_hochberg([]).shape == (0,)


def test_a_p_value_lies_between_0_and_1() -> None:
    for adjust in (holm, benjamini_hochberg):
        with pytest.raises(InputError, match="A p-value is 1"):
            adjust([0.5, 1.5])


# -- effects over many cases ----------------------------------------------------------------------


def planted(n: int = 60, effect: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Effects [case 3 4] with one real cell, their clusters."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(n // 3), 3)
    effects = rng.normal(size=(n, 3, 4)) + 0.3 * rng.normal(size=(n // 3, 1, 1))[group]
    effects[:, 1, 2] += effect
    return effects, group


def test_the_planted_cell_is_found_and_no_other() -> None:
    effects, group = planted()
    found = effect_map(effects, clusters=group, resampling=Resampling(500, 2000))
    assert np.argwhere(found.discoveries()).tolist() == [[1, 2]]
    assert found.low[1, 2] < 1 < found.high[1, 2]
    np.testing.assert_allclose(found.mean, effects.mean(axis=0))
    assert (found.n == 60).all()
    assert (found.n_clusters == 20).all()


def test_an_effect_that_the_control_has_too_is_none() -> None:
    # The control is the effects of the other clusters: the differences add up to exactly 0.
    effects, group = planted()
    found = effect_map(effects, control=effects[::-1], clusters=group, resampling=FEW)
    assert (found.p == 1).all()
    np.testing.assert_allclose(found.control, found.mean)
    assert found.low[1, 2] > 0  # the interval is of the effect itself


def test_a_map_of_one_cell_is_mean_effect() -> None:
    effects, group = planted()
    cell = mean_effect(effects[:, 1, 2], clusters=group, resampling=FEW)
    found = effect_map(effects[:, 1:2, 2:3], clusters=group, resampling=FEW)
    assert (cell.value, cell.p) == (found.mean[0, 0], found.p[0, 0])
    assert (cell.interval.low, cell.interval.high) == (found.low[0, 0], found.high[0, 0])
    assert cell.percentile.low != cell.interval.low


def test_blocks_of_cells_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    effects, group = planted()
    whole = effect_map(effects, clusters=group, resampling=FEW)
    monkeypatch.setattr("dst.analysis.effects.CELLS", 1500)
    parts = effect_map(effects, clusters=group, resampling=FEW)
    np.testing.assert_allclose(parts.mean, whole.mean)
    np.testing.assert_allclose(parts.low, whole.low, atol=0.2)


def test_the_order_of_cases_changes_nothing() -> None:
    effects, group = planted()
    order = np.random.default_rng(2).permutation(len(group))
    first = effect_map(effects, clusters=group, resampling=FEW)
    second = effect_map(effects[order], clusters=group[order], resampling=FEW)
    for name in ("low", "high", "p", "q"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=1e-12)


def test_cells_without_cases_are_left_out_of_the_map() -> None:
    effects, group = planted()
    effects[:, 0, 0] = math.nan
    effects[3:, 0, 1] = math.nan  # one cluster has a value
    effects[:30, 0, 2] = math.nan
    effects[:, 0, 3] = 0.0  # a patch that does nothing
    found = effect_map(effects, clusters=group, resampling=FEW)
    assert found.reasons[0].tolist() == [
        "no case has a value",
        "one cluster",
        "",
        "every resample gives the same value",
    ]
    assert np.isnan(found.q[0, :2]).all()
    assert found.p[0, 3] == 1
    assert (found.n[0, 2], found.n_clusters[0, 2]) == (30, 10)
    assert found.mean[0, 2] == pytest.approx(effects[30:, 0, 2].mean())
    tested = found.p[~np.isnan(found.p)]
    np.testing.assert_allclose(
        found.q[~np.isnan(found.p)], scipy.stats.false_discovery_control(tested)
    )


def test_flipping_items_is_the_paired_permutation_test() -> None:
    rng = np.random.default_rng(3)
    effects, control = rng.normal(0.6, 1, 12), rng.normal(0, 1, 12)
    theirs = scipy.stats.permutation_test(
        (effects, control),
        lambda a, b: np.mean(a - b),
        permutation_type="samples",
        n_resamples=10_000,
        vectorized=False,
    ).pvalue
    ours = mean_effect(effects, control=control, resampling=Resampling(0, 10_000))
    assert ours.p == pytest.approx(theirs)
    # In clusters of four, three signs are left: p is a multiple of 2/8.
    coarse = mean_effect(
        effects, control=control, clusters=np.arange(12) // 4, resampling=Resampling(0, 10_000)
    )
    assert coarse.p * 4 == int(coarse.p * 4)
    fine = mean_effect(
        effects,
        control=control,
        clusters=np.arange(12) // 4,
        flip="items",
        resampling=Resampling(0, 10_000),
    )
    assert fine.p == pytest.approx(theirs)


def test_the_interval_of_a_mean_is_students_for_many_cases() -> None:
    x = np.random.default_rng(4).normal(size=200)
    found = mean_effect(x, resampling=Resampling(5000, 0))
    half = stdtrit(199, 0.975) * x.std(ddof=1) / math.sqrt(200)
    assert found.interval.high - found.interval.low == pytest.approx(2 * half, rel=0.05)


def test_a_missing_control_drops_the_case() -> None:
    found = mean_effect([1.0, 2.0, 9.0], control=[0.0, 1.0, math.nan], resampling=FEW)
    assert (found.value, found.n, found.n_dropped) == (1.5, 2, 1)


def test_an_effect_nobody_has_is_undefined() -> None:
    found = mean_effect([math.nan, math.nan], resampling=FEW)
    assert found.reason == "no case has a value"
    assert math.isnan(found.value)


@pytest.mark.parametrize(
    ("effects", "options", "sentence"),
    [
        (np.zeros((3, 2)), {}, "2 axes; expected case by layer by pos"),
        (np.zeros((0, 2, 2)), {}, "no cases"),
        (np.full((3, 2, 2), np.inf), {}, "infinity"),
        (np.zeros((3, 2, 2)), {"control": np.zeros((2, 2, 2))}, "control has the shape"),
        (np.zeros((3, 2, 2)), {"clusters": [1, 2]}, "2 cluster labels"),
        (np.zeros((3, 2, 2)), {"flip": "rows"}, "no flip 'rows'"),
    ],
)
def test_bad_effects_are_a_sentence(effects: np.ndarray, options: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        effect_map(effects, resampling=FEW, **options)


def test_an_effect_map_is_saved_and_opened(tmp_path: Path) -> None:
    effects, group = planted()
    effects[:, 0, 0] = math.nan
    found = effect_map(effects, clusters=group, resampling=FEW)
    opened = open_result(found.save(tmp_path / "map.npz"))
    np.testing.assert_array_equal(opened.q, found.q)
    rows = opened.to_records()
    assert len(rows) == 12
    assert (rows[0]["layer"], rows[0]["pos"], rows[0]["reason"]) == (0, 0, "no case has a value")


@pytest.mark.full
def test_mean_intervals_cover_and_false_discoveries_are_few() -> None:
    covered, finds = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(25), 4)
        effects = rng.normal(size=(100, 2, 3)) + rng.normal(size=(25, 1, 1))[group]
        effects[:, 0] += 2.0
        found = effect_map(effects, clusters=group, resampling=Resampling(600, 600))
        covered.append((found.low[0] <= 2) & (found.high[0] >= 2))
        finds.append(found.discoveries())
    assert 0.9 < np.mean(covered) < 0.99
    share = [f[1].sum() / max(f.sum(), 1) for f in finds]
    assert np.mean(share) < 0.07
    assert np.mean([f[0].all() for f in finds]) > 0.95


# -- shares, power --------------------------------------------------------------------------------


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts: tuple[int, int]) -> None:
    count, n = counts
    for level in (0.9, 0.95):
        theirs = scipy.stats.binomtest(count, n).proportion_ci(level, method="wilson")
        assert wilson(count, n, level=level) == pytest.approx(tuple(theirs), abs=1e-12)


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == 1
    assert all(map(math.isnan, wilson(0, 0)))
    with pytest.raises(InputError, match="3 of 2"):
        wilson(3, 2)


@pytest.mark.parametrize(
    ("n", "low", "high"), [(6, -0.985, -0.17), (10, -0.967, -0.51), (30, -0.933, -0.73)]
)
def test_what_a_published_correlation_could_have_been(n: int, low: float, high: float) -> None:
    # r = -.863 with n unknown: the intervals of METHOD 9
    found = fisher_interval(-0.863, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)


@given(st.floats(-0.99, 0.99), st.integers(4, 500))
def test_fishers_interval_is_scipys(r: float, n: int) -> None:
    theirs = scipy.stats._stats_py.PearsonRResult(
        statistic=np.float64(r), pvalue=0.5, alternative="two-sided", n=n, x=0, y=0, axis=0
    ).confidence_interval()
    assert [fisher_interval(r, n).low, fisher_interval(r, n).high] == pytest.approx(
        [float(theirs.low), float(theirs.high)], abs=1e-9
    )


def test_an_interval_needs_four_rows_and_some_spread() -> None:
    assert fisher_interval(0.5, 3).reason == "3 rows, fewer than 4"
    assert "no spread" in fisher_interval(1.0, 30).reason


@pytest.mark.parametrize(("r", "n"), [(0.1, 783), (0.3, 85), (0.5, 30), (-0.5, 30), (0.8, 10)])
def test_how_many_rows_a_correlation_needs(r: float, n: int) -> None:
    # Cohen (1988) and G*Power give 783, 84 to 85, 29 to 30, 10: the last few by exact methods
    found = correlation_sample_size(r)
    assert found == pytest.approx(n, abs=1)
    assert correlation_power(r, found) >= 0.8 > correlation_power(r, found - 1)


def test_power_is_how_often_a_correlation_is_found() -> None:
    rng = np.random.default_rng(0)
    n, r, times = 40, 0.4, 4000
    x = rng.normal(size=(times, n))
    y = r * x + math.sqrt(1 - r * r) * rng.normal(size=(times, n))
    z = np.arctanh([np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)])
    found = np.mean(np.abs(z) * math.sqrt(n - 3) > 1.959964)
    assert found == pytest.approx(correlation_power(r, n), abs=0.02)


def test_power_at_its_ends() -> None:
    assert correlation_power(0, 50) == pytest.approx(0.05)
    assert correlation_power(1, 4) == 1
    assert math.isnan(correlation_power(0.5, 3))
    assert math.isnan(correlation_sample_size(0))
    assert correlation_sample_size(0.1, power=0.9) > correlation_sample_size(0.1)
    assert effective_n(100, 5, 0.5) == pytest.approx(100 / 3)
    assert effective_n(100, 5, 0) == 100
    for call in (
        lambda: correlation_power(1.2, 9),
        lambda: correlation_sample_size(0.5, power=1),
        lambda: correlation_power(0.5, 9, alpha=0),
        lambda: effective_n(10, 0.5, 0.1),
    ):
        with pytest.raises(InputError):
            call()


# -- survival -------------------------------------------------------------------------------------


def test_kaplan_meier_by_hand() -> None:
    # At .25 one of 4 has the mark, at .5 one is censored after one of 3 has it, at 1 one is left.
    found = kaplan_meier([0.25, 0.5, 0.5, 1.0], [1, 1, 0, 0], resampling=FEW)
    assert found.time.tolist() == [0.25, 0.5]
    assert found.survival.tolist() == pytest.approx([3 / 4, 3 / 4 * 2 / 3])
    assert found.at_risk.tolist() == [4, 3]
    assert found.events.tolist() == [1, 1]
    assert (found.n, found.n_censored, found.median.value) == (4, 2, 0.5)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=20),
)
def test_kaplan_meier_is_scipys(cases: list[tuple[int, bool]]) -> None:
    time = np.array([t / 8 for t, _ in cases])
    seen = np.array([s for _, s in cases])
    found = kaplan_meier(time, seen.astype(float), resampling=Resampling(0, 0))
    theirs = scipy.stats.ecdf(scipy.stats.CensoredData.right_censored(time, ~seen)).sf
    np.testing.assert_allclose(found.survival, theirs.evaluate(found.time), atol=1e-12)


def test_kaplan_meier_is_statsmodels() -> None:
    survival = pytest.importorskip("statsmodels.duration.survfunc")
    rng = np.random.default_rng(0)
    time, seen = rng.integers(1, 9, 60) / 8, (rng.random(60) < 0.7).astype(float)
    theirs = survival.SurvfuncRight(time, seen)
    found = kaplan_meier(time, seen, resampling=Resampling(2000, 0))
    np.testing.assert_allclose(found.survival, theirs.surv_prob)
    np.testing.assert_array_equal(found.at_risk, theirs.n_risk)
    assert found.median.value == theirs.quantile(0.5)
    # Greenwood's standard error against the bootstrap's width
    middle = len(found.time) // 2
    width = found.high[middle] - found.low[middle]
    assert width == pytest.approx(2 * 1.96 * theirs.surv_prob_se[middle], rel=0.1)


def test_a_mark_that_half_never_get_has_no_median() -> None:
    found = kaplan_meier([0.5, 1, 1, 1], [1, 0, 0, 0], resampling=FEW)
    assert math.isnan(found.median.value)
    assert found.median.reason == "fewer than half of the cases get the mark"


def test_a_mark_nobody_gets_has_an_empty_curve(tmp_path: Path) -> None:
    found = kaplan_meier([1.0, 1.0], [0, 0], resampling=FEW)
    assert found.survival.shape == (0,)
    assert open_result(found.save(tmp_path / "km.npz")).n_censored == 2
    with pytest.raises(InputError, match="no complete rows"):
        kaplan_meier([], [])
    with pytest.raises(InputError, match="0 or 1"):
        kaplan_meier([1.0], [2])
