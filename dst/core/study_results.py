"""`StudyTable`: one row per case, one column per number; on disk it is plain Parquet.

It needs no model to be read: statistics and figures of a study start here. Column names:

* ``dss_causal@0.75``: a score at a share of depth, by the nearest state (`sites.state_at`);
* ``dss_causal``: in the file, the score of every state as a list. `StudyTable.column` gives
  one number per row, so there a bare name means ``@0.75``; `StudyTable.curve` gives the list;
* ``commitment (causal, de-prime)``: a mark, as a state, with ``.reason``, ``.low``, ``.high``.

An undefined number is null in the file and NaN as NumPy.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dst.core.errors import InputError, ResultError
from dst.core.files import write_atomic
from dst.core.sites import state_at

DEPTH = 0.75
"""The share of depth that a score's bare name means: late enough to have formed, and not yet
the output itself."""

RESULTS, MANIFEST, PARTS = "results.parquet", "manifest.json", "parts"
"""What lies in a study's folder."""

STUDY_KEY = b"dst.study"
"""Where a Parquet file of a study keeps what study it is of, as JSON."""


@dataclass(frozen=True, eq=False)
class StudyTable:
    """One row per case of a study.

    Attributes:
        arrow: The rows, as a pyarrow table.
    """

    arrow: Any

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {name}" for name, n in self.outcomes().items())
        return f"StudyTable({len(self)} cases: {counts})"

    @property
    def names(self) -> tuple[str, ...]:
        """Every column of the file, in order."""
        return tuple(self.arrow.column_names)

    @cached_property
    def study(self) -> Mapping[str, Any]:
        """What was run: the study's digest, model, settings and versions; {} if unknown."""
        stored = (self.arrow.schema.metadata or {}).get(STUDY_KEY)
        return {} if stored is None else json.loads(stored)

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the columns that have a value at every state."""
        import pyarrow as pa

        return tuple(
            field.name
            for field in self.arrow.schema
            if pa.types.is_list(field.type) and pa.types.is_floating(field.type.value_type)
        )

    # -- columns -----------------------------------------------------------------------

    def column(self, name: str) -> np.ndarray:
        """One value per row: float64 with NaN where undefined, or text as objects with None.

        A score is asked for at a share of depth (``dss_causal@0.5``); its bare name means
        ``@0.75`` (`resolve` says what a name means). Truth values are 1, 0 and NaN.

        Raises:
            InputError: There is no such column; the nearest ones are named.
        """
        name = self.resolve(name)
        if name not in self.names:  # a depth that is not stored
            score, _, depth = name.rpartition("@")
            return np.array([_value_at(row, float(depth)) for row in self._lists(score)])
        column = self.arrow.column(name)
        if _is_number(column.type):
            return _numbers(column)
        return np.array([*column.to_pylist(), None], dtype=object)[:-1]

    def resolve(self, name: str) -> str:
        """The full name of a column: a score's bare name means it at `DEPTH`.

        Raises:
            InputError: There is no such column.
        """
        if name in self.scores:
            return f"{name}@{DEPTH:g}"
        if name in self.names:
            return name
        score, at, depth = name.rpartition("@")
        if at and score in self.scores:
            return f"{score}@{_checked_depth(name, depth)}"
        import difflib

        near = difflib.get_close_matches(name, [*self.names, *self.scores], n=3)
        hint = f"did you mean {' or '.join(near)}" if near else "see .names for what there is"
        raise InputError(f"The table has no column {name!r}", expected=hint)

    def curve(self, name: str) -> Float[np.ndarray, "case state"]:
        """A score of every case at every state; NaN where undefined, and where a case failed.

        Raises:
            InputError: It is no score, or the cases are of models of different depth.
        """
        if name not in self.scores:
            raise InputError(f"{name!r} has no value per state", expected=f"of {self.scores}")
        lists = self._lists(name)
        lengths = {len(row) for row in lists if row is not None}
        if len(lengths) > 1:
            raise InputError(
                f"The cases have {' and '.join(map(str, sorted(lengths)))} states",
                do="Take the rows of one depth first, with .where(...)",
            )
        blank = [None] * next(iter(lengths), 0)
        return np.array([blank if row is None else row for row in lists], dtype=np.float64)

    def reasons(self, name: str) -> list[str]:
        """Why a column is undefined, row by row; "" where it is defined or no reason is stored."""
        name = self.resolve(name)
        score, at, depth = name.rpartition("@")
        failed = self.arrow.column("reason").to_pylist()
        if at and f"{score}.reasons" in self.names:
            told = self._lists(f"{score}.reasons")
            found = [row[state_at(float(depth), len(row) - 1)] if row else None for row in told]
        elif f"{name}.reason" in self.names:
            found = self.arrow.column(f"{name}.reason").to_pylist()
        else:
            found = [None] * len(self)
        return [
            (a or b or "") if missing else ""
            for a, b, missing in zip(found, failed, _missing(self.column(name)), strict=True)
        ]

    # -- rows --------------------------------------------------------------------------

    def where(self, rows: Any) -> StudyTable:
        """The rows of a mask, such as ``table.where(table.column("status") == "ok")``.

        Raises:
            InputError: The mask is not one truth value per row.
        """
        import pyarrow as pa

        mask = np.asarray(rows)
        if mask.shape != (len(self),) or mask.dtype != bool:
            raise InputError(
                f"The mask is {mask.dtype} of shape {mask.shape}",
                expected=f"one truth value for each of {len(self)} rows",
            )
        return StudyTable(self.arrow.filter(pa.array(mask)))

    def outcomes(self) -> dict[str, int]:
        """How many cases ended in what; ``failed`` counts those without a result."""
        ends = zip(self.column("outcome"), self.column("status"), strict=True)
        counts = Counter(outcome if status == "ok" else "failed" for outcome, status in ends)
        order = ("correct", "hallucination", "neither", "failed")
        return {name: counts[name] for name in order if counts[name]}

    def failures(self) -> dict[str, int]:
        """Why cases failed, the most frequent reason first."""
        failed = self.column("status") == "failed"
        return dict(Counter(self.column("reason")[failed]).most_common())

    # -- elsewhere ---------------------------------------------------------------------

    def to_pandas(self) -> Any:
        """As a pandas data frame (pandas is not installed with dst).

        Raises:
            InputError: pandas is not installed.
        """
        try:
            return self.arrow.to_pandas()
        except ImportError:
            raise InputError(
                "pandas is not installed", do="Install it, or use .column() or .to_records()"
            ) from None

    def to_records(self) -> list[dict[str, Any]]:
        """One dictionary per case; None where undefined."""
        records: list[dict[str, Any]] = self.arrow.to_pylist()
        return records

    def save(self, path: str | Path) -> Path:
        """Write the table as Parquet, atomically; the same rows give the same bytes.

        Raises:
            ResultError: The path cannot be written.
        """
        import pyarrow.parquet as pq

        return write_atomic(path, lambda stream: pq.write_table(self.arrow, stream))

    # -- inside ------------------------------------------------------------------------

    def _lists(self, name: str) -> list[list[Any] | None]:
        found: list[list[Any] | None] = self.arrow.column(name).to_pylist()
        return found


def stack(tables: Sequence[StudyTable]) -> StudyTable:
    """Several studies as one table, such as one per checkpoint; ``model`` tells them apart.

    Columns that a table lacks are undefined in its rows.

    Raises:
        InputError: There is no table, or one column is text here and numbers there.
    """
    import pyarrow as pa

    if not tables:
        raise InputError("There are no tables to stack", expected="one or more")
    try:
        return StudyTable(
            pa.concat_tables(
                [table.arrow.replace_schema_metadata(None) for table in tables],
                promote_options="permissive",
            )
        )
    except pa.ArrowInvalid as error:
        raise InputError(f"The tables do not fit together ({error})") from None
    except pa.ArrowTypeError as error:
        raise InputError(f"The tables do not fit together ({error})") from None


def open_study(path: str | Path) -> StudyTable:
    """Read a study: its folder, or its ``results.parquet``.

    Raises:
        ResultError: There is none, it is unfinished, or the file is no table of a study.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    file = path / RESULTS if path.is_dir() or not path.suffix else path
    if not file.is_file():
        if (file.parent / MANIFEST).is_file():
            manifest = json.loads((file.parent / MANIFEST).read_text("utf-8"))
            done = len(list((file.parent / PARTS).glob("[0-9]*.parquet")))
            raise ResultError(
                f"The study in {file.parent} is unfinished: {done} of "
                f"{len(manifest['batches'])} batches are done",
                do="Run the same command again; it goes on from there",
            )
        raise ResultError(f"There is no study in {path}", expected=f"a folder with {RESULTS}")
    try:
        table = pq.read_table(file, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise ResultError(
            f"{file} is no Parquet table, or is damaged ({str(error).splitlines()[0]})"
        ) from None
    if not {"case_id", "status", "reason", "outcome"} <= set(table.column_names):
        raise ResultError(f"{file} is no table of a study", do=f"Give a folder with {RESULTS}")
    return StudyTable(table)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind))


def _numbers(column: Any) -> Float[np.ndarray, " case"]:
    """A column of numbers or truth values as float64, null as NaN."""
    import pyarrow as pa

    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64).copy()


def _value_at(row: Sequence[float | None] | None, depth: float) -> float:
    value = None if not row else row[state_at(depth, len(row) - 1)]
    return float("nan") if value is None else value


def _checked_depth(name: str, depth: str) -> str:
    """A share of depth in the one way in which it is written: 0.75, 0.5, 1.

    Raises:
        InputError: It is none.
    """
    try:
        share = float(depth)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise InputError(f"{name!r} asks for the depth {depth}", expected="a share from 0 to 1")
    return f"{share:g}"


def _missing(values: np.ndarray) -> list[bool]:
    return [value is None or value != value for value in values.tolist()]
