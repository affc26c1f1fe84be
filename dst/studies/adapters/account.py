"""The account of a data set: what became a case, what was derived for it, what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dst.core.case import Case
from dst.core.errors import CaseError, DSTError
from dst.core.files import write_text_atomic
from dst.studies.adapters.reading import Row

OPTIONAL = frozenset(
    ("subject", "cue", "question", "distractor", "context_words", "competing_words")
)
"""Fields that a case can do without: one that does not fit is left empty, and counted."""


@dataclass(frozen=True)
class Made:
    """What an adapter makes of a row, or of a part of one.

    Attributes:
        row: Where it is from.
        fields: Fields of the case.
        derived: What the file does not say and the adapter worked out: ``field: how``.
        lacking: What a case has elsewhere and cannot have here: ``field: why``.
        extra: Columns of the file that no field holds, such as the stereotype's side.
    """

    row: Row
    fields: Mapping[str, Any]
    derived: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Left:
    """A row, or a part of one, that is no case, and why, without the row's own words."""

    row: Row
    reason: str


Answered = Callable[[Mapping[str, Any]], tuple[str, str]]
"""Asks a model for the answer that a file lacks: the fields to (the answer, how it was found)."""

NO_ANSWER = "the file names no true answer (with model=... the model's likeliest other word is)"


@dataclass(frozen=True)
class Count:
    """How often something was done, and where first."""

    what: str
    n: int
    first: str


@dataclass(frozen=True)
class DatasetReport:
    """What became of every row; ``cases`` and the counts of ``left_out`` sum to ``units``.

    Attributes:
        name: The data set.
        source: The file, folder or Hugging Face id that was read.
        licence: Of the data set, as far as it is known.
        rows: Rows that were read.
        unit: What one case is made of: ``row``, ``pair``, ``false atom``.
        units: How many of those there are.
        cases: How many became a case.
        detected: What was found out about the layout, in sentences.
        derived: What the file does not say and was worked out, with counts of cases.
        lacking: What the cases have to do without, with counts of cases.
        left_out: Units that are no case, by reason.
    """

    name: str
    source: str
    licence: str
    rows: int
    unit: str
    units: int
    cases: int
    detected: tuple[str, ...]
    derived: tuple[Count, ...]
    lacking: tuple[Count, ...]
    left_out: tuple[Count, ...]

    def __str__(self) -> str:
        whole = f"{self.rows} rows"
        if self.unit != "row":
            whole += f", {self.units} {self.unit}s"
        lines = [
            f"{self.name} ({self.licence}), {self.source}: {whole}, {self.cases} cases.",
            *self.detected,
        ]
        for title, counts in (
            ("derived", self.derived),
            ("not in it", self.lacking),
            ("left out", self.left_out),
        ):
            lines += [f"  {title}  {c.what}: {c.n} (first {c.first})" for c in counts]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        plain = {
            name: getattr(self, name)
            for name in ("name", "source", "licence", "rows", "unit", "units", "cases")
        }
        counts = {
            name: {count.what: count.n for count in getattr(self, name)}
            for name in ("derived", "lacking", "left_out")
        }
        return {**plain, "detected": list(self.detected), **counts}


class Dataset(list[Case]):
    """Cases of a data set, and in ``report`` what became of every row.

    Attributes:
        report: Rows, cases, what was derived and left out, with counts.
        kind: How this kind of data set is labelled (see `dst.label`).
        extra: case_id -> columns of the file that no field of a case holds.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        report: DatasetReport,
        *,
        kind: str,
        extra: Mapping[str, Mapping[str, Any]],
    ) -> None:
        super().__init__(cases)
        self.report = report
        self.kind = kind
        self.extra = dict(extra)

    def __repr__(self) -> str:
        return f"Dataset({self.report.name}, {len(self)} cases of {self.report.rows} rows)"

    def save(self, path: str | Path) -> Path:
        """Write a cases file (JSON Lines) that `dst.load_cases` and ``dst study run`` read."""
        import json

        lines = (json.dumps(case.to_dict(), ensure_ascii=False) for case in self)
        return write_text_atomic(path, "".join(f"{line}\n" for line in lines))


class Account:
    """Turns what an adapter makes into cases, and counts everything on the way."""

    def __init__(self, limit: int | None, chat: bool, answer: Answered | None) -> None:
        self.limit = limit
        self.chat = chat
        self.answer = answer
        self.cases: list[Case] = []
        self.extra: dict[str, Mapping[str, Any]] = {}
        self.units = 0
        self._seen: dict[str, Row] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._first: dict[tuple[str, str], str] = {}

    def take(self, rows: Sequence[Row], made: Iterable[Made | Left], name: str) -> None:
        """Cases of all that is made of some rows, up to the limit; no row goes uncounted."""
        number: Counter[tuple[str, int]] = Counter()
        reached: set[tuple[str, int]] = set()
        for item in made:
            self.units += 1
            reached.add((item.row.file, item.row.number))
            if isinstance(item, Left):
                self._count("left_out", item.reason, item.row)
                continue
            number[item.row.file, item.row.number] += 1
            part = number[item.row.file, item.row.number]
            stem = item.row.file.rsplit(".", 1)[0].replace("/", "-")
            place = f"{item.row.number}" if part == 1 else f"{item.row.number}.{part}"
            self._add(item, f"{name}/{stem}/{place}")
            if self.limit is not None and len(self.cases) >= self.limit:
                return
        for row in rows:
            if (row.file, row.number) not in reached:
                self.units += 1
                self._count("left_out", "nothing in it to make a case of", row)

    def counts(self, kind: str) -> tuple[Count, ...]:
        """What was counted of one kind, the most frequent first."""
        counted = self._counts.get(kind, Counter())
        return tuple(Count(what, n, self._first[kind, what]) for what, n in counted.most_common())

    def _add(self, item: Made, case_id: str) -> None:
        fields, derived, lacking = dict(item.fields), list(item.derived), list(item.lacking)
        if self.chat:
            fields.setdefault("chat", True)
        if not fields.get("contextual"):
            if self.answer is None:
                return self._count("left_out", NO_ANSWER, item.row)
            try:
                fields["contextual"], how = self.answer(fields)
            except DSTError as error:
                why = f"the model has no other word to give ({type(error).__name__})"
                return self._count("left_out", why, item.row)
            derived.append(f"contextual: {how}")
        while True:
            try:
                case = Case(**{"case_id": case_id, **fields})
                break
            except CaseError as error:
                why = f"{error.field}: expected {error.expected}"
                if error.field not in OPTIONAL or not fields.get(error.field):
                    return self._count("left_out", why, item.row)
                del fields[error.field]
                derived = [line for line in derived if not line.startswith(f"{error.field}:")]
                lacking.append(why)
        content = case.content_hash()
        if content in self._seen:
            return self._count("left_out", "the same case as an earlier row's", item.row)
        self._seen[content] = item.row
        self.cases.append(case)
        if item.extra:
            self.extra[case.case_id] = item.extra
        for kind, lines in (("derived", derived), ("lacking", lacking)):
            for line in lines:
                self._count(kind, line, item.row)
        return None

    def _count(self, kind: str, what: str, row: Row) -> None:
        self._counts.setdefault(kind, Counter())[what] += 1
        self._first.setdefault((kind, what), str(row))
