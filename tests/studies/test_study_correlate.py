"""`correlate` on tables made by hand: which rows and groups it takes, by SciPy's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from dst.analysis.bootstrap import Resampling
from dst.analysis.statistics import indicators, partial_correlation
from dst.core.errors import InputError
from dst.core.study_results import StudyTable, stack
from dst.studies.correlate import correlate

QUICK = Resampling(n_resamples=200, n_permutations=200)


def made(n: int = 60, seed: int = 0, model: str = "m", shift: float = 0.0) -> StudyTable:
    """Words of five cases; the score goes with the error, more so between words."""
    rng = np.random.default_rng(seed)
    word = np.arange(n) // 5
    score = rng.normal(size=n) + rng.normal(size=n // 5 + 1)[word] + shift
    error = (score + rng.normal(size=n) > shift).astype(float) + shift
    length = rng.integers(10, 30, n) + 3 * error
    return StudyTable(
        pa.table(
            {
                "case_id": [f"{model}-{i}" for i in range(n)],
                "model": [model] * n,
                "group": [f"word {i}" for i in word],
                "status": ["ok"] * n,
                "reason": pa.array([None] * n, pa.string()),
                "outcome": ["neither"] * n,
                "error": error,
                "answer_prob": rng.uniform(size=n),
                "prompt_tokens": length,
                "no_conflict": [bool(i % 6 == 0) for i in range(n)],
                "margin": [[0.0, 0.0, s / 2, s, 9.0] for s in score],
                "margin@0.75": score,
                "dss_causal": [[0.0, 0.0, s / 2, s, 9.0] for s in score],
                "dss_causal@0.75": score,
            }
        )
    )


def test_items_are_correlated_as_scipy_does() -> None:
    table = made()
    x, y = table.column("margin"), table.column("error")
    rho = correlate(table, score="margin@0.75", resampling=QUICK)
    assert rho.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert (rho.unit, rho.score, rho.outcome, rho.n, rho.n_clusters) == (
        "item", "margin@0.75", "error", 60, 12,
    )  # fmt: skip
    r = correlate(table, score="margin@0.75", method="pearson", resampling=QUICK)
    assert r.value == pytest.approx(stats.pearsonr(x, y).statistic)
    assert r.interval.low < r.value < r.interval.high


def test_a_bare_name_says_what_it_means() -> None:
    bare = correlate(made(), score="margin", resampling=QUICK)
    full = correlate(made(), score="margin@0.75", resampling=QUICK)
    assert bare.value == full.value
    assert bare.score == full.score == "margin@0.75"
    assert "margin means margin@0.75" in bare.note
    assert "means" not in full.note


def test_groups_are_correlated_by_their_means() -> None:
    table = made()
    x, y = table.column("margin"), table.column("error")
    means = [(x[i : i + 5].mean(), y[i : i + 5].mean()) for i in range(0, 60, 5)]
    r = correlate(table, score="margin", unit="group", method="pearson", resampling=QUICK)
    assert r.value == pytest.approx(stats.pearsonr(*zip(*means, strict=True)).statistic)
    assert (r.n, r.unit) == (12, "group")
    assert abs(r.value) > abs(
        correlate(table, score="margin", method="pearson", resampling=QUICK).value
    )


def test_a_group_of_two_models_is_two_rows_in_one_cluster() -> None:
    both = stack([made(seed=0, model="a"), made(seed=1, model="b")])
    r = correlate(both, score="margin", unit="group", within="model", resampling=QUICK)
    assert (r.n, r.n_clusters) == (24, 12)
    pooled = correlate(both, score="margin", unit="group", resampling=QUICK)
    assert pooled.n == 12


def test_within_a_column_its_means_are_removed() -> None:
    # Between the models score and error rise together without bound; inside they do as before.
    both = stack([made(seed=0, model="a"), made(seed=1, model="b", shift=50.0)])
    pooled = correlate(both, score="margin", method="pearson", resampling=QUICK)
    inside = correlate(both, score="margin", method="pearson", within="model", resampling=QUICK)
    assert pooled.value > 0.99
    want = partial_correlation(
        both.column("margin"), both.column("error"),
        {"model": indicators(both.column("model"))}, ranked=False, resampling=QUICK,
    )  # fmt: skip
    assert inside.value == pytest.approx(want.value)
    assert inside.value < 0.9
    assert inside.covariates == ("model",)


def test_within_a_column_of_one_value_there_is_nothing_to_remove() -> None:
    plain = correlate(made(), score="margin", resampling=QUICK)
    assert correlate(made(), score="margin", within="model", resampling=QUICK).value == plain.value


def test_covariates_are_held_fixed() -> None:
    table = made()
    names = ("answer_prob", "prompt_tokens")
    held = correlate(table, score="margin", covariates=names, resampling=QUICK)
    want = partial_correlation(
        table.column("margin"), table.column("error"),
        {name: table.column(name) for name in names}, resampling=QUICK,
    )  # fmt: skip
    assert held.value == pytest.approx(want.value)
    assert held.covariates == names
    one = correlate(table, score="margin", covariates="answer_prob", resampling=QUICK)
    assert one.covariates == ("answer_prob",)


def test_shares_leave_out_cases_without_conflict_unless_they_are_asked_for() -> None:
    table = made()
    conflict = table.column("no_conflict") == 0
    x, y = table.column("dss_causal"), table.column("error")
    r = correlate(table, score="dss_causal", resampling=QUICK)
    assert (r.n, int(conflict.sum())) == (50, 50)
    assert r.value == pytest.approx(stats.spearmanr(x[conflict], y[conflict]).statistic)
    assert "10 cases without conflict left out" in r.note
    assert correlate(table, score="dss_causal", no_conflict=True, resampling=QUICK).n == 60
    assert correlate(table, score="margin", resampling=QUICK).n == 60


def test_cases_without_a_value_are_left_out_and_counted_before_means_are_taken() -> None:
    table = made()
    error = table.column("error")
    error[[0, 7]] = np.nan
    place = table.names.index("error")
    table = StudyTable(table.arrow.set_column(place, "error", pa.array(error, from_pandas=True)))
    r = correlate(table, score="margin", unit="group", method="pearson", resampling=QUICK)
    x = table.column("margin")
    kept = ~np.isnan(error)
    word = np.arange(60) // 5
    means = [(x[kept & (word == w)].mean(), error[kept & (word == w)].mean()) for w in range(12)]
    assert r.value == pytest.approx(stats.pearsonr(*zip(*means, strict=True)).statistic)
    assert "2 of 60 cases left out for an undefined value" in r.note


def test_a_case_without_a_group_stands_for_itself() -> None:
    table = made(10)
    place = table.names.index("group")
    groups = pa.array(["x"] * 4 + [None] * 6)
    r = correlate(
        StudyTable(table.arrow.set_column(place, "group", groups)), score="margin", resampling=QUICK
    )
    assert r.n_clusters == 7


def test_the_same_seed_gives_the_same_numbers() -> None:
    one, other, third = (
        correlate(made(30), score="margin", seed=seed).to_records()[0] for seed in (3, 3, 4)
    )
    assert one == other
    assert one["low"] != third["low"]
    assert one["seed"] == 3


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"score": "margn"}, "no column 'margn'"),
        ({"score": "margin", "outcome": "model"}, "'model' is text; expected a column of numbers"),
        ({"score": "margin", "unit": "word"}, "no unit 'word'; expected item or group"),
        ({"score": "margin", "method": "kendall"}, "no correlation 'kendall'"),
        (
            {"score": "margin", "method": "kendall", "covariates": "answer_prob"},
            "no partial correlation 'kendall'",
        ),
        ({"score": "margin", "within": "reason"}, "Row 0 has no value in reason"),
    ],
)
def test_what_cannot_be_correlated_is_a_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        correlate(made(), **given, resampling=QUICK)
