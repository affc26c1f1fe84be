"""A user's own rows: columns mapped to the fields of a case."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dst.core.case import ALIASES, Case
from dst.core.errors import InputError
from dst.studies.adapters.account import Left, Made
from dst.studies.adapters.reading import Row

KNOWN = tuple(spec.name for spec in dataclasses.fields(Case))
FLAGS = ("chat",)


def convert(
    rows: Sequence[Row],
    detected: list[str],
    *,
    column_map: Mapping[str, str] | None = None,
    separator: str | None = None,
) -> Iterator[Made | Left]:
    """One case a row.

    Args:
        rows: The rows.
        detected: Takes which columns were read and which were not.
        column_map: Field of a case -> column of the file; fields that are not named are read from
            the column of their own name, if there is one.
        separator: Cut cells of several texts here; a list written as JSON or Python is read anyway.

    Raises:
        InputError: A field is unknown, or a column is not there.
    """
    columns = set(rows[0].values)
    named = {ALIASES.get(name, name): column for name, column in (column_map or {}).items()}
    for name, column in named.items():
        if name not in KNOWN:
            near = difflib.get_close_matches(name, [*KNOWN, *ALIASES], n=1)
            hint = f"did you mean {near[0]}" if near else "one of " + ", ".join(KNOWN)
            raise InputError(f"column_map names the field {name!r}", expected=hint)
        if column not in columns:
            raise InputError(
                f"column_map names the column {column!r}, which {rows[0].file} does not have",
                expected="one of " + ", ".join(sorted(map(str, columns))),
            )
    read = {ALIASES.get(c, c): c for c in columns if ALIASES.get(c, c) in KNOWN} | named
    for name in ("prompt", "contextual"):
        if name not in read:
            raise InputError(
                f"{rows[0].file} has no column for {name}",
                expected="one of " + ", ".join(sorted(map(str, columns))),
                do=f"Name it: column_map={{'{name}': 'COLUMN'}} (--column {name}=COLUMN)",
            )
    pairs = ", ".join(f"{name} from {column}" for name, column in sorted(read.items()))
    unread = sorted(columns - set(read.values()))
    detected.append(f"read: {pairs}" + (f"; not read: {', '.join(unread)}" if unread else ""))
    for row in rows:
        values = {name: _value(name, row.values.get(c), separator) for name, c in read.items()}
        given = {name: value for name, value in values.items() if value not in (None, "", [])}
        if "prompt" not in given or "contextual" not in given:
            yield Left(row, "no prompt or no contextual answer")
            continue
        extra = {column: row.values.get(column) for column in unread}
        yield Made(row, given, extra=extra)


def _value(name: str, cell: Any, separator: str | None) -> Any:
    """A cell as the field takes it: text, a list, an object, or a flag."""
    if name in FLAGS:
        return str(cell).strip().casefold() in ("true", "1", "yes")
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        return str(cell)
    if not isinstance(cell, str):
        return cell
    if name in ("prompt", "prefix"):
        return cell
    if cell.strip()[:1] in ("[", "{"):
        for read in (json.loads, ast.literal_eval):
            try:
                found = read(cell.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
            if isinstance(found, (list, dict)):
                return found
    if separator and separator in cell:
        return [part.strip() for part in cell.split(separator) if part.strip()]
    return cell
