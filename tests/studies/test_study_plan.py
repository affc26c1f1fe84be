"""The plan of a study: who runs with whom, and what makes two studies the same one."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dst.core.errors import InputError
from dst.studies.plan import (
    Manifest,
    Settings,
    batches,
    differences,
    identify,
    read_manifest,
)
from tests.studies import study_cases


def test_cases_of_like_length_run_together() -> None:
    # By length, then by place: 1 (3), 3 (3) | 0 (5), 4 (6) | 2 (9).
    assert batches([5, 3, 9, 3, 6], batch_cases=2) == ((1, 3), (0, 4), (2,))


def test_a_batch_holds_so_many_tokens_each_case_counted_as_the_longest() -> None:
    # 2 x 4 = 8 fit, 3 x 4 do not; 2 x 5 = 10 fit; 7 alone; 30 is too long and alone.
    assert batches([4, 4, 4, 5, 7, 30], batch_tokens=10) == ((0, 1), (2, 3), (4,), (5,))


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 9), st.integers(1, 200))
def test_every_case_is_in_one_batch_and_no_batch_is_too_full(
    lengths: list[int], most: int, tokens: int
) -> None:
    made = batches(lengths, most, tokens)
    assert sorted(place for batch in made for place in batch) == list(range(len(lengths)))
    for batch in made:
        longest = max(lengths[place] for place in batch)
        assert len(batch) <= most
        assert len(batch) == 1 or len(batch) * longest <= tokens
    flat = [(lengths[place], place) for batch in made for place in batch]
    assert flat == sorted(flat)


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        ({"draws": 0}, "draws is 0; expected 1 or more."),
        ({"batch_cases": 0}, "batch_cases is 0; expected 1 or more."),
        ({"seed": -1}, "seed is -1; expected 0 or more."),
        (
            {"measures": ("coherense",)},
            "There is no measure 'coherense'; expected some of coherence, markers, failure.",
        ),
    ],
)
def test_settings_that_make_no_sense(given_: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        Settings(**given_)
    assert str(caught.value) == sentence


def test_the_order_in_which_measures_are_asked_for_is_no_setting() -> None:
    assert Settings(measures=("markers", "coherence")) == Settings()


def test_two_cases_of_one_id_and_none_at_all_are_refused() -> None:
    case = study_cases.cases(1)[0]
    with pytest.raises(InputError, match="Cases 0 and 1 are both called 'case-0'"):
        identify([case, case])
    with pytest.raises(InputError, match="There are no cases"):
        identify([])
    with pytest.raises(InputError, match="Case 0 is a str"):
        identify(["a prompt"])  # type: ignore[list-item]


def manifest(**changes: Any) -> Manifest:
    """Two cases in one batch."""
    made = Manifest(
        model={"name": "m", "weights_hash": "a" * 64},
        settings=dataclasses.asdict(Settings()),
        versions={"dst": "0.1.0"},
        cases=(("one", "b" * 64), ("two", "c" * 64)),
        batches=((1, 0),),
        room=123,
    )
    return dataclasses.replace(made, **changes)


def test_a_manifest_is_read_back_as_it_was_written() -> None:
    made = manifest()
    again = read_manifest(made.to_json())
    assert again.digest == made.digest
    assert (again.cases, again.batches, again.room) == (made.cases, made.batches, made.room)
    assert [again.key(i) for i in (0, 1)] == [made.key(i) for i in (0, 1)]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"name": "m", "weights_hash": "d" * 64}},
        {"settings": dataclasses.asdict(Settings(seed=1))},
        {"versions": {"dst": "0.2.0"}},
        {"cases": (("one", "b" * 64), ("two", "d" * 64))},
        {"cases": (("one", "b" * 64), ("too", "c" * 64))},
        {"batches": ((0, 1),)},
    ],
)
def test_whatever_the_study_is_changes_its_digest(changes: dict[str, Any]) -> None:
    assert manifest(**changes).digest != manifest().digest


def test_the_memory_of_the_day_does_not() -> None:
    assert manifest(room=None).digest == manifest().digest


def test_a_rows_key_is_of_its_content_the_model_and_the_settings() -> None:
    key = manifest().key(0)
    assert manifest(cases=(("renamed", "b" * 64), ("two", "c" * 64))).key(0) == key
    assert manifest(batches=((0,), (1,)), versions={}).key(0) == key
    assert manifest(cases=(("one", "e" * 64), ("two", "c" * 64))).key(0) != key
    assert manifest(settings=dataclasses.asdict(Settings(draws=2))).key(0) != key
    assert manifest(model={"name": "m", "weights_hash": "f" * 64}).key(0) != key


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 999}', '{"format": 1}'])
def test_what_is_no_manifest(text: str) -> None:
    with pytest.raises(ValueError):
        read_manifest(text)


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        ({"settings": dataclasses.asdict(Settings(draws=3))}, "draws was 8 and is 3"),
        (
            {"settings": dataclasses.asdict(Settings(measures=("markers",)))},
            "measures was coherence+markers and is markers",
        ),
        (
            {"model": {"name": "m", "weights_hash": "0" * 64}},
            "the model's weights hash was aaaaaaaaaaaa... and is 000000000000...",
        ),
        ({"versions": {"dst": "9"}}, "the version of dst was 0.1.0 and is 9"),
        ({"cases": (("one", "b" * 64),)}, "there were 2 cases and are 1"),
        (
            {"cases": (("two", "c" * 64), ("one", "b" * 64))},
            "the cases come in another order (first at 'two')",
        ),
        (
            {"cases": (("one", "b" * 64), ("two", "x"))},
            "the content of case 'two' has changed",
        ),
        ({"cases": (("one", "b" * 64), ("three", "x"))}, "case 2 was 'two' and is 'three'"),
    ],
)
def test_what_has_changed_is_said(given_: dict[str, Any], sentence: str) -> None:
    # As read from a file, where a tuple has become a list.
    assert differences(read_manifest(manifest().to_json()), **given_) == [sentence]


def test_what_has_not_changed_is_no_difference() -> None:
    before = manifest()
    again = json.loads(before.to_json())
    same = {name: again[name] for name in ("settings", "model", "versions")}
    assert differences(before, cases=before.cases, **same) == []
