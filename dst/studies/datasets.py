"""`load_dataset`: a public benchmark, or rows of your own, as cases."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dst.core.case import Case
from dst.core.errors import InputError
from dst.models.backend import Backend
from dst.studies.adapters import (
    circuits,
    counterfact,
    facts,
    halogen,
    halueval,
    memotrap,
    own,
    pronouns,
    racing_thoughts,
    senses,
    truthfulqa,
)
from dst.studies.adapters.account import Account, Dataset, DatasetReport, Left, Made
from dst.studies.adapters.hub import hub_rows
from dst.studies.adapters.reading import Row, read_rows
from dst.studies.adapters.templates import template_rows

__all__ = ["ADAPTERS", "Adapter", "Dataset", "DatasetReport", "Layout", "load_dataset"]

Convert = Callable[..., Iterator[Made | Left]]


@dataclass(frozen=True)
class Layout:
    """One way in which a data set's files are written.

    Attributes:
        needs: Columns by which it is known.
        convert: Its adapter; keyword-only arguments are its options.
        unit: What one case is made of.
        telling: Whether the columns alone tell the data set, where none is named.
    """

    needs: frozenset[str]
    convert: Convert
    unit: str = "row"
    telling: bool = True


@dataclass(frozen=True)
class Adapter:
    """A data set: where it is from, how it may be used, how it is labelled.

    Attributes:
        licence: Its licence.
        kind: How its cases are labelled (see `dst.label`).
        layouts: How its files are written.
        hub: Hugging Face id, "" where there is none; ``config`` and ``split`` go with it.
        pattern: Names of its files in a folder.
        read: How it is read, where it is not rows of a file.
    """

    licence: str
    kind: str
    layouts: tuple[Layout, ...]
    hub: str = ""
    config: str | None = None
    split: str | None = None
    pattern: str = "*"
    read: Callable[[Path, str], list[Row]] = read_rows


_RACING = frozenset(("prompt", "label", "object", "cue", *racing_thoughts.SENSES))

ADAPTERS: dict[str, Adapter] = {
    "racing_thoughts": Adapter(
        "none stated",
        "yes_no",
        (Layout(_RACING, racing_thoughts.convert),),
        hub="gagan3012/HallData",
        split="train",
    ),
    "counterfact": Adapter(
        "MIT",
        "greedy_token",
        tuple(
            Layout(needs, counterfact.convert)
            for needs in (counterfact.COMP_MECH, counterfact.TRACING, counterfact.NESTED)
        ),
        hub="NeelNanda/counterfact-tracing",
        split="train",
    ),
    "memotrap": Adapter(
        "MIT",
        "greedy_token",
        (Layout(memotrap.NEEDS, memotrap.convert),),
        hub="pminervini/inverse-scaling",
        config="memo-trap",
        split="data",
        pattern="*.csv",
    ),
    "winobias": Adapter(
        "MIT",
        "greedy_token",
        (
            Layout(pronouns.QUESTIONS, pronouns.questions),
            Layout(pronouns.BRACKETS, pronouns.brackets, telling=False),
        ),
    ),
    "winogender": Adapter(
        "MIT",
        "greedy_token",
        (Layout(pronouns.WINOGENDER, pronouns.winogender),),
        hub="oskarvanderwal/winogender",
    ),
    "truthfulqa": Adapter(
        "Apache-2.0",
        "multiple_choice",
        tuple(
            Layout(needs, truthfulqa.convert)
            for needs in (truthfulqa.TABLE, truthfulqa.GENERATION, truthfulqa.CHOICES)
        ),
        hub="truthfulqa/truthful_qa",
        config="generation",
        split="validation",
    ),
    "halueval": Adapter(
        "MIT",
        "generation",
        tuple(
            Layout(needs, halueval.convert, unit="answer")
            for needs in (halueval.QA, halueval.SAMPLES)
        ),
        hub="pminervini/HaluEval",
        config="qa",
        split="data",
    ),
    "halogen": Adapter(
        "none stated",
        "greedy_token",
        (
            Layout(frozenset(("response", "atomic_units")), halogen.convert, unit="false atom"),
            Layout(frozenset(("response", "atoms")), halogen.convert, unit="false atom"),
            Layout(frozenset(("prompt",)), halogen.convert, telling=False),
        ),
        hub="lasha-nlp/HALoGEN-prompts",
        pattern="*.csv",
    ),
    "known_1000": Adapter("MIT", "generation", (Layout(facts.KNOWN, facts.known),)),
    "lre": Adapter("MIT", "generation", (Layout(facts.RELATION, facts.relations, unit="pair"),)),
    "ioi": Adapter(
        "MIT (EAP-IG), Apache-2.0 (MIB)",
        "greedy_token",
        (
            Layout(circuits.IOI, circuits.indirect_object),
            Layout(circuits.IOI_BARE, circuits.indirect_object_bare, telling=False),
        ),
    ),
    "ioi_templates": Adapter(
        "Apache-2.0",
        "greedy_token",
        (Layout(circuits.TEMPLATES, circuits.templates, unit="draw"),),
        read=template_rows,
    ),
    "mib": Adapter(
        "Apache-2.0", "greedy_token", (Layout(circuits.MIB, circuits.mib),), hub="mib-bench/ioi"
    ),
    "greater_than": Adapter(
        "MIT", "greedy_token", (Layout(circuits.GREATER, circuits.greater_than),)
    ),
    "agreement": Adapter("MIT", "greedy_token", (Layout(circuits.AGREEMENT, circuits.agreement),)),
    "wordnet": Adapter(
        "CC BY 4.0", "greedy_token", (Layout(senses.WORDNET, senses.wordnet, unit="sense"),)
    ),
    "homographs": Adapter(
        "Apache-2.0",
        "greedy_token",
        (Layout(senses.HOMOGRAPHS, senses.homographs),),
        pattern="*.tsv",
    ),
    "own": Adapter("yours", "greedy_token", (Layout(frozenset(), own.convert, telling=False),)),
}
"""Every data set by name; `docs/datasets.md` says what each derives and leaves out."""

YES_NO = frozenset(("yes", "no", "true", "false"))


def load_dataset(
    name: str,
    path: str | Path | None = None,
    *,
    config: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    column_map: Mapping[str, str] | None = None,
    chat: bool = False,
    model: Backend | None = None,
    **options: Any,
) -> Dataset:
    """The cases of a data set, and an account of every row: used, derived for, or left out.

    A row becomes a `Case` that passes every check of it, or it is counted in ``report`` with its
    reason. What a benchmark does not hold (subject, cue, variants, the other answer) is derived
    by a stated rule or left empty; both are counted.

    Args:
        name: A data set of `ADAPTERS`; a Hugging Face id, or the path of a file, whose layout is
            then told from its columns; or ``own`` for rows of your own.
        path: The file, or a folder of files. Without it, the Hugging Face id is fetched.
        config: Configuration on the hub, where it has several.
        split: Split on the hub, or (of a file) rows whose column ``split`` has this value.
        limit: Stop after this many cases.
        column_map: For rows of your own: field of a case -> column.
        chat: Send every prompt through the model's chat template, as a user message.
        model: Asked for its likeliest other word where a file names a wrong answer and no right
            one (HALoGEN). Without it, such rows are left out.
        **options: Of the data set's adapter, such as ``redefine=True`` of counterfact.

    Returns:
        `Dataset`: a list of cases with ``report``, ``kind`` (how it is labelled) and ``extra``.

    Raises:
        InputError: The name, an option or a column is unknown, the file cannot be read (with its
            row), or no row of it is a case.

    Example:
        >>> cases = dst.load_dataset("memotrap", "1-proverb-ending.csv")  # doctest: +SKIP
        >>> print(cases.report)  # doctest: +SKIP
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}", expected="1 or more, or None for all")
    if path is None and name not in ADAPTERS and Path(name).exists():
        name, path = "", name
    if name in ("", *ADAPTERS) and (path is not None or not _hub(name)):
        if path is None:
            raise InputError(
                f"{name} is on no hub", do="Give path=... (--path), a file or a folder"
            )
        adapter = ADAPTERS.get(name)
        read = adapter.read if adapter else read_rows
        rows, source = read(Path(path), adapter.pattern if adapter else "*"), str(path)
        rows = _of_split(rows, split)
    else:
        rows, source = _from_hub(name, config, split), _hub(name) or name
    if column_map is not None and name not in ADAPTERS:
        name = "own"
    name, layout, rows, notes = _layout(name if name in ADAPTERS else "", rows, source)
    if column_map is not None and name != "own":
        raise InputError(f"{name} has columns of its own", do="Give column_map with name='own'")
    if column_map is not None:
        options["column_map"] = column_map
    if "folder" in _options(layout.convert) and path is not None:
        options.setdefault("folder", Path(path))
    detected = [*notes]
    convert = _with_options(name, layout.convert, options)
    account = Account(limit, chat, None if model is None else partial(_likeliest_other, model))
    account.take(rows, convert(rows, detected), name)
    if limit is not None and len(account.cases) == limit:
        detected.append(f"stopped at {limit} cases: what comes after was not looked at")
    report = DatasetReport(
        name=name,
        source=source,
        licence=ADAPTERS[name].licence,
        rows=len(rows),
        unit=layout.unit,
        units=account.units,
        cases=len(account.cases),
        detected=tuple(detected),
        derived=account.counts("derived"),
        lacking=account.counts("lacking"),
        left_out=account.counts("left_out"),
    )
    if not account.cases:
        why = "; ".join(f"{count.what} ({count.n})" for count in report.left_out)
        raise InputError(f"No row of {source} is a case of {name}: {why}")
    return Dataset(account.cases, report, kind=_kind(name, account.cases), extra=account.extra)


