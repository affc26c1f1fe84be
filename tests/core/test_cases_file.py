"""A cases file is checked row by row: every bad row by line, field, found and expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dst.core.case import BadRow, Case, load_cases
from dst.core.errors import CaseError

GOOD = {"prompt": "a bass is a", "contextual": "fish", "subject": "bass"}
OTHER = {"prompt": "a crane is a", "factual_answer": "bird"}


def lines(path: Path, *rows: Any) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cases.jsonl"


def test_good_rows_become_cases_in_order(path: Path) -> None:
    cases = load_cases(lines(path, GOOD, "", OTHER, "  "))
    assert list(cases) == [Case.from_dict(GOOD), Case.from_dict(OTHER)]
    assert cases.rejected == ()


def test_a_file_from_another_editor_is_read_too(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n")
    assert [case.subject for case in load_cases(path)] == ["bass"]


def test_every_bad_row_is_reported_at_once(path: Path) -> None:
    lines(path, GOOD, {**GOOD, "subject": "trout"}, "{", OTHER, ["a"], {**OTHER, "labl": "x"})
    with pytest.raises(CaseError) as caught:
        load_cases(path)
    text = str(caught.value)
    assert text.startswith(f"{path} has 4 bad row(s): line 2, subject: The field subject is wrong")
    for part in (
        "found 'trout', which is not in the prompt; expected text of the prompt",
        "line 3, row: The field row is wrong: found no JSON (Expecting property name",
        "line 5, row: The field row is wrong: found list; expected a JSON object",
        "line 6, labl: The field labl is wrong: found a field of this name; expected did you mean",
        "read the others with on_error='skip'",
    ):
        assert part in text


def test_the_good_rows_can_be_kept(path: Path) -> None:
    cases = load_cases(lines(path, "nonsense", GOOD, {"prompt": ""}), on_error="skip")
    assert [case.subject for case in cases] == ["bass"]
    assert [(row.line, row.field) for row in cases.rejected] == [(1, "row"), (3, "prompt")]
    assert str(BadRow(3, "prompt", "why")) == "line 3, prompt: why"


def test_an_id_is_used_once(path: Path) -> None:
    lines(path, GOOD, OTHER, GOOD)
    with pytest.raises(CaseError, match=r"line 3, case_id: .* as on line 1; expected one"):
        load_cases(path)
    kept = load_cases(path, on_error="skip")
    assert (len(kept), [row.line for row in kept.rejected]) == (2, [3])


def test_a_long_list_of_bad_rows_is_cut(path: Path) -> None:
    with pytest.raises(CaseError, match=r"has 25 bad row\(s\).*; and 5 more\."):
        load_cases(lines(path, *["{"] * 25))


def test_only_as_many_as_wanted_are_read(path: Path) -> None:
    lines(path, GOOD, OTHER, "not read")
    assert len(load_cases(path, limit=1)) == 1
    assert len(load_cases(path, limit=2)) == 2
    with pytest.raises(CaseError, match="limit is 0; expected 1 or more"):
        load_cases(path, limit=0)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("[" * 100_000, "JSON that cannot be read"),
        ('{"prompt": ' + "9" * 5000 + "}", "JSON that cannot be read"),
        ('{"prompt": "\\ud83d", "contextual": "a"}', "no valid Unicode"),
        ("NaN", "found float; expected a JSON object"),
        ("null", "found NoneType; expected a JSON object"),
    ],
)
def test_json_that_is_no_case_is_a_bad_row(path: Path, row: str, why: str) -> None:
    with pytest.raises(CaseError, match=f"line 1, .*{why}"):
        load_cases(lines(path, row))


def test_a_file_without_cases_is_refused(path: Path) -> None:
    with pytest.raises(CaseError, match=r"holds no case; expected one JSON object a line"):
        load_cases(lines(path, "", " "))
    with pytest.raises(CaseError, match=r"holds no case, and 1 bad row\(s\), first line 1, row"):
        load_cases(lines(path, "{"), on_error="skip")


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, path: Path) -> None:
    with pytest.raises(CaseError, match=r"cases.jsonl does not exist\. Check the path"):
        load_cases(path)
    with pytest.raises(CaseError, match=r"cannot be read .* expected UTF-8 JSON Lines"):
        load_cases(tmp_path)
    path.write_bytes(json.dumps(GOOD).encode("utf-16"))
    with pytest.raises(CaseError, match=r"cannot be read .* expected UTF-8 JSON Lines"):
        load_cases(path)


def test_on_error_is_raise_or_skip(path: Path) -> None:
    with pytest.raises(CaseError, match="on_error is 'ignore'; expected 'raise' or 'skip'"):
        load_cases(lines(path, GOOD), on_error="ignore")  # type: ignore[arg-type]
