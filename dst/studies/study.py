"""`run_study`: many cases, one row each, in a folder that a stopped study goes on from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from dst.core.case import Case, load_cases
from dst.core.errors import InputError
from dst.core.lens_results import ReferenceRuns, TunedLens
from dst.core.study_results import StudyTable
from dst.models.backend import Backend
from dst.models.load import EMBEDDED, load
from dst.studies.engines import ENGINES, Engine, LocalEngine, RayEngine, loading_of
from dst.studies.plan import BATCH_CASES, BATCH_TOKENS, Manifest, Settings, batches, identify
from dst.studies.rows import Row, identity_of
from dst.studies.store import Store
from dst.studies.worker import Worker, with_labels
from dst.tracing.prepare import DRAWS
from dst.tracing.progress import progress

Labels = Callable[[Case], Mapping[str, Any]]


class StudyInterrupted(KeyboardInterrupt):
    """A study that was stopped by hand; it says how to go on."""


def run_study(
    model: Backend | str | Path = EMBEDDED,
    cases: Sequence[Case] | str | Path = (),
    *,
    out: str | Path,
    engine: Literal["local", "ray"] = "local",
    draws: int = DRAWS,
    seed: int = 0,
    measures: Sequence[str] = ("coherence", "markers"),
    suggest: bool = False,
    lens: TunedLens | None = None,
    reference: ReferenceRuns | None = None,
    labels: Labels | str | None = None,
    batch_cases: int = BATCH_CASES,
    batch_tokens: int = BATCH_TOKENS,
    workers: int | None = None,
    address: str | None = None,
    gpus: float | None = None,
    loading: Mapping[str, Any] | None = None,
    fresh: bool = False,
    show_progress: bool = True,
) -> StudyTable:
    """Measure every case and keep one row of each: outcome, flows, scores, marks.

    Cases of like length are measured together, in batches that are a function of the cases and
    the settings alone and are written to ``out/manifest.json`` before the first one runs. A
    batch's rows are on the disk when it is done. Stopped at any moment, the same call goes on
    and ends with the table of a study that was never stopped: bit for bit on one machine, to
    1e-5 with other workers or machines. A case that cannot be measured is a row with its reason.

    Args:
        model: A loaded model, or the name or folder of one, as for `dst.load`.
        cases: The cases, or a cases file. Each ``case_id`` is there once.
        out: The study's folder; ``results.parquet`` there is the table.
        engine: ``"local"`` or ``"ray"``.
        draws: Variants to draw where a case gives none.
        seed: Seed of the draws and of the bootstrap.
        measures: Some of ``coherence``, ``markers`` and ``failure``.
        suggest: Infer a cue and a subject that a case does not name (`dst.suggest`).
        lens: A tuned lens of the model; by default the one in its folder, if there is one.
        reference: Its correct runs; by default those in its folder, if there are some.
        labels: What else is known of a case, as further columns: a function of the case, run
            here; or ``"module:function"``, a function of model and case, run by each worker.
        batch_cases: Most cases of a batch: the unit of resuming and of retrying.
        batch_tokens: Most tokens of a batch, every case counted as long as its longest.
        workers: With Ray: actors; by default one per GPU, else one per processor.
        address: With Ray: of a running cluster; by default RAY_ADDRESS, else one of our own.
        gpus: With Ray: GPUs of an actor; by default 1 where the cluster has some.
        loading: Further arguments of `dst.load`, where ``model`` is a name.
        fresh: Remove what is in ``out`` and start anew.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Returns:
        The table, in the order of the cases.

    Raises:
        InputError: ``out`` holds a study of other cases, settings, model or versions (says what
            has changed), another process works there, or what was given makes no sense.
        StudyInterrupted: It was stopped from the keyboard; what is done is kept.
    """
    if isinstance(cases, (str, Path)):
        cases = load_cases(cases)
    named = identify(cases)
    settings = Settings(
        draws=draws,
        seed=seed,
        measures=tuple(measures),
        suggest=suggest,
        batch_cases=batch_cases,
        batch_tokens=batch_tokens,
        labels=_name_of(labels),
    )
    if engine not in ENGINES:
        raise InputError(f"There is no engine {engine!r}", expected="local or ray")
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}", expected="1 or more")
    ask = labels if callable(labels) else None
    with Store(out) as store:
        if fresh:
            store.clear()
        store.refuse_another(settings=_plain(settings), cases=named)  # before a model is loaded
        with _engine(
            engine, model, settings, lens, reference, workers, address, gpus, loading or {}
        ) as runs:
            manifest = _begun(store, runs, settings, cases, named)
            _work(store, runs, manifest, cases, ask, show_progress)
        return store.finish()


def _begun(
    store: Store,
    runs: Engine,
    settings: Settings,
    cases: Sequence[Case],
    named: tuple[tuple[str, str], ...],
) -> Manifest:
    """The manifest, planned now or when the study began."""
    about = runs.about()
    store.refuse_another(model=about.model, versions=about.versions)
    if store.manifest is not None:
        return store.manifest
    planned = batches(runs.lengths(cases), settings.batch_cases, settings.batch_tokens)
    manifest = Manifest(about.model, _plain(settings), about.versions, named, planned, about.room)
    return store.begin(manifest, cases)


def _work(
    store: Store,
    runs: Engine,
    manifest: Manifest,
    cases: Sequence[Case],
    ask: Labels | None,
    show: bool,
) -> None:
    """Work off the batches that have no part yet.

    Raises:
        StudyInterrupted: It was stopped from the keyboard.
    """
    to_do = store.to_do()
    work = [(number, [cases[i] for i in manifest.batches[number]]) for number in to_do]
    with progress("cases", sum(len(some) for _, some in work), unit="case", show=show) as tick:
        try:
            for number, made, how in runs.run(work, manifest.room) if work else ():
                places = manifest.batches[number]
                rows = [
                    _row(manifest, cases[place], place, number, row, ask)
                    for place, row in zip(places, made, strict=True)
                ]
                store.put(number, rows, how)
                tick(len(rows))
        except KeyboardInterrupt:
            done = len(manifest.batches) - len(store.to_do())
            raise StudyInterrupted(
                f"Stopped after {done} of {len(manifest.batches)} batches; the same command "
                "goes on from there."
            ) from None


def _row(
    manifest: Manifest, case: Case, place: int, batch: int, made: Row, ask: Labels | None
) -> Row:
    """A row as it is kept."""
    row = identity_of(case) | made
    row |= {
        "key": manifest.key(place),
        "model": manifest.model["name"],
        "weights_hash": manifest.model["weights_hash"],
        "batch": batch,
    }
    return row if ask is None else with_labels(row, lambda: ask(case))


def _engine(
    engine: str,
    model: Backend | str | Path,
    settings: Settings,
    lens: TunedLens | None,
    reference: ReferenceRuns | None,
    workers: int | None,
    address: str | None,
    gpus: float | None,
    loading: Mapping[str, Any],
) -> Engine:
    named = isinstance(model, (str, Path))
    if loading and not named:
        raise InputError("loading was given with a model that is loaded", do="Leave one out")
    if engine == "local":
        loaded = load(model, **loading) if isinstance(model, (str, Path)) else model
        return LocalEngine(Worker(loaded, settings, lens, reference))
    name = str(model) if isinstance(model, (str, Path)) else model.spec.name
    how = loading if isinstance(model, (str, Path)) else loading_of(model)
    return RayEngine(
        name, how, settings, lens, reference, workers=workers, address=address, gpus=gpus
    )


def _name_of(labels: Labels | str | None) -> str:
    """Who gives labels, as text that is the same in every run."""
    if labels is None or isinstance(labels, str):
        return labels or ""
    if isinstance(labels, functools.partial):
        given = ", ".join(f"{key}={value!r}" for key, value in sorted(labels.keywords.items()))
        return f"{_name_of(labels.func)}({given})"
    if hasattr(labels, "__qualname__"):
        return f"{labels.__module__}.{labels.__qualname__}"
    told = repr(labels)
    return type(labels).__qualname__ if " at 0x" in told else told


def _plain(settings: Settings) -> dict[str, Any]:
    return asdict(settings)