# -- rows ----------------------------------------------------------------------------------


def _hub(name: str) -> str:
    return ADAPTERS[name].hub if name in ADAPTERS else ""


def _from_hub(name: str, config: str | None, split: str | None) -> list[Row]:
    adapter = ADAPTERS.get(name)
    if adapter is None:
        if "/" not in name:
            near = difflib.get_close_matches(name, ADAPTERS, n=1)
            raise InputError(
                f"There is no data set {name!r}",
                expected=f"did you mean {near[0]}" if near else "one of " + ", ".join(ADAPTERS),
                do="Or give a Hugging Face id, or the path of a file",
            )
        known = next((a for a in ADAPTERS.values() if a.hub == name), None)
        config = config or (known.config if known else None)
        return hub_rows(name, config, split or (known.split if known else None))
    return hub_rows(adapter.hub, config or adapter.config, split or adapter.split)


def _of_split(rows: list[Row], split: str | None) -> list[Row]:
    if split is None:
        return rows
    kept = [row for row in rows if str(row.values.get("split")) == split]
    if not kept:
        raise InputError(f"No row has {split!r} in a column named split", do="Leave split out")
    return kept


# -- layouts -------------------------------------------------------------------------------


def _layout(
    name: str, rows: Sequence[Row], source: str
) -> tuple[str, Layout, list[Row], list[str]]:
    """The data set and the layout that the rows have; files of a folder that fit none are named."""
    firsts: dict[str, Row] = {}
    for row in rows:
        firsts.setdefault(row.file, row)
    fits = {file: _fitting(name, row) for file, row in firsts.items()}
    found = {(own_name, layout.convert): layout for _, (own_name, layout) in _known(fits)}
    if not found:
        raise _no_layout(name, next(iter(firsts.values())), source)
    if len(found) > 1 or len({layout.needs for _, (_, layout) in _known(fits)}) > 1:
        names = ", ".join(file for file, _ in _known(fits))
        raise InputError(
            f"{source} holds files of several layouts ({names})",
            expected="one file, or a folder of files of one layout",
        )
    ((own_name, _), layout) = next(iter(found.items()))
    other = [file for file, fit in fits.items() if fit is None]
    kept = [row for row in rows if fits[row.file] is not None]
    notes = [f"not rows of {own_name}, not read: {', '.join(other)}"] if other else []
    return own_name, layout, kept, notes


