"""Rows of a file or folder: CSV, TSV, JSON, JSON Lines, Parquet, or lines of text."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from dst.core.errors import InputError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".txt")
"""What is read from a folder; the notes that lie beside data sets are not rows."""

NOTES = ("SOURCE.txt", "README.txt", "LICENSE.txt", "requirements.txt")


@dataclass(frozen=True)
class Row:
    """One record of a file.

    Attributes:
        number: 1 for the first record; for JSON Lines and plain text, the line.
        values: Column -> value, as the file has it.
        file: Name of the file, with its folders where a folder was read.
    """

    number: int
    values: Mapping[str, Any]
    file: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.number}"


def read_rows(path: Path, pattern: str = "*") -> list[Row]:
    """Every row of a file, or of every file of a folder whose name fits ``pattern``.

    A ``.json`` file may be a list, one object, or JSON Lines. Nothing is decoded further: a list
    written as text in a CSV cell stays text.

    Raises:
        InputError: The file is missing, empty, no UTF-8, truncated, or a row has other columns
            than the header; names the file and the row.
    """
    if path.is_dir():
        files = [
            file
            for file in sorted(path.rglob("*"))
            if file.suffix.lower() in SUFFIXES
            and file.name not in NOTES
            and fnmatch(file.name, pattern)
        ]
        if not files:
            raise InputError(f"The folder {path} holds no {pattern}", do="Check the path")
        return [row for file in files for row in _read(file, file.relative_to(path).as_posix())]
    if not path.exists():
        raise InputError(f"The data file {path} does not exist", do="Check the path")
    return _read(path, path.name)


def _read(path: Path, name: str) -> list[Row]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        rows = _parquet(path)
    else:
        text = _text(path)
        if not text.strip():
            raise InputError(f"{path} is empty", expected="rows")
        if suffix in (".csv", ".tsv"):
            rows = list(_table(path, text, "\t" if suffix == ".tsv" else ","))
        elif suffix == ".txt":
            rows = [(i, {"text": line}) for i, line in enumerate(text.split("\n"), 1) if line]
        elif suffix == ".json":
            rows = _json(path, text)
        else:
            rows = list(_lines(path, text))
    if not rows:
        raise InputError(f"{path} holds a header and no row", expected="rows")
    return [Row(number, values, name) for number, values in rows]


Numbered = tuple[int, Mapping[str, Any]]


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} is no UTF-8: line {line} holds the byte 0x{content[error.start]:02x}",
            do="Save it as UTF-8",
        ) from None


def _table(path: Path, text: str, delimiter: str) -> Iterator[Numbered]:
    limit = csv.field_size_limit(sys.maxsize)  # a passage is longer than csv's 128 KiB
    number = 0
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = next(reader)
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise InputError(f"{path} has two columns named {twice!r}", expected="one of a name")
        for cells in reader:
            if not cells:
                continue
            number += 1
            if len(cells) != len(header):
                raise InputError(
                    f"{path}, row {number} has {len(cells)} cells",
                    expected=f"{len(header)}, as the header has ({', '.join(header)})",
                    do="Quote cells that hold the separator or a line break",
                )
            yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(
            f"{path}, row {number + 1} cannot be read ({error})", expected="CSV with a header"
        ) from None
    finally:
        csv.field_size_limit(limit)


def _json(path: Path, text: str) -> list[Numbered]:
    """A list of objects, one object, or (whatever the suffix says) an object a line."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("[") or "\n" not in text.strip():
            raise _broken(path, text, error) from None
        return list(_lines(path, text))
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 1,000 brackets
        raise InputError(f"{path} cannot be read as JSON ({error})") from None
    values = value if isinstance(value, list) else [value]
    for i, item in enumerate(values, start=1):
        if not isinstance(item, Mapping):
            raise InputError(
                f"{path}, row {i} is a {type(item).__name__}", expected="an object with columns"
            )
    return list(enumerate(values, start=1))


def _lines(path: Path, text: str) -> Iterator[Numbered]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(
                f"{path}, row {number} is no JSON ({why})",
                expected="one object a line",
                do="The file may be cut off: fetch it again",
            ) from None
        if not isinstance(value, Mapping):
            raise InputError(
                f"{path}, row {number} is a {type(value).__name__}", expected="an object"
            )
        yield number, value


def _broken(path: Path, text: str, error: json.JSONDecodeError) -> InputError:
    """Where a list of objects stops being one: the rows before it are counted."""
    decoder, place, rows = json.JSONDecoder(), text.find("[") + 1, 0
    while True:
        while place < len(text) and text[place] in " \t\n\r,":
            place += 1
        try:
            _, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            break
        rows += 1
    return InputError(
        f"{path}, row {rows + 1} is no JSON ({error.msg}, line {error.lineno})",
        expected="a list of objects, or one object a line",
        do="The file may be cut off: fetch it again",
    )


def _parquet(path: Path) -> list[Numbered]:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise InputError(f"{path} is no Parquet file ({str(error).splitlines()[0]})") from None
    return list(enumerate(table.to_pylist(), start=1))
