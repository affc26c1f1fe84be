"""``dst study``: many cases, one row each, and what goes with their errors."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any, Literal

from dst import cli_cases
from dst.core.errors import InputError

SHOWN = 5
"""Reasons of failure in a summary; the table has them all."""

METHODS: tuple[Literal["pearson", "spearman"], ...] = ("pearson", "spearman")


def add_commands(commands: Any) -> None:
    """Register ``dst study`` and what it can do."""
    study = commands.add_parser("study", help="many cases: read, measure, correlate")
    verbs = study.add_subparsers(title="commands", metavar="COMMAND", required=True)
    cli_cases.register(verbs)
    _run_options(verbs.add_parser("run", help="measure every case; the same command goes on"))
    _correlate_options(verbs.add_parser("correlate", help="which scores go with the errors"))
    _report_options(verbs.add_parser("report", help="the study as one offline page"))


def _run_options(one: argparse.ArgumentParser) -> None:
    from dst.cli import DEFAULT_MODEL, _engine_options

    one.add_argument("cases", metavar="CASES", help="a cases file: JSON Lines, one case a line")
    one.add_argument("--out", metavar="DIR", required=True, help="DIR/results.parquet is the table")
    one.add_argument("--model", metavar="ID|DIR", default="embedded", help=DEFAULT_MODEL)
    one.add_argument("--draws", metavar="N", type=int, default=8, help="variants to draw (8)")
    one.add_argument("--seed", metavar="S", type=int, default=0, help="of the draws (0)")
    one.add_argument("--failure", action="store_true", help="name the failure mode too (slower)")
    one.add_argument("--suggest", action="store_true", help="infer cues and subjects not named")
    one.add_argument("--limit", metavar="N", type=int, help="only the first N cases")
    one.add_argument(
        "--labels", metavar="M:F", help="function F of module M: model and case to more columns"
    )
    one.add_argument(
        "--batch-cases", metavar="N", type=int, default=32, help="most cases of a batch (32)"
    )
    one.add_argument("--fresh", action="store_true", help="remove what is in DIR, start anew")
    one.add_argument("--json", action="store_true", help="print one JSON object instead")
    where = one.add_argument_group("where it runs")
    where.add_argument("--engine", metavar="E", default="local", help="local (default) or ray")
    where.add_argument("--workers", metavar="N", type=int, help="with ray: models side by side")
    where.add_argument(
        "--address", metavar="A", help="with ray: of a running cluster, such as auto"
    )
    where.add_argument("--gpus", metavar="N", type=float, help="with ray: GPUs of a worker")
    _engine_options(one)
    one.set_defaults(command=run)


def _correlate_options(one: argparse.ArgumentParser) -> None:
    one.add_argument("folder", metavar="DIR", nargs="+", help="a study, or several to be stacked")
    many: dict[str, Any] = {"metavar": "NAME", "action": "append", "default": []}
    one.add_argument("--score", **many, help="a column (again for more; default: every score)")
    one.add_argument("--outcome", metavar="NAME", default="error", help="a column (error)")
    one.add_argument("--unit", metavar="U", default="item", help="item (default) or group")
    one.add_argument("--within", **many, help="remove this column's means, such as model (again)")
    one.add_argument("--covariate", **many, help="hold this column fixed (again for more)")
    one.add_argument("--no-conflict", action="store_true", help="keep cases without a conflict")
    one.add_argument("--resamples", metavar="N", type=int, default=10_000, help="(10000)")
    one.add_argument("--seed", metavar="S", type=int, default=0, help="of the resamples (0)")
    one.add_argument("--json", action="store_true", help="print one JSON object instead")
    one.set_defaults(command=correlate)


def _report_options(one: argparse.ArgumentParser) -> None:
    one.add_argument("folder", metavar="DIR", nargs="+", help="a study, or several to be stacked")
    one.add_argument("--out", metavar="FILE", help="the page (default: DIR/report.html)")
    one.add_argument("--group", metavar="NAME", default="group", help="what is drawn together")
    one.add_argument("--resamples", metavar="N", type=int, default=2000, help="(2000)")
    one.add_argument("--seed", metavar="S", type=int, default=0, help="of the resamples (0)")
    one.set_defaults(command=report)


# -- run ---------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    """Measure every case of a file, or go on where it was stopped."""
    from dst.cli import _doing, _engine, _load, _output, _print, _print_json
    from dst.core.case import load_cases

    cases = load_cases(options.cases, limit=options.limit)
    with _doing("loading"):
        from dst.studies.plan import Settings
        from dst.studies.study import StudyInterrupted, run_study
    how: dict[str, Any] = {"draws": options.draws, "seed": options.seed}
    how |= {"suggest": options.suggest, "batch_cases": options.batch_cases}
    how["measures"] = ("coherence", "markers", *(("failure",) if options.failure else ()))
    Settings(**how)  # refused before a model is loaded
    loading = _engine(options)
    model: Any = options.model
    try:
        with _output(options.out):
            if options.engine == "local":
                model, loading = _load(options.model, **loading), {}
            table = run_study(
                model, cases, out=options.out, engine=options.engine, labels=options.labels,
                workers=options.workers, address=options.address, gpus=options.gpus,
                loading=loading, fresh=options.fresh, **how,
            )  # fmt: skip
    except StudyInterrupted as stopped:
        print(f"\ndst: {stopped}", file=sys.stderr)
        return 130
    path = Path(options.out) / "results.parquet"
    if options.json:
        _print_json(
            {
                "table": str(path),
                "cases": len(table),
                "outcomes": table.outcomes(),
                "failures": table.failures(),
                "study": dict(table.study),
            }
        )
        return 0
    _print("\n".join(summary(table, str(path))))
    return 0


def summary(table: Any, path: str) -> list[str]:
    """What a study has found, in a few lines."""
    counts = table.outcomes()
    ends = ", ".join(
        f"{counts[name]} {word}"
        for name, word in (
            ("correct", "correct"), ("hallucination", "hallucinated"), ("neither", "neither"),
            ("failed", "failed"),
        )
        if name in counts
    )  # fmt: skip
    lines = [f"{len(table)} cases on {table.study['model']['name']}: {ends}."]
    lines += _reasons("failed", table.failures())
    unmeasured: dict[str, int] = {}
    for reason in table.column("paths_reason"):
        if reason is not None:
            unmeasured[reason] = unmeasured.get(reason, 0) + 1
    lines += _reasons("without pathways", unmeasured)
    return [*lines, f"One row per case: {path}", f"Next: dst study correlate {Path(path).parent}"]


def _reasons(what: str, counts: dict[str, int]) -> list[str]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"  {n} {what}: {reason}" for reason, n in ordered[:SHOWN]]
    if len(ordered) > SHOWN:
        rest = sum(n for _, n in ordered[SHOWN:])
        lines.append(f"  {rest} {what} for {len(ordered) - SHOWN} other reasons")
    return lines


# -- correlate ---------------------------------------------------------------------------


def correlate(options: argparse.Namespace) -> int:
    """Print how every score goes with the outcome."""
    from dst.analysis.bootstrap import Resampling
    from dst.analysis.multiple import holm
    from dst.cli import _doing, _print, _print_json
    from dst.core.study_results import open_study, stack
    from dst.tracing.progress import progress

    tables = [open_study(folder) for folder in options.folder]
    table = tables[0] if len(tables) == 1 else stack(tables)
    with _doing("loading"):
        from dst.studies.correlate import correlate as measure
        from dst.studies.rows import AT_ANSWER
    names = options.score or [table.resolve(name) for name in table.scores if name not in AT_ANSWER]
    if not names:
        raise InputError("The study has no scores", do="Name a column with --score")
    resampling = Resampling(
        n_resamples=options.resamples, n_permutations=options.resamples, seed=options.seed
    )
    found: dict[str, list[Any]] = {"pearson": [], "spearman": []}
    with progress("correlations", len(names) * len(METHODS), unit="score") as tick:
        for name in names:
            for method in METHODS:
                made = measure(
                    table, score=name, outcome=options.outcome, unit=options.unit, method=method,
                    within=options.within or None, covariates=options.covariate,
                    no_conflict=options.no_conflict, resampling=resampling,
                )  # fmt: skip
                found[method].append(made)
                tick(1)
    adjusted: dict[str, Any] = {
        method: holm([one.p for one in found[method]]) for method in METHODS
    }
    if options.json:
        _print_json(
            [
                one.to_records()[0] | {"p_holm": float(p)}
                for method in METHODS
                for one, p in zip(found[method], adjusted[method], strict=True)
            ]
        )
        return 0
    _print("\n".join(_table(options, found, adjusted, len(table))))
    return 0


def _table(
    options: argparse.Namespace, found: dict[str, list[Any]], adjusted: dict[str, Any], n: int
) -> list[str]:
    held = [*options.within, *options.covariate]
    given = f", with {', '.join(held)} held fixed" if held else ""
    lines = [f"{n} cases, by {options.unit}: correlation with {options.outcome}{given}", ""]
    wide = max(len(one.score) for one in found["pearson"])
    head = f"{'score':{wide}}  {'n':>5}"
    for method in METHODS:
        head += f"  {method:<23} {'p':>6} {'Holm':>6}"
    lines.append(head)
    notes: dict[str, list[str]] = {}
    for i, one in enumerate(found["pearson"]):
        line = f"{one.score:{wide}}  {one.n:>5}"
        cells = [_cell(found[method][i], float(adjusted[method][i])) for method in METHODS]
        lines.append(
            f"{line}  undefined: {one.reason}" if one.reason else "  ".join([line, *cells])
        )
        for note in one.note.split("; ") if one.note else ():
            notes.setdefault(note, []).append(one.score)
    width = shutil.get_terminal_size((100, 24)).columns
    told = [f"{note}: {', '.join(names)}" for note, names in notes.items()]
    (how,) = {one.method for one in found["pearson"][:1]}
    told.append(f"Intervals, 95 %: {how}; seed {options.seed}.")
    folded = [textwrap.fill(line, width, subsequent_indent="  ") for line in told]
    return [*lines, "", *folded]


def _cell(one: Any, p_holm: float) -> str:
    interval = "" if one.interval.reason else f"[{one.interval.low:+.2f}, {one.interval.high:+.2f}]"
    return f"{one.value:+.3f} {interval:<16} {_p(one.p)} {_p(p_holm)}"


def _p(p: float) -> str:
    return f"{'-':>6}" if math.isnan(p) else f"{p:6.4f}"


# -- report ------------------------------------------------------------------------------


def report(options: argparse.Namespace) -> int:
    """Write the page of a study."""
    from dst.cli import _doing, _print
    from dst.core.study_results import open_study, stack

    tables = [open_study(folder) for folder in options.folder]
    table = tables[0] if len(tables) == 1 else stack(tables)
    with _doing("measuring"):
        from dst.report.study_page import headline, lead, write_study
        from dst.studies.summary import summarize

        found = summarize(
            table, group=options.group, resamples=options.resamples, seed=options.seed
        )
    folder = Path(options.folder[0])
    path = Path(options.out) if options.out else folder / "report.html"
    if path.is_dir():
        path = path / "report.html"
    write_study(found, path)
    _print("\n".join(textwrap.wrap(f"{headline(found)}. {lead(found)}", 78)))
    _print(f"Open {path} in a browser.")
    return 0