Fit = tuple[str, Layout]


def _known(fits: Mapping[str, Fit | None]) -> list[tuple[str, Fit]]:
    return [(file, fit) for file, fit in fits.items() if fit is not None]


def _fitting(name: str, row: Row) -> Fit | None:
    """The layout with the most columns of those that a row has."""
    columns = set(row.values)
    candidates = [
        (key, layout)
        for key, adapter in ADAPTERS.items()
        for layout in adapter.layouts
        if (key == name if name else layout.telling) and columns >= layout.needs
    ]
    if not candidates and not name and {"prompt", "contextual"} <= columns:
        candidates = [("own", ADAPTERS["own"].layouts[0])]
    return max(candidates, key=lambda fit: len(fit[1].needs), default=None)


def _no_layout(name: str, row: Row, source: str) -> InputError:
    columns = ", ".join(map(str, row.values))
    if not name:
        return InputError(
            f"Which data set {source} is cannot be told: {row} has the columns {columns}",
            do="Name the data set, or give name='own' with column_map=... (--column FIELD=COLUMN)",
        )
    wanted = " or ".join(
        f"({', '.join(sorted(layout.needs))})" for layout in ADAPTERS[name].layouts
    )
    return InputError(
        f"{row} has the columns {columns}", expected=f"{wanted} of {name}", do="Check the file"
    )


# -- options -------------------------------------------------------------------------------


def _options(convert: Convert) -> list[str]:
    parameters = inspect.signature(convert).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def _with_options(name: str, convert: Convert, given: Mapping[str, Any]) -> Convert:
    known = _options(convert)
    for option in given:
        if option not in known:
            takes = ", ".join(o for o in known if o != "folder") or "none"
            raise InputError(f"{name} has no option {option!r}", expected=f"its options: {takes}")
    return partial(convert, **given)


def _kind(name: str, cases: Sequence[Case]) -> str:
    answers = {form.casefold() for case in cases for form in (*case.contextual, *case.associative)}
    return "yes_no" if answers <= YES_NO else ADAPTERS[name].kind


def _likeliest_other(model: Backend, fields: Mapping[str, Any]) -> tuple[str, str]:
    """The likeliest word that a model would say instead of the wrong one, and how it was found."""
    from dst.models.tokens import tokenize_case
    from dst.studies.rival import find_rival

    wrong = {**fields, "contextual": fields["associative"], "associative": ()}
    wanted = {"prompt", "prefix", "contextual", "chat"}
    case = Case(**{name: value for name, value in wrong.items() if name in wanted})
    rival = find_rival(model, tokenize_case(model.tokenizer, case))
    return rival.form, f"the likeliest other word of {model.spec.name}"
