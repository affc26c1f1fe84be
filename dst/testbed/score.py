"""Grades a measure on planted models, ours and anybody's: does it return what was planted?

A measure is anything with a name that takes a model and a case and returns numbers by name:

    class Difference:
        name = "difference"

        def __call__(self, model, case):
            rows = [model.tokenizer(str(text))["input_ids"] for text in (case.text, *case.neutral)]
            logits = model.run(rows, logits_at=[-1]).last_logits
            answers = [case.contextual[0], case.associative[0]]
            plus, minus = model.tokenizer.convert_tokens_to_ids(answers)
            ld = logits[:, plus] - logits[:, minus]
            return {"total_effect": float(ld[0] - ld[1:].mean())}

    print(table(score([Difference()], sample(34, seed=0))))

`dst.testbed.grades.known` lists the names; a measure returns those that it can.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any, Protocol

import numpy as np
import torch

from dst.analysis import coherence as scores
from dst.analysis import markers as rules
from dst.analysis.flows import LEAST_FLOOR
from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.results import Mark, Score, Trace
from dst.models.backend import Backend
from dst.models.load import load
from dst.testbed.grades import Grade, Item, grade, items, last_repair
from dst.testbed.planted import Plant, Planted, build
from dst.tracing import concept_vectors as concepts
from dst.tracing.attribution import attribution
from dst.tracing.commitment import repairs
from dst.tracing.cuts import cut_effects
from dst.tracing.lens import logit_lens
from dst.tracing.pathways import pathways
from dst.tracing.prepare import prepare
from dst.tracing.progress import progress
from dst.tracing.trace import trace

DRAWS = 2
"""Draws of each variant that are measured: in a planted model all of them bring the same."""

Value = float | Sequence[float] | np.ndarray


class Measure(Protocol):
    """Anybody's measure of a model on a case: numbers by the names of `grades.known`."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    def __call__(self, model: Backend, case: Case) -> Mapping[str, Value]:
        """The quantities that it can measure; NaN where it finds nothing."""


@dataclass(frozen=True)
class BuiltIn:
    """A measure of `dst` as a `Measure`."""

    name: str
    run: Callable[[Backend, Case], Mapping[str, Value]]

    def __call__(self, model: Backend, case: Case) -> Mapping[str, Value]:
        """Measure."""
        return self.run(model, case)


# -- ours --------------------------------------------------------------------------------


def _forward(model: Backend, case: Case) -> Mapping[str, Value]:
    """LD of every run: whether the model is the one that was planted."""
    ready = prepare(model, case)
    variants = ready.variants
    runs = {
        "x": (ready.x,),
        "neutral": variants.neutral,
        "swap": variants.swap,
        "substitute": variants.substitute,
        "neutral_substitute": variants.neutral_substitute,
        "clean": variants.clean,
    }
    logits = model.run([row.ids for rows in runs.values() for row in rows], logits_at=[-1])
    ld = iter(ready.metric(logits.last_logits))
    means = {name: np.mean([next(ld) for _ in rows]) for name, rows in runs.items() if rows}
    return {f"ld@{name}": float(mean) for name, mean in means.items()}


_TRACES: weakref.WeakKeyDictionary[Backend, Trace] = weakref.WeakKeyDictionary()


def _seen(model: Backend, case: Case) -> Trace:
    """The trace of a case, made once for the measures that read it."""
    found = _TRACES.get(model)
    if found is None or found.case != case:
        found = _TRACES[model] = trace(model, case)
    return found


def _lens(model: Backend, case: Case) -> Mapping[str, Value]:
    readout = logit_lens(model, _seen(model, case))
    margin = scores.margin(readout.margin)
    return {
        "lens_margin": readout.margin,
        "inversion": rules.lens_inversion(margin, LEAST_FLOOR).state,
        "lens_commitment": rules.lens_commitment(margin, readout.answer_is_final).state,
    }


