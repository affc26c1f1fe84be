"""Files of any kind become rows, and bad ones a sentence that names the row."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from dst.core.errors import InputError
from dst.studies.adapters.reading import read_rows
from dst.studies.datasets import load_dataset

ROWS = [
    {"prompt": "The bass is a", "contextual": "fish"},
    {"prompt": "A bat is", "contextual": "x"},
]


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row) for row in ROWS)
    files = [
        written(tmp_path / "list.json", json.dumps(ROWS)),
        written(tmp_path / "lines.json", lines),  # JSON Lines under the name .json
        written(tmp_path / "lines.jsonl", f"\n{lines}\n\n"),
        written(tmp_path / "bom.csv", "\ufeffprompt,contextual\nThe bass is a,fish\nA bat is,x\n"),
        written(tmp_path / "crlf.tsv", "prompt\tcontextual\r\nThe bass is a\tfish\r\nA bat is\tx"),
    ]
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "table.parquet")
    for path in (*files, tmp_path / "table.parquet"):
        assert [dict(row.values) for row in read_rows(path)] == ROWS, path.name


def test_a_row_is_numbered_as_it_stands(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '\n{"prompt": "x"}\n\n{"prompt": "y"}\n')
    assert [row.number for row in read_rows(path)] == [2, 4]
    path = written(tmp_path / "a.csv", 'prompt\n"two\nlines"\ny\n')
    assert [(row.number, row.values["prompt"]) for row in read_rows(path)] == [
        (1, "two\nlines"),
        (2, "y"),
    ]


def test_a_long_cell_is_read_and_the_limit_of_csv_stays(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    rows = read_rows(written(tmp_path / "a.csv", f"prompt\n{'x' * 200_000}\n"))
    assert len(rows[0].values["prompt"]) == 200_000
    assert csv.field_size_limit() == before


BAD = [
    ("none.csv", None, "does not exist"),
    ("empty.jsonl", "", "is empty"),
    ("header.csv", "prompt,contextual\n", "holds a header and no row"),
    ("short.csv", "prompt,contextual\na,b\nc\n", "row 2 has 1 cells"),
    ("long.csv", "prompt,contextual\na,b,c\n", "row 1 has 3 cells"),
    ("quote.csv", 'prompt,contextual\na,b\n"c,d\n', "row 2 cannot be read"),
    ("twice.csv", "prompt,prompt\na,b\n", "two columns named 'prompt'"),
    (
        "latin.csv",
        "prompt,contextual\na,b\ncaf\u00e9,d\n".encode("latin-1"),
        "line 3 holds the byte",
    ),
    ("cut.json", json.dumps(ROWS)[:-20], "row 2 is no JSON"),
    ("cut.jsonl", json.dumps(ROWS[0]) + '\n{"prompt": "A b', "row 2 is no JSON"),
    ("cut_lines.json", json.dumps(ROWS[0]) + '\n{"prompt": "A b', "row 2 is no JSON"),
    ("texts.json", '["a", "b"]', "row 1 is a str"),
    ("number.jsonl", "3", "row 1 is a int"),
    ("no.parquet", "not parquet", "is no Parquet file"),
    ("deep.json", "[" * 100_000, "cannot be read|is no JSON"),
]


@pytest.mark.parametrize(("name", "content", "says"), BAD, ids=[name for name, *_ in BAD])
def test_a_bad_file_is_one_sentence(
    tmp_path: Path, name: str, content: str | bytes | None, says: str
) -> None:
    path = tmp_path / name
    if content is not None:
        written(path, content)
    with pytest.raises(InputError, match=says) as raised:
        load_dataset("own", path)
    assert "\n" not in str(raised.value)


def test_missing_columns_name_those_found_and_those_expected(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "text,gold\na,b\n")
    with pytest.raises(InputError, match=r"row 1 has the columns text, gold; expected \(answer_in"):
        load_dataset("memotrap", path)
    with pytest.raises(InputError, match=r"cannot be told.*--column FIELD=COLUMN"):
        load_dataset(str(path))
    with pytest.raises(InputError, match=r"no column for prompt; expected one of gold, text"):
        load_dataset("own", path)


def test_a_folder_of_several_layouts_asks_for_one(tmp_path: Path) -> None:
    written(tmp_path / "a.csv", "prompt,classes,answer_index\nx,\"['a', 'b']\",0\n")
    written(tmp_path / "b.csv", "clean,corrupted,label\nx,y,12\n")
    with pytest.raises(InputError, match="holds files of several layouts"):
        load_dataset(str(tmp_path))
    found = load_dataset("memotrap", tmp_path)  # named, the other file is passed over and told
    assert found.report.detected == ("not rows of memotrap, not read: b.csv",)
    assert found.report.rows == 1
    with pytest.raises(InputError, match="holds no"):
        load_dataset("homographs", tmp_path)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"name": "memotrop"}, "did you mean memotrap"),
        ({"name": "known_1000"}, "is on no hub"),
        ({"name": "own", "path": "a.csv", "limit": 0}, "limit is 0"),
        ({"name": "own", "path": "a.csv", "redefine": True}, "no option 'redefine'"),
        (
            {"name": "own", "path": "a.csv", "column_map": {"promt": "prompt"}},
            "did you mean prompt",
        ),
        ({"name": "own", "path": "a.csv", "column_map": {"prompt": "text"}}, "column 'text'"),
        ({"name": "memotrap", "path": "a.csv", "column_map": {"prompt": "text"}}, "columns of its"),
        ({"name": "own", "path": "a.csv", "split": "dev"}, "No row has 'dev'"),
    ],
)
def test_what_is_asked_wrongly_is_one_sentence(
    tmp_path: Path, how: dict[str, object], says: str
) -> None:
    rows = "prompt,contextual,classes,answer_index\nThe bass is a,fish,x,1\n"
    written(tmp_path / "a.csv", rows)
    if "path" in how:
        how = how | {"path": tmp_path / "a.csv"}
    with pytest.raises(InputError, match=says):
        load_dataset(**how)  # type: ignore[arg-type]


def test_no_case_at_all_says_why(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "prompt,contextual,associative\nx,fish,FISH\n,fish,b\n")
    with pytest.raises(InputError, match=r"two different answers \(1\).*no prompt or no context"):
        load_dataset("own", path)
