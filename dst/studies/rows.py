"""One case as one row of a study: every number that the statistics ask of it, by fixed columns.

Undefined numbers are None, with their reason in a column beside them. A row says nothing of when or
where it was computed, so the same study gives the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa

from dst.analysis.coherence import DEFINITIONS
from dst.analysis.commitment import REPAIRS
from dst.analysis.markers import CODE, GUIDE, LENS
from dst.core.case import Case
from dst.core.errors import DSTError, InputError
from dst.core.lens_results import ReferenceRuns, TunedLens
from dst.core.results import Coherence, Estimate, Mark, Markers, Pathways
from dst.models.backend import Backend
from dst.models.memory import is_out_of_memory
from dst.studies.explain import outcome_of
from dst.studies.failure import failure
from dst.studies.inferred import with_suggestion
from dst.studies.measure import Measured, coherence, markers, measure
from dst.studies.rival import with_rival
from dst.studies.verdict import answer_of

Measure = Literal["coherence", "markers", "failure"]
MEASURES: tuple[Measure, ...] = ("coherence", "markers", "failure")
"""What a study can measure besides the answer and the two flows."""

DEPTHS = (0.25, 0.5, 0.75, 1.0)
"""Shares of depth at which every score has a column of its own."""

Row = dict[str, Any]

TEXT, NUMBER, WHOLE, TRUTH = pa.string(), pa.float64(), pa.int64(), pa.bool_()
NUMBERS, TEXTS = pa.list_(NUMBER), pa.list_(TEXT)

IDENTITY = {
    "case_id": TEXT, "group": TEXT, "label": TEXT, "prompt": TEXT, "contextual": TEXT,
    "associative": TEXT, "content_hash": TEXT, "key": TEXT, "model": TEXT, "weights_hash": TEXT,
    "batch": WHOLE, "status": TEXT, "reason": TEXT, "reason_kind": TEXT,
}  # fmt: skip
ANSWER = {
    "outcome": TEXT, "error": NUMBER, "answer": TEXT, "answer_prob": NUMBER,
    "contextual_prob": NUMBER, "associative_prob": NUMBER, "entropy": NUMBER, "contrast": NUMBER,
    "prompt_tokens": WHOLE, "distractors": WHOLE, "n_layers": WHOLE, "inferred": TEXT,
    "notes": TEXTS,
}  # fmt: skip
TERMS = ("base", "prior", "total_effect")
AT_ANSWER = tuple(
    f"{flow}_{form}" for flow in ("contextual", "associative") for form in ("insertion", "removal")
)
FLOWS = (
    {"paths_reason": TEXT}
    | {f"{term}{end}": NUMBER for term in TERMS for end in ("", ".low", ".high")}
    | {
        "contextual_floor": NUMBER,
        "associative_floor": NUMBER,
        "cancelled": TRUTH,
        "no_conflict": TRUTH,
    }
    | {"self_patch_error": NUMBER, "donor_error": NUMBER}
    | dict.fromkeys(AT_ANSWER, NUMBERS)
)
MARKS = (
    *(("commitment", f"causal, {name}") for name in (*REPAIRS, "dose")),
    *(
        (name, f"{flow} flow at answer")
        for flow in ("contextual", "associative")
        for name in ("arrival", "handover")
    ),
    *(
        (name, f"{rule} on {score}")
        for rule, score in (
            (LENS, "margin"),
            (LENS, "margin_tuned"),
            (GUIDE, "dss_published"),
            (CODE, "cas_published"),
        )
        for name in ("onset", "inversion", "commitment")
    ),
)
"""Every mark that a case can have, by name and definition."""

FAILURE = {"failure_mode": TEXT, "failure_rule": TEXT, "failure_says": TEXT}


def columns(measures: Iterable[str]) -> dict[str, pa.DataType]:
    """Name -> type of every column that a study has whatever its cases are, in order."""
    wanted = set(measures)
    found = IDENTITY | ANSWER | FLOWS
    if "coherence" in wanted:
        for name in DEFINITIONS:
            found |= {f"{name}@{depth:g}": NUMBER for depth in DEPTHS}
            found |= {f"{name}.total": NUMBER, name: NUMBERS, f"{name}.reasons": TEXTS}
            found |= {f"{name}.note": TEXT}
    if "markers" in wanted:
        for mark in MARKS:
            found |= _mark_columns(*mark)
    return found | FAILURE if "failure" in wanted else found


def _mark_columns(name: str, definition: str) -> dict[str, pa.DataType]:
    column = f"{name} ({definition})"
    return {column: NUMBER, f"{column}.reason": TEXT, f"{column}.low": NUMBER} | {
        f"{column}.high": NUMBER
    }


def identity_of(case: Case) -> Row:
    """What a row says of its case before anything is run."""
    return {
        "case_id": case.case_id,
        "group": case.group,
        "label": case.label,
        "prompt": case.text,
        "contextual": " | ".join(case.contextual),
        "associative": " | ".join(case.associative),
        "content_hash": case.content_hash(),
        "distractors": len(case.distractor),
    }


def failed(error: Exception) -> Row:
    """What a row says of a case that could not be measured."""
    told = str(error) or "no reason was given"
    if not isinstance(error, DSTError):
        told = f"A fault of dst or of the model's code: {type(error).__name__}: {told}"
    return {"status": "failed", "reason": told, "reason_kind": type(error).__name__}


def measured_row(
    model: Backend,
    case: Case,
    *,
    measures: Sequence[str] = ("coherence", "markers"),
    draws: int,
    seed: int,
    suggest: bool = False,
    lens: TunedLens | None = None,
    reference: ReferenceRuns | None = None,
) -> Row:
    """Everything of one case but its identity; a case that cannot be measured is a failed row.

    Args:
        model: The model.
        case: The case.
        measures: Some of `MEASURES`.
        draws: Variants to draw where the case gives none.
        seed: Seed of the draws and of the bootstrap.
        suggest: Infer a cue and a subject that the case does not name.
        lens: A tuned lens of the model.
        reference: Its correct runs.

    Raises:
        Exception: Only where the fault is not the case's: memory, a disk, a device.
    """
    try:
        case, told = with_rival(model, case)
        if suggest:
            case, _, found = with_suggestion(model, case, seed=seed)
            told = (*told, *found)
        run = measure(model, case, draws=draws, seed=seed, lens=lens, reference=reference)
        row = {"status": "ok", "inferred": " ".join(told) or None} | _answer(run)
        row["associative"] = " | ".join(case.associative)
        row |= _flows(run)
        score = None
        if {"coherence", "markers"} & set(measures):
            score = coherence(model, case, measured=run)
        if score is not None and "coherence" in measures:
            row |= _scores(score, run)
        if "markers" in measures:
            row |= _marks(markers(model, case, measured=run, score=score), run)
        if "failure" in measures:
            row |= _failure(model, case, run, draws, seed)
        return row
    except DSTError as error:
        return failed(error)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if is_out_of_memory(error) or _is_of_device(error):
            raise
        return failed(error)


def _is_of_device(error: Exception) -> bool:
    """Whether a device failed: then every case after this one would fail as well."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