def _pathways(model: Backend, case: Case) -> Mapping[str, Value]:
    found = pathways(model, case, show_progress=False)
    out: dict[str, Value] = {
        "base": found.base.mean,
        "prior": found.prior.mean,
        "total_effect": found.total_effect.mean,
    }
    out |= {"redundant": found.redundant.astype(float), "cancelled": float(found.cancelled)}
    floors = (found.contextual_floor, found.associative_floor)
    for flow in ("contextual", "associative"):
        for form in ("removal", "insertion"):
            table = getattr(found, f"{flow}_{form}").mean(axis=0)
            out |= {f"{flow}_{form}@{role}": table[:, i] for i, role in enumerate(found.roles)}
        marks = [mark for mark in found.marks if mark.definition.startswith(flow)]
        for mark in marks:
            at = mark.definition.rpartition(" at ")[2]
            where = f"{flow}_{mark.name}"
            out[where if mark.name == "handover" else f"{where}@{at}"] = mark.state
        # A flow has not departed from where it is to stay.
        out[f"{flow}_departure@answer"] = math.nan
    before = [i for i, role in enumerate(found.roles) if role != "answer"]
    transit = (
        found.contextual_removal.mean(axis=0)[:, before].sum(axis=1),
        found.associative_removal.mean(axis=0)[:, before].sum(axis=1),
    )
    c, a = found.at_answer("contextual_insertion"), found.at_answer("associative_insertion")
    c_out, a_out = found.at_answer("contextual_removal"), found.at_answer("associative_removal")
    share = scores.dss_causal(c, a, floors)
    out |= {"dss": share.value, "dss_total": share.total}
    out["dss_removal"] = scores.dss_causal(c_out, a_out, floors, name="dss_removal").value
    out["dss_in_transit"] = scores.dss_causal(*transit, floors, name="dss_in_transit").value
    out["margin_causal"] = scores.margin_causal(c, a).value
    return out


def _repairs(model: Backend, case: Case) -> Mapping[str, Value]:
    found = repairs(model, case, show_progress=False)
    out: dict[str, Value] = {}
    for i, name in enumerate(found.names):
        out |= {f"repaired@{name}": found.patched[i], f"repaired_control@{name}": found.control[i]}
    states = {mark.definition.rpartition(", ")[2]: mark.state for mark in found.commitments}
    out |= {f"commitment_of@{name}": state for name, state in states.items()}
    return out | {"commitment": last_repair(states)}


def _attribution(model: Backend, case: Case) -> Mapping[str, Value]:
    found = attribution(model, case)
    n_layers = model.spec.n_layers
    share = scores.dss_causal(
        found.up_to("contextual"), found.up_to("associative"), LEAST_FLOOR, name="dss_attribution"
    )
    out: dict[str, Value] = {"dss_attribution": share.value}
    for part, mine in (
        ("base", found.base),
        ("association", found.associative),
        ("context", found.contextual),
    ):
        # Per block: attention (its heads and its bias), then the MLP.
        blocks = np.zeros((n_layers, 2))
        for name, layer, value in zip(found.components, found.layers, mine, strict=True):
            if 0 <= layer < n_layers:
                blocks[layer, int(name.startswith("mlp"))] += value
        out[f"attribution@{part}"] = np.concatenate([mine[:1], blocks.ravel()])
    return out


def _cuts(model: Backend, case: Case) -> Mapping[str, Value]:
    found = cut_effects(model, case)
    return {"cut_cue": found.one_layer[found.sources.index("cue")]}


# -- published, and chance ----------------------------------------------------------------


def _dss_published(model: Backend, case: Case) -> Mapping[str, Value]:
    seen = _seen(model, case)
    chains = (
        concepts.published_vectors(model, seen, words)
        for words in (case.context_words, case.competing_words)
    )
    dss = scores.dss_published(*chains)
    marks = (
        rules.onset_published_guide(dss),
        rules.inversion_published_guide(dss),
        rules.commitment_published_guide(dss),
    )
    return _published(dss, marks)


