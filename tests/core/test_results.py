"""Results: shapes checked when they are made, saved whole, read back the same, never unpickled."""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dst.core import results
from dst.core.case import Case
from dst.core.errors import InputError, ResultError
from dst.core.results import (
    Coherence,
    LensReadout,
    Mark,
    Markers,
    Provenance,
    Report,
    Result,
    Score,
    Trace,
    open_result,
)
from dst.core.suggestion import Suggestion

PARTS = {name: k for name, k in results._CLASSES.items() if k.__module__ == results.__name__}
CLASSES = {name: kind for name, kind in PARTS.items() if issubclass(kind, Result)}
SIZES = {"state": 4, "layer": 3, "pos": 5, "k": 2, "component": 6, "role": 3, "source": 2}
CASE = Case(prompt="a bass is a", contextual=("fish",), subject="bass", cue=("a",))
RNG = np.random.default_rng(0)

# What a class asks of its fields beyond their types.
FIELDS: dict[str, dict[str, Any]] = {
    "Trace": {"tokens": tuple("abcde"), "roles": ("rest",) * 5, "answer_position": 4},
    "LensReadout": {"top_words": (("a", "b"),) * 4},
    "Score": {"value": np.array([np.nan, 0.5, 0.25, 1.0]), "reasons": ("no words", "", "", "")},
    "Mark": {"state": 2.0, "n_layers": 3, "reason": ""},
}


def made(kind: Any, depth: int = 0) -> Any:
    """A value of any type that a result's field may have."""
    if hasattr(kind, "dim_str"):
        shape = [SIZES.get(name, 2) for name in kind.dim_str.split()]
        if "float64" in kind.dtypes:
            return RNG.normal(size=shape).astype(np.float32 if depth else np.float64)
        return RNG.integers(0, 2, size=shape).astype("int64" if "int64" in kind.dtypes else bool)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return made(inner[0], depth)
    if origin is tuple:
        return tuple(made(inner[0], depth + 1) for _ in range(2))
    if origin is not None and issubclass(origin, Mapping):
        return {"one": made(inner[1], depth), "zwei/drei": made(inner[1], depth)}
    if kind is Case:
        return CASE
    if kind is Result:  # a result of another module: Report.suggestion
        return made(Suggestion, depth)
    if kind is Provenance:
        return Provenance(model="m", settings={"words": ("a", "b"), "k": 5, "none": None}, seed=3)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        own = {spec.name: made(spec.type, depth + 1) for spec in dataclasses.fields(kind)}
        own |= {"reasons": ("",) * len(own["value"])} if "reasons" in own else {}
        return kind(**own | FIELDS.get(kind.__name__, {}))
    return {str: "Ωx", int: 1, float: float("nan") if depth else 0.1, bool: True}[kind]


