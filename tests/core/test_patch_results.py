"""Grids by hand: recovery, flips, floors, rows, and what a grid refuses to hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dst.core.case import Case
from dst.core.patch_results import UNITS, Controls, PatchEffects, PatchGrid
from dst.core.results import Provenance, open_result
from dst.core.statistics_results import EffectMap


def controls(**fields: Any) -> Controls:
    return Controls(
        **{
            "self_patch_error": 0.0,
            "donor_error": 0.0,
            "donor_reason": "",
            "random_donor": np.array([[-3.0, 1.0, 2.0]]),
            "random_donor_is": "by hand",
            "random_direction": np.array([[0.5, 0.0, -0.5]]),
            "random_layers": np.array([0, 0, 1]),
            "random_columns": np.array([0, 1, 1]),
            **fields,
        }
    )


def grid(**fields: Any) -> PatchGrid:
    """Two draws, one layer, three columns; the last has no place in the donor."""
    nan = np.nan
    return PatchGrid(
        **{
            "technique": "activation patching",
            "direction": "noising",
            "source": "swap",
            "site": "resid_pre",
            "window": 1,
            "metrics": ("LD",),
            "layers": np.array([4]),
            "column_kind": "position",
            "columns": ("a", "b", "c"),
            "column_positions": ((0,), (1,), (2,)),
            "column_heads": (-1, -1, -1),
            "values": np.array([[[[2.0, -1.0, nan]], [[4.0, nan, nan]]]]),
            "base": np.array([[2.0, 2.0]]),
            "donor": np.array([[-1.0, -3.0]]),
            "flips": np.array([[[False, True, False]], [[False, False, False]]]),
            "fired": np.array([[[1, 1, 0]], [[1, 0, 0]]]),
            "delta_norm": np.array([[[0.0, 2.0, 0.0]], [[1.0, 0.0, 0.0]]]),
            "coverage": np.array([1.0, 0.5, 0.0]),
            "reasons": ("", "", "the other run has no such position"),
            "tokens": ("a", "b", "c"),
            "roles": ("rest", "cue", "answer"),
            "case": Case("a b c", contextual="x", associative="y"),
            "controls": controls(),
            "notes": (),
            "provenance": Provenance(),
            **fields,
        }
    )


def test_means_are_over_the_draws_that_have_the_cell() -> None:
    found = grid()
    np.testing.assert_allclose(found.value(), [[3, -1, np.nan]])
    np.testing.assert_allclose(found.effect(), [[1, -3, np.nan]])
    np.testing.assert_array_equal(found.contrast, found.value("LD"))


def test_recovery_is_the_mean_effect_over_the_mean_difference() -> None:
    # donor - base is -3 and -5, -4 in the mean; effects are (0 + 2) / 2 and -3
    np.testing.assert_allclose(grid().recovery, [[-0.25, 0.75, np.nan]])
    assert grid().recovery_reason == ""


@pytest.mark.parametrize(
    ("donor", "reason"),
    [
        ([[1.5, 1.5]], "LD of donor and base differ by 0.50, less than 1 nat"),
        ([[np.nan, np.nan]], "there is no donor run that it could be a share of"),
    ],
)
def test_recovery_that_says_nothing_is_nan_with_a_reason(donor: Any, reason: str) -> None:
    found = grid(donor=np.array(donor))
    assert np.isnan(found.recovery).all()
    assert found.recovery_reason == reason


def test_flips_are_a_share_of_the_draws() -> None:
    np.testing.assert_allclose(grid().flip, [[0, 0.5, np.nan]])


def test_floors_are_quantiles_of_absolute_effects() -> None:
    found = grid()
    # of 1, 2, 3 the 95 % quantile is 2 + 0.9; of 0, .5, .5 it is .5
    assert found.controls.random_donor_floor.tolist() == pytest.approx([2.9])
    assert found.controls.random_direction_floor.tolist() == [0.5]
    assert found.floor() == pytest.approx(2.9)
    none = grid(
        controls=controls(
            random_donor=np.empty((1, 0)),
            random_direction=np.empty((1, 0)),
            random_layers=np.empty(0, dtype=int),
            random_columns=np.empty(0, dtype=int),
        )
    )
    assert np.isnan(none.floor())


def test_rows_hold_every_cell() -> None:
    rows = grid().to_records()
    assert [(row["layer"], row["column"]) for row in rows] == [(4, "a"), (4, "b"), (4, "c")]
    assert rows[1]["LD"] == -1
    assert (rows[1]["effect"], rows[1]["recovery"], rows[1]["flip"]) == (-3, 0.75, 0.5)
    assert (rows[0]["fired"], rows[0]["delta_norm"], rows[0]["coverage"]) == (2, 0.5, 1)
    assert rows[2]["reason"] == "the other run has no such position"


def test_units_are_those_of_the_metrics() -> None:
    assert grid().unit() == UNITS["LD"] == "logits"
    with pytest.raises(KeyError, match="'kl'; the metrics here are LD"):
        grid().value("kl")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metrics": ("kl",)}, "LD first"),
        ({"metrics": ("LD", "kl")}, "one name per metric"),
        ({"columns": ("a", "b")}, "one name, head, reason"),
        ({"reasons": ("", "", "")}, "NaN if and only if there is a reason"),
        ({"reasons": ("", "no", "no")}, "NaN if and only if there is a reason"),
        ({"roles": ("rest",)}, "one role per token"),
        ({"fired": np.zeros((2, 1, 2), dtype=int)}, "fired"),
    ],
)
def test_a_grid_that_contradicts_itself_is_refused(fields: Any, message: str) -> None:
    with pytest.raises(Exception, match=message):
        grid(**fields)


def test_a_donor_error_is_nan_with_a_reason() -> None:
    with pytest.raises(ValueError, match="donor_error"):
        controls(donor_error=float("nan"))
    with pytest.raises(ValueError, match="donor_error"):
        controls(donor_reason="because")


def test_effects_of_many_cases_read_their_statistics(tmp_path: Path) -> None:
    numbers = {"mean": 1.0, "control": 0.0, "low": 0.5, "high": 1.5, "p": 0.1, "q": 0.2}
    cells: dict[str, Any] = {name: np.full((1, 2), number) for name, number in numbers.items()}
    statistics = EffectMap(
        axes=("layer", "column"),
        n=np.array([[3, 3]]),
        n_clusters=np.array([[3, 3]]),
        reasons=np.array([["", ""]]),
        level=0.95,
        method="by hand",
        seed=0,
        **cells,
    )
    found = PatchEffects(
        technique="activation patching",
        direction="noising",
        source="swap",
        site="resid_pre",
        window=1,
        metric="LD",
        layers=np.array([5]),
        columns=("cue", "answer"),
        effects=np.ones((3, 1, 2)),
        random_effects=np.zeros((3, 1, 2)),
        statistics=statistics,
        case_ids=("a", "b", "c"),
        groups=("a", "b", "c"),
        failures=(),
        self_patch_error=0.0,
        donor_error=0.0,
        random_donor_is="by hand",
        notes=(),
        provenance=Provenance(),
    )
    again = open_result(found.save(tmp_path / "effects"))
    assert again.mean.tolist() == [[1, 1]]
    assert (again.low[0, 0], again.high[0, 0], again.p[0, 0], again.q[0, 0]) == (0.5, 1.5, 0.1, 0.2)
    rows = again.to_records()
    assert [(row["layer"], row["column"], row["mean"]) for row in rows] == [
        (5, "cue", 1.0),
        (5, "answer", 1.0),
    ]
    with pytest.raises(ValueError, match="one id and one group"):
        found.replace(groups=("a",))