def _cas_published(model: Backend, case: Case) -> Mapping[str, Value]:
    seen = _seen(model, case)
    words = (
        concepts.published_directions(model, side)
        for side in (case.context_words, case.competing_words)
    )
    cas = scores.cas_published(seen.resid[:, seen.answer_position], *words)
    marks = (
        rules.onset_published_cas(cas),
        rules.inversion_published_cas(cas),
        rules.commitment_published_cas(cas),
    )
    return _published(cas, marks)


def _published(score: Score, marks: Sequence[Mark]) -> Mapping[str, Value]:
    """A published score as the share that it claims to be, its commitment as either kind."""
    states = {mark.name: mark.state for mark in marks}
    return {
        "dss": score.value,
        "dss_total": score.total,
        **states,
        "lens_commitment": states["commitment"],
    }


def _chance(model: Backend, case: Case) -> Mapping[str, Value]:
    """A block and a share drawn at random, the same ones for the same weights."""
    rng = np.random.default_rng(int(model.spec.weights_hash[:15], 16))
    marks = ("onset", "inversion", "commitment", "lens_commitment")
    states = rng.integers(1, model.spec.n_layers + 1, size=len(marks))
    share = float(rng.random())
    return {"dss_total": share} | {
        name: float(state) for name, state in zip(marks, states, strict=True)
    }


MEASURES = (
    BuiltIn("forward", _forward),
    BuiltIn("pathways", _pathways),
    BuiltIn("repairs", _repairs),
    BuiltIn("attribution", _attribution),
    BuiltIn("cuts", _cuts),
    BuiltIn("lens", _lens),
    BuiltIn("dss_published", _dss_published),
    BuiltIn("cas_published", _cas_published),
    BuiltIn("chance", _chance),
)
"""The measures of `dst`, the published ones, and a floor for both: chance."""


def measure_named(name: str) -> BuiltIn:
    """The built-in measure of that name.

    Raises:
        InputError: There is none; lists those there are.
    """
    for measure in MEASURES:
        if measure.name == name:
            return measure
    names = ", ".join(measure.name for measure in MEASURES)
    raise InputError(f"There is no measure {name!r}", expected=f"one of {names}")


# -- grading ------------------------------------------------------------------------------


@dataclass
class Scores:
    """Grades of some measures on some planted models.

    Attributes:
        asked: Models that were to be graded.
        done: Models that were.
        rows: Every measured quantity of every model.
        failures: (measure, model, reason) where a measure raised.
    """

    asked: int
    done: int = 0
    rows: list[Item] = field(default_factory=list)
    failures: list[tuple[str, str, str]] = field(default_factory=list)

    def grades(self) -> dict[str, dict[str, Grade]]:
        """By measure, then by quantity."""
        grouped: dict[str, dict[str, list[Item]]] = {}
        for row in self.rows:
            grouped.setdefault(row.measure, {}).setdefault(row.quantity, []).append(row)
        return {
            measure: {quantity: grade(rows) for quantity, rows in quantities.items()}
            for measure, quantities in grouped.items()
        }

    def to_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """``{measure: {quantity: {max_error, hit_rate, false_alarms, n, ...}}}``, NaN as None."""
        return {
            measure: {name: _jsonable(dataclasses.asdict(found)) for name, found in grades.items()}
            for measure, grades in self.grades().items()
        }


def score(
    measures: Sequence[Measure],
    plans: Sequence[Plant],
    *,
    backend: str = "hooks",
    workers: int = 1,
    show_progress: bool = False,
) -> Scores:
    """How far each measure is from what was planted, model by model.

    Values: largest |measured - known|, in logits (shares: of 1), and the share of models
    within 1e-3. Marks: share at the very state. False alarms: something found where nothing
    is planted (a value over 0.05 logits, a share, a mark).

    Args:
        measures: Ours (`MEASURES`) or anybody's.
        plans: What to build, as `dst.testbed.planted.sample` draws it.
        backend: The engine that runs them.
        workers: Processes to share the models among; with more than one, each measure has
            to be importable from a module.
        show_progress: Draw a line with the time left on the error stream.

    Returns:
        `Scores`. When it is interrupted (Ctrl-C), those of the models that were done:
        ``done`` is less than ``asked`` then. A measure that raises is a failure with its
        reason, and the others go on.

    Raises:
        InputError: A measure returns a name or shape that no planted model knows.
    """
    found = Scores(asked=len(plans))
    with (
        contextlib.suppress(KeyboardInterrupt),
        progress("planted models", len(plans), unit="model", show=show_progress) as tick,
    ):
        for rows, failures in _each(partial(_graded, measures, backend), plans, workers):
            found.rows += rows
            found.failures += failures
            found.done += 1
            tick(1)
    return found


