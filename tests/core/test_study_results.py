"""`StudyTable` on a table made by hand: what a name means, and what is undefined and why."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dst.core.errors import InputError, ResultError
from dst.core.study_results import STUDY_KEY, StudyTable, open_study, stack

ROWS = {
    "case_id": ["a", "b", "c", "d"],
    "group": ["x", "x", None, "y"],
    "status": ["ok", "ok", "ok", "failed"],
    "reason": [None, None, None, "no such word"],
    "outcome": ["correct", "hallucination", "neither", None],
    "error": [0.0, 1.0, None, None],
    "n_layers": pa.array([4, 4, 4, None], pa.int64()),
    "cancelled": [False, True, None, None],
    # Five states: @0.25, 0.5, 0.75, 1 are states 1, 2, 3, 4; @0.6 is round(2.4) = 2.
    "dss@0.75": [0.3, None, 0.8, None],
    "dss": [
        [0.0, 0.1, 0.2, 0.3, 0.4],
        [None, None, 0.5, None, 0.7],
        [0.8, 0.8, 0.8, 0.8, 0.8],
        None,
    ],
    "dss.reasons": [[""] * 5, ["early", "early", "", "late", ""], [""] * 5, None],
    "commitment (causal, x)": [2.0, None, None, None],
    "commitment (causal, x).reason": [None, "not repairable", "no failure", None],
}


def table(**changes: object) -> StudyTable:
    made = pa.table(ROWS | changes)
    return StudyTable(made.replace_schema_metadata({STUDY_KEY: json.dumps({"digest": "d"})}))


def test_a_bare_name_is_the_score_at_three_quarters_of_the_depth() -> None:
    assert table().resolve("dss") == "dss@0.75"
    np.testing.assert_array_equal(table().column("dss"), [0.3, np.nan, 0.8, np.nan])
    np.testing.assert_array_equal(table().column("dss"), table().column("dss@0.75"))


def test_any_depth_is_read_off_the_nearest_state() -> None:
    np.testing.assert_array_equal(table().column("dss@0.6"), [0.2, 0.5, 0.8, np.nan])
    np.testing.assert_array_equal(table().column("dss@0"), [0.0, np.nan, 0.8, np.nan])
    np.testing.assert_array_equal(table().column("dss@1.0"), [0.4, 0.7, 0.8, np.nan])
    # Halves go up: .625 * 4 = 2.5.
    np.testing.assert_array_equal(table().column("dss@0.625"), [0.3, np.nan, 0.8, np.nan])


def test_a_depth_is_written_in_one_way() -> None:
    assert table().resolve("dss@0.750") == "dss@0.75"
    assert table().resolve("dss@1.0") == "dss@1"


def test_curves_have_one_number_per_state() -> None:
    curve = table().curve("dss")
    assert curve.shape == (4, 5)
    np.testing.assert_array_equal(curve[1], [np.nan, np.nan, 0.5, np.nan, 0.7])
    assert np.isnan(curve[3]).all()


def test_curves_of_models_of_different_depth_are_not_mixed() -> None:
    made = table(dss=[[0.1] * 5, [0.1] * 3, None, None])
    with pytest.raises(InputError, match="The cases have 3 and 5 states"):
        made.curve("dss")
    assert made.where([True, False, True, True]).curve("dss").shape == (3, 5)
    np.testing.assert_array_equal(made.column("dss@0.5"), [0.1, 0.1, np.nan, np.nan])


def test_numbers_are_float64_and_text_is_text() -> None:
    made = table()
    np.testing.assert_array_equal(made.column("n_layers"), [4.0, 4.0, 4.0, np.nan])
    np.testing.assert_array_equal(made.column("cancelled"), [0.0, 1.0, np.nan, np.nan])
    assert made.column("group").tolist() == ["x", "x", None, "y"]
    assert made.column("n_layers").dtype == np.float64
    made.column("error")[0] = 5  # a copy: the table is as it was
    assert made.column("error")[0] == 0.0


def test_what_is_undefined_says_why() -> None:
    assert table().reasons("dss") == ["", "late", "", "no such word"]
    assert table().reasons("dss@0.25") == ["", "early", "", "no such word"]
    assert table().reasons("commitment (causal, x)") == [
        "", "not repairable", "no failure", "no such word",
    ]  # fmt: skip
    assert table().reasons("error") == ["", "", "", "no such word"]


def test_outcomes_and_failures_are_counted() -> None:
    made = table()
    assert made.outcomes() == {"correct": 1, "hallucination": 1, "neither": 1, "failed": 1}
    assert made.failures() == {"no such word": 1}
    assert repr(made) == "StudyTable(4 cases: 1 correct, 1 hallucination, 1 neither, 1 failed)"


def test_rows_are_chosen_by_a_mask() -> None:
    made = table()
    chosen = made.where(made.column("error") == 1)
    assert chosen.column("case_id").tolist() == ["b"]
    assert chosen.study == {"digest": "d"}
    for mask in ([True], [0, 1, 1, 1]):
        with pytest.raises(InputError, match="one truth value for each of 4 rows"):
            made.where(mask)


def test_an_unknown_column_names_the_nearest() -> None:
    with pytest.raises(InputError, match="no column 'eror'; expected did you mean error"):
        table().column("eror")
    for name in ("dss@2", "dss@x", "dss@-0.1", "dss@nan"):
        with pytest.raises(InputError, match="expected a share from 0 to 1"):
            table().column(name)
    with pytest.raises(InputError, match="'error' has no value per state"):
        table().curve("error")


def test_several_studies_are_stacked() -> None:
    other = StudyTable(pa.table({"case_id": ["e"], "dss": [[0.5] * 3], "extra": [1]}))
    made = stack([table(), other])
    assert made.column("case_id").tolist() == [*"abcde"]
    np.testing.assert_array_equal(made.column("extra"), [np.nan] * 4 + [1.0])
    assert made.study == {}
    with pytest.raises(InputError, match="do not fit together"):
        stack([table(), StudyTable(pa.table({"error": ["text"]}))])
    with pytest.raises(InputError, match="no tables"):
        stack([])


def test_it_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    made = table()
    made.save(tmp_path / "results.parquet")
    for where in (tmp_path, tmp_path / "results.parquet"):
        again = open_study(where)
        assert again.arrow.equals(made.arrow)
        assert again.study == {"digest": "d"}
    twice = made.save(tmp_path / "again.parquet")
    assert twice.read_bytes() == (tmp_path / "results.parquet").read_bytes()


def test_a_folders_name_makes_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "seed=1"
    table().save(folder / "results.parquet")
    assert "seed" not in open_study(folder).names


def test_what_is_no_study_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="There is no study in"):
        open_study(tmp_path)
    with pytest.raises(ResultError, match="There is no study in"):
        open_study(tmp_path / "nowhere")
    (tmp_path / "results.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ResultError, match="is no Parquet table, or is damaged"):
        open_study(tmp_path)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "results.parquet")
    with pytest.raises(ResultError, match="is no table of a study"):
        open_study(tmp_path)


def test_an_empty_column_of_lists_is_a_score_of_nobody() -> None:
    made = table(dss=pa.array([None] * 4, pa.list_(pa.float64())))
    assert made.curve("dss").shape == (4, 0)
    assert np.isnan(made.column("dss@0.5")).all()