def _answer(run: Measured) -> Row:
    seen, lens = run.seen, run.lens
    outcome = outcome_of(seen, int(seen.logits.argmax()))
    return {
        "outcome": outcome,
        "error": {"hallucination": 1.0, "correct": 0.0}.get(outcome),
        "answer": answer_of(seen, lens),
        "answer_prob": math.exp(float(lens.top_log_prob[-1, 0])),
        "contextual_prob": float(lens.contextual_prob[-1]),
        "associative_prob": float(lens.associative_prob[-1]),
        "entropy": float(lens.entropy[-1]),
        "contrast": number(seen.contrast),
        "prompt_tokens": len(seen.ids),
        "n_layers": seen.n_layers,
        "notes": [*run.notes, *seen.notes, *seen.dropped_forms],
    }


def _flows(run: Measured) -> Row:
    paths = run.paths
    if paths is None:
        return {"paths_reason": "; ".join(run.notes)}
    row: Row = {}
    for term in TERMS:
        value: Estimate = getattr(paths, term)
        row |= {term: number(value.mean), f"{term}.low": number(value.low)}
        row[f"{term}.high"] = number(value.high)
    return row | {
        "contextual_floor": number(paths.contextual_floor),
        "associative_floor": number(paths.associative_floor),
        "cancelled": bool(paths.cancelled),
        # The association by itself is on the context's side: DSS* is 1 whatever the model reads.
        "no_conflict": bool(paths.prior.mean > paths.associative_floor),
        "self_patch_error": number(paths.self_patch_error),
        "donor_error": number(paths.donor_error),
        **{name: [number(value) for value in paths.at_answer(name)] for name in AT_ANSWER},
    }