Graded = tuple[list[Item], list[tuple[str, str, str]]]


def _each(
    graded: Callable[[Plant], Graded], plans: Sequence[Plant], workers: int
) -> Iterator[Graded]:
    """What is found on each plan, in order."""
    if workers == 1:
        yield from map(graded, plans)
        return
    # Processes that start from nothing: a forked torch may hang. Ctrl-C is the parent's.
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    )
    try:
        yield from pool.map(graded, plans)
    finally:
        pool.shutdown(cancel_futures=True)


def _graded(measures: Sequence[Measure], backend: str, plan: Plant) -> Graded:
    """What every measure finds on one plan, and the measures that raised."""
    with _one_thread():
        planted = build(plan)
        model = load(planted.model, tokenizer=planted.tokenizer, backend=backend, check=False)
        neutral, substitute = planted.case.neutral[:DRAWS], planted.case.substitute[:DRAWS]
        case = planted.case.replace(neutral=neutral, substitute=substitute)
        return _measured(measures, model, case, planted)


def _measured(measures: Sequence[Measure], model: Backend, case: Case, planted: Planted) -> Graded:
    rows: list[Item] = []
    failures = []
    for measure in measures:
        try:
            measured = measure(model, case)
        except Exception as error:  # noqa: BLE001 - it may be anybody's code
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            failures.append((measure.name, planted.plan.name, reason))
            continue
        rows += items(measure.name, measured, planted.truth, planted.plan)
    return rows, failures


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Models this small are faster on one thread; the number is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


COLUMNS: Mapping[str, Callable[[Grade], str]] = {
    "models": lambda g: str(g.n),
    "right": lambda g: _share(g.hit_rate),
    "largest error": lambda g: _error(g.max_error, g.kind),
    "mean": lambda g: _error(g.mean_error, g.kind),
    "weak": lambda g: _error(g.by_strength[0]["mean_error"], g.kind) if g.by_strength else "",
    "strong": lambda g: _error(g.by_strength[-1]["mean_error"], g.kind) if g.by_strength else "",
    "r": lambda g: "" if g.kind == "mark" else _plain(g.correlation),
    "r, conflict": lambda g: _plain(g.correlation_in_conflict),
    "false alarms": lambda g: _share(g.false_alarms),
    "none planted": lambda g: _share(g.false_alarms_on_nothing),
}
"""What the table shows of each grade; docs/testbed_score.md says what each column is."""


def table(found: Scores) -> str:
    """The grades as one table (Markdown that reads as text), with what failed under it."""
    rows = [("measure", "quantity", *COLUMNS)]
    for measure, grades in found.grades().items():
        for quantity, one in grades.items():
            rows.append((measure, quantity, *(show(one) for show in COLUMNS.values())))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    counted = f"{found.done} planted models"
    if found.done < found.asked:
        counted = f"{found.done} of {found.asked} planted models: interrupted"
    failed = Counter((measure, reason) for measure, _, reason in found.failures)
    return "\n".join(
        [
            *lines,
            "",
            f"{counted}.",
            *(f"{measure} failed on {n}: {reason}" for (measure, reason), n in failed.items()),
        ]
    )


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f} %"


def _error(value: float, kind: str) -> str:
    if math.isnan(value):
        return ""
    if kind == "mark":
        return f"{value:.1f}"
    return f"{value:.0e}" if 0 < value < 5e-3 else f"{value:.2f}"


def _plain(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _jsonable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
