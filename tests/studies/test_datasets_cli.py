"""`dst study cases`: a data set becomes a cases file, and the account is printed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from dst.cli_cases import register
from dst.core.case import load_cases
from dst.core.errors import InputError


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers(required=True))
    options = parser.parse_args(["cases", *arguments])
    return int(options.command(options))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("text,gold,wrong\nThe bass is a,fish,tool\nA bass is a,fish,fish\n", "utf-8")
    return path


COLUMNS = ("--column", "prompt=text", "--column", "contextual=gold", "--column")


def test_a_cases_file_is_written_and_the_account_printed(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cases.jsonl"
    assert run("own", "--path", str(rows), *COLUMNS, "associative=wrong", "--out", str(out)) == 0
    (case,) = load_cases(out)
    assert case.associative == ("tool",)
    said = capsys.readouterr().out
    assert "2 rows, 1 cases" in said
    assert (
        "left out  associative: expected two different answers: 1 (first rows.csv, row 2)" in said
    )
    assert f"dst study run {out}" in said


def test_as_json(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cases.jsonl"
    run("own", "--path", str(rows), *COLUMNS, "associative=wrong", "--out", str(out), "--json")
    said = json.loads(capsys.readouterr().out)
    assert said["report"]["left_out"] == {"associative: expected two different answers": 1}
    assert said["kind"] == "greedy_token"


def test_options_reach_the_adapter(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    fact = {"prompt": "X speaks", "subject": "X", "target_true": " French"}
    path.write_text(json.dumps(fact | {"target_false": " Thai"}) + "\n", "utf-8")
    out = tmp_path / "cases.jsonl"
    run(
        "counterfact", "--path", str(path), "--option", "redefine=True", "--out", str(out), "--chat"
    )
    (case,) = load_cases(out)
    assert case.contextual == (" Thai",)
    assert case.chat


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--column", "prompt"), "--column is 'prompt'; expected --column NAME=VALUE"),
        (("--option", "a=1", "--option", "a=2"), "--option names 'a' twice"),
        (("--option", "redefine=True"), "own has no option 'redefine'"),
    ],
)
def test_what_is_given_wrongly_is_one_sentence(
    rows: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    out = tmp_path / "cases.jsonl"
    columns = () if "--column" in arguments else (*COLUMNS, "associative=wrong")
    with pytest.raises(InputError, match=says):
        run("own", "--path", str(rows), *columns, *arguments, "--out", str(out))
    assert not out.exists()