def same(a: Any, b: Any) -> bool:
    """Equal in every type, shape, number (NaN equals NaN) and text."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=True) \
            if a.dtype.kind == "f" else a.dtype == b.dtype and np.array_equal(a, b)  # fmt: skip
    if isinstance(a, Case):
        return bool(a == b)
    if dataclasses.is_dataclass(a):
        names = [spec.name for spec in dataclasses.fields(a)]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in names)
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


@pytest.fixture
def score() -> Score:
    value: Score = made(Score)
    return value


# -- saved and read back ------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_every_result_is_read_back_the_same(name: str, tmp_path: Path) -> None:
    value = made(CLASSES[name])
    path = value.save(tmp_path / f"{name}.npz")
    assert sorted(tmp_path.iterdir()) == [path]
    again = open_result(path)
    assert same(value, again)
    assert not same(value, made(CLASSES[name])) or name in {"Score", "Mark", "Coherence", "Markers"}


@pytest.mark.parametrize("name", CLASSES)
def test_every_result_is_rows_of_plain_values(name: str) -> None:
    rows = made(CLASSES[name]).to_records()
    assert rows
    for row in rows:
        assert all(isinstance(value, (str, int, float, type(None))) for value in row.values())


def test_every_result_class_can_be_opened_by_name() -> None:
    kinds = [kind for kind in vars(results).values() if isinstance(kind, type)]
    ours = {kind.__name__ for kind in kinds if kind.__module__ == results.__name__}
    assert ours == {*PARTS, "Provenance", "Result"}
    assert {"Trace", "LensReadout", "Coherence", "Markers", "Report"} <= set(CLASSES)


def test_the_suffix_is_added_and_the_name_kept(score: Score, tmp_path: Path) -> None:
    assert score.save(tmp_path / "bass.v1").name == "bass.v1.npz"
    assert score.save(tmp_path / "new" / "bass.npz").is_file()


def test_numbers_that_json_has_not_are_kept(score: Score, tmp_path: Path) -> None:
    for number in (float("nan"), float("inf"), float("-inf"), -0.0, 5e-324):
        path = score.replace(total=number).save(tmp_path / "x.npz")
        assert same(open_result(path).total, number)


def test_numpy_scalars_and_paths_that_collide_are_kept(score: Score, tmp_path: Path) -> None:
    settings = {
        "a": {"b": np.arange(3)},
        "a/b": np.arange(4.0),
        "scalar": np.float32(0.5),
        "whole": np.int64(3),
        "flag": np.bool_(True),
        "zero_d": np.array(2.0),
        "strided": np.arange(12).reshape(3, 4).T,
    }
    value = score.replace(provenance=Provenance(settings=settings))
    again = open_result(value.save(tmp_path / "x.npz")).provenance.settings
    assert np.array_equal(again["a"]["b"], np.arange(3))
    assert np.array_equal(again["a/b"], np.arange(4.0))
    assert (again["scalar"], again["whole"], again["flag"]) == (0.5, 3, True)
    assert again["zero_d"].shape == ()
    assert np.array_equal(again["strided"], np.arange(12).reshape(3, 4).T)


@pytest.mark.parametrize("setting", [object(), {1, 2}, np.array([{}], dtype=object), 1j])
def test_what_json_and_numpy_cannot_hold_is_not_saved(
    score: Score, setting: object, tmp_path: Path
) -> None:
    value = score.replace(provenance=Provenance(settings={"x": setting}))
    with pytest.raises(ResultError, match="The field provenance/settings/x "):
        value.save(tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_breaks_off_leaves_the_old_file_and_nothing_else(
    score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = score.save(tmp_path / "x.npz")
    before = path.read_bytes()

    def interrupted(stream: Any, **arrays: Any) -> None:
        stream.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score.replace(total=2.0).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_one_sentence(score: Score, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match=r"cannot be written \(.*\)\. Give a path"):
        score.save(tmp_path / "file" / "x.npz")


# -- refused when they are made -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("Trace", "attn_out", np.zeros((3, 4, 2), dtype=np.float32)),  # another length
        ("Trace", "resid", np.zeros((4, 5), dtype=np.float32)),  # an axis too few
        ("Trace", "resid", np.zeros((4, 5, 2), dtype=np.int64)),  # no numbers of the kind
        ("Trace", "resid", [[1.0]]),  # no array
        ("Trace", "tokens", ["a"] * 5),  # a list can be changed
        ("Trace", "contrast", "0.5"),
        ("LensReadout", "entropy", np.zeros(3)),  # a state too few
        ("LensReadout", "answer_is_final", np.zeros(4)),
        ("Score", "value", np.zeros((4, 1))),
        ("Coherence", "scores", ("not a score",)),
    ],
)
def test_a_wrong_shape_or_type_is_refused(name: str, field: str, value: object) -> None:
    good = made(CLASSES[name])
    with pytest.raises(Exception, match=field) as caught:
        good.replace(**{field: value})
    assert type(caught.value).__module__.startswith(("jaxtyping", "beartype"))


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("Trace", {"tokens": tuple("abcd")}, "one token and one role per position"),
        ("Trace", {"roles": ("rest",) * 6}, "one token and one role per position"),
        ("Trace", {"answer_position": 5}, "answer position 5 is outside"),
        ("Trace", {"answer_position": -1}, "answer position -1 is outside"),
        ("Trace", {"resid": np.zeros((3, 5, 2))}, "one state more than layers"),
        ("LensReadout", {"top_words": (("a", "b"),) * 3}, "one text per state and likeliest"),
        ("LensReadout", {"top_words": (("a",),) * 4}, "one text per state and likeliest"),
        ("Score", {"reasons": ("x", "", "")}, "one reason per state"),
        ("Score", {"reasons": ("", "", "", "")}, "at state 0: NaN if and only if a reason"),
        ("Score", {"reasons": ("x", "", "x", "")}, "at state 2: NaN if and only if a reason"),
        ("Dose", {"reasons": ("x", "", "", "")}, "dose at state 0: NaN if and only if a reason"),
        ("Mark", {"reason": "never"}, "NaN if and only if there is a reason"),
        ("Mark", {"state": float("nan")}, "NaN if and only if there is a reason"),
        ("Mark", {"state": 3.5}, "state 3.5 is outside 0..3"),
        ("Mark", {"state": -1.0}, "state -1.0 is outside 0..3"),
    ],
)
def test_what_contradicts_itself_is_refused(
    name: str, changes: dict[str, Any], sentence: str
) -> None:
    good = made(CLASSES[name])
    with pytest.raises(ValueError, match=sentence):
        good.replace(**changes)


@pytest.mark.parametrize("name", CLASSES)
def test_a_result_cannot_be_changed(name: str) -> None:
    value = made(CLASSES[name])
    field = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, getattr(value, field))


# -- reading a result ---------------------------------------------------------------------


def test_a_share_of_depth_is_the_nearest_state_halves_up() -> None:
    value = np.arange(7.0)
    score = Score(name="x", value=value, total=6.0, unit="1", reasons=("",) * 7)
    assert [score.at(depth) for depth in (0, 0.25, 0.5, 0.75, 1)] == [0, 2, 3, 5, 6]  # 1.5, 4.5 up
    for depth in (-0.1, 1.1):
        with pytest.raises(InputError, match="expected a share from 0 to 1"):
            score.at(depth)


def test_scores_and_marks_are_found_by_name(score: Score) -> None:
    both = Coherence(scores=(score, score.replace(name="other")))
    assert both.names == ("Ωx", "other")
    assert both["other"].name == "other"
    with pytest.raises(KeyError, match="the scores here are Ωx, other"):
        both["third"]
    mark: Mark = made(Mark)
    marks = Markers(marks=(mark,))
    assert marks.get(mark.name, mark.definition) is mark
    assert mark.depth == pytest.approx(2 / 3)
    with pytest.raises(KeyError, match="the marks here are"):
        marks.get(mark.name, "another")


def test_the_probability_of_both_answers_is_their_sum() -> None:
    lens: LensReadout = made(LensReadout)
    assert np.allclose(lens.answer_prob, lens.contextual_prob + lens.associative_prob)


def test_a_trace_counts_blocks_and_gives_norms() -> None:
    trace: Trace = made(Trace)
    assert trace.n_layers == 3
    row = trace.to_records()[1]
    assert (row["pos"], row["token"], row["role"]) == (1, "b", "rest")
    expected = np.sqrt((trace.resid[2, 1].astype(np.float64) ** 2).sum())
    assert row["resid_norm_2"] == pytest.approx(expected, rel=1e-6)


def test_a_report_is_one_row_of_all_totals() -> None:
    report: Report = made(Report)
    (row,) = report.to_records()
    assert row["case_id"] == CASE.case_id
    assert np.isnan(row["contrast"])
    assert np.isnan(report.trace.contrast)
    assert row[report.coherence.names[0]] is report.coherence.scores[1].total


# -- refused when they are read -----------------------------------------------------------


def header(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Write a result's file again with another header."""
    with np.load(path) as stored:
        arrays = dict(stored)
    written = json.loads(arrays["header"].tobytes())
    text = json.dumps(change(written)).encode()
    arrays["header"] = np.frombuffer(text, dtype=np.uint8)
    np.savez(path, allow_pickle=False, **arrays)
    return path


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "newer": (lambda h: {**h, "format": 99}, "has format 99; expected format 1"),
    "no format": (lambda h: {"result": h["result"]}, "is no result of dst, or is damaged"),
    "a list": (lambda h: [], "is no result of dst, or is damaged"),
    "another class": (
        lambda h: {**h, "result": {"$class": "Case", "fields": {}}},
        "it holds a Case, which this dst does not know",
    ),
    "a plain value": (lambda h: {**h, "result": "text"}, r"damaged \(it holds a str\)"),
    "a field too many": (
        lambda h: {
            **h,
            "result": {**h["result"], "fields": {**h["result"]["fields"], "odd": 1}},
        },
        r"damaged \(.*'odd'",
    ),
    "a field too few": (
        lambda h: {**h, "result": {**h["result"], "fields": {"name": "x"}}},
        r"damaged \(.*missing",
    ),
    "an array that is not there": (
        lambda h: {
            **h,
            "result": {
                **h["result"],
                "fields": {**h["result"]["fields"], "value": {"$array": "gone"}},
            },
        },
        "damaged",
    ),
    "another shape": (
        lambda h: {
            **h,
            "result": {
                **h["result"],
                "fields": {**h["result"]["fields"], "reasons": ["", ""]},
            },
        },
        r"damaged \(one reason per state",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_is_not_ours_is_one_sentence(name: str, score: Score, tmp_path: Path) -> None:
    change, sentence = HEADERS[name]
    path = header(score.save(tmp_path / "x.npz"), change)
    with pytest.raises(ResultError, match=sentence) as caught:
        open_result(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_result_is_one_sentence(score: Score, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(ResultError, match=r"x\.npz does not exist\. Check the path"):
        open_result(path)
    with pytest.raises(ResultError, match="is no result of dst"):
        open_result(tmp_path)
    for content in (b"", b"PK", b"text", b"\x80\x04K\x01.", b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(ResultError, match=r"is no result of dst, or is damaged"):
            open_result(path)
    with open(path, "wb") as stream:
        np.save(stream, np.arange(3))  # .npy, not .npz
    with pytest.raises(ResultError, match="is no result of dst"):
        open_result(path)
    np.savez(path, values=np.arange(3))
    with pytest.raises(ResultError, match="is no result of dst"):
        open_result(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.npy", b"nonsense")
    with pytest.raises(ResultError, match="is no result of dst"):
        open_result(path)


def test_a_damaged_file_is_one_sentence_wherever_it_is_damaged(
    score: Score, tmp_path: Path
) -> None:
    path = score.save(tmp_path / "x.npz")
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ResultError, match="is no result of dst, or is damaged"):
            open_result(path)
    refused = 0
    for place in range(0, len(whole), 13):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            open_result(path)  # a changed time stamp harms nothing
        except ResultError as error:
            refused += "\n" not in str(error)
    assert refused > len(whole) / 13 / 2


def test_nothing_is_ever_unpickled(score: Score, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = score.save(tmp_path / "x.npz")
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **{**arrays, "value": np.array([Bomb()], dtype=object)})
    with pytest.raises(ResultError, match=r"damaged \(Object arrays cannot be loaded"):
        open_result(path)
    assert not (tmp_path / "exploded").exists()
    with np.load(path, allow_pickle=True) as stored:
        stored["value"]
    assert (tmp_path / "exploded").exists()  # the file was a real attack


def test_what_zlib_says_of_damage_is_caught(
    score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = score.save(tmp_path / "x.npz")

    def broken(*args: object, **kwargs: object) -> None:
        raise zlib.error("Error -3 while decompressing data")

    monkeypatch.setattr(np, "load", broken)
    with pytest.raises(ResultError, match="Error -3"):
        open_result(path)