def _scores(score: Coherence, run: Measured) -> Row:
    row: Row = {}
    states = run.seen.n_layers + 1
    for name in DEFINITIONS:
        if name not in score.names:  # needs the two flows, or a part of them
            why = _why_absent(run.paths, run.notes)
            row |= {name: [None] * states, f"{name}.reasons": [why] * states}
            continue
        one = score[name]
        row |= {f"{name}@{depth:g}": number(one.at(depth)) for depth in DEPTHS}
        row |= {
            f"{name}.total": number(one.total),
            name: [number(value) for value in one.value],
            f"{name}.reasons": list(one.reasons),
            f"{name}.note": one.note or None,
        }
    return row


def _marks(marks: Markers, run: Measured) -> Row:
    row: Row = {}
    found = {(mark.name, mark.definition): mark for mark in marks.marks}
    for name, definition in dict.fromkeys((*MARKS, *found)):
        column, mark = f"{name} ({definition})", found.get((name, definition))
        if mark is None:
            why = _why_absent(run.paths, run.notes)
            if definition.endswith("margin_tuned"):
                why = run.aids.no_lens or why
            row[f"{column}.reason"] = why
        else:
            row |= _mark(column, mark)
    return row


def _mark(column: str, mark: Mark) -> Row:
    return {
        column: number(mark.state),
        f"{column}.reason": mark.reason or None,
        f"{column}.low": number(mark.low),
        f"{column}.high": number(mark.high),
    }


def _why_absent(paths: Pathways | None, notes: Sequence[str]) -> str:
    return "; ".join(notes) if paths is None else "the model or the case does not allow it"


def _failure(model: Backend, case: Case, run: Measured, draws: int, seed: int) -> Row:
    if run.paths is None or run.fixes is None:
        return {"failure_says": "; ".join(run.notes)}
    mode = failure(
        model, case, paths=run.paths, fixes=run.fixes, draws=draws, seed=seed, show_progress=False
    )
    findings = {f"finding: {finding.name}": finding.holds for finding in mode.findings}
    named = {"failure_mode": mode.mode, "failure_rule": mode.rule, "failure_says": mode.says}
    return named | findings


def number(value: float) -> float | None:
    """A number of a row: None where it is undefined."""
    return None if math.isnan(value) else float(value)


# -- rows as a table -------------------------------------------------------------------


def as_arrow(rows: Sequence[Mapping[str, Any]], measures: Iterable[str]) -> pa.Table:
    """Rows as a table: the fixed columns in their order, then the others by name.

    Raises:
        InputError: A column of somebody's own is neither text, number, truth value nor a list
            of such, or is one here and another there.
    """
    known = columns(measures)
    others = sorted({name for row in rows for name in row} - known.keys())
    fields, arrays = [], []
    for name in (*known, *others):
        values = [row.get(name) for row in rows]
        try:
            array = pa.array(values, type=known.get(name))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(
                f"The column {name!r} cannot be stored ({str(error).splitlines()[0]})",
                expected="text, numbers or truth values in all of its rows",
            ) from None
        fields.append(pa.field(name, array.type))
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def joined(parts: Sequence[pa.Table], measures: Iterable[str]) -> pa.Table:
    """Parts of a study as one table: the fixed columns first, the others by name.

    Raises:
        InputError: A column of somebody's own is text here and numbers there.
    """
    known = columns(measures)
    parts = [part.replace_schema_metadata(None) for part in parts]
    try:
        table = pa.concat_tables(parts, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"The labels of some cases do not fit the others' ({error})") from None
    others = sorted(set(table.column_names) - known.keys())
    table = table.select([*known, *others])
    nothing = [field for field in table.schema if pa.types.is_null(field.type)]
    for field in nothing:
        place = table.schema.get_field_index(field.name)
        table = table.set_column(place, field.name, table.column(place).cast(NUMBER))
    return table.combine_chunks()
