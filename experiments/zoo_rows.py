"""Measure cases of the world on every checkpoint of the zoo: the rows that experiments read.

    python -m experiments.zoo_rows --out experiments/out --per-kind 12

One line of `rows.jsonl` per checkpoint and case, written as soon as it is measured: the same
command goes on where it was stopped. A case that cannot be measured is a row with its reason.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import dst
from dst.core.case import Case
from dst.core.errors import DSTError
from dst.core.results import Markers
from dst.models.backend import Backend
from dst.studies.explain import outcome_of
from dst.studies.failure import failure
from dst.studies.measure import coherence, markers, measure
from dst.testbed import world, zoo
from dst.testbed.card import WITH_CUE
from dst.tracing.progress import progress

DEFAULT = "default"
"""The name of the embedded model among the checkpoints."""


def cases(per_kind: int, seed: int) -> list[Case]:
    """The test split's minority-sense cases, as many of each kind that has a cue."""
    return world.cases("test", n=per_kind * len(WITH_CUE), seed=seed, kinds=WITH_CUE)


def row_of(model: Backend, case: Case, seed: int) -> dict[str, Any]:
    """Everything that the experiments ask of one case, NaN as None."""
    run = measure(model, case, seed=seed)
    outcome = outcome_of(run.seen, int(run.seen.logits.argmax()))
    row: dict[str, Any] = {
        "outcome": outcome,
        "contrast": run.seen.contrast,
        "n_layers": run.seen.n_layers,
    }
    if run.paths is None or run.fixes is None:
        return row | {"reason": "; ".join(run.notes)}
    paths, fixes = run.paths, run.fixes
    row |= {
        "base": paths.base.mean,
        "prior": paths.prior.mean,
        "total_effect": paths.total_effect.mean,
        "contextual_floor": paths.contextual_floor,
        "associative_floor": paths.associative_floor,
        "contextual_insertion": paths.at_answer("contextual_insertion").tolist(),
        "associative_insertion": paths.at_answer("associative_insertion").tolist(),
    }
    for flow in ("contextual", "associative"):
        for name in ("arrival", "handover"):
            found = Markers(paths.marks).get(name, f"{flow} flow at answer")
            row[f"{flow}_{name}"] = _number(found.state)
    for mark in fixes.commitments:
        name = mark.definition.removeprefix("causal, ")
        row[f"commitment/{name}"] = _number(mark.state)
        row[f"commitment/{name}/reason"] = mark.reason
    score = coherence(model, case, measured=run)
    row["scores"] = {one.name: _number(one.at(0.75)) for one in score.scores}
    row["marks"] = {
        f"{mark.name} ({mark.definition})": _number(mark.state)
        for mark in markers(model, case, measured=run, score=score).marks
    }
    mode = failure(model, case, paths=paths, fixes=fixes, seed=seed, show_progress=False)
    row |= {
        "failure": mode.mode,
        "rule": mode.rule,
        "failure_says": mode.says,
        "findings": {finding.name: finding.holds for finding in mode.findings},
    }
    return row


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows written so far; a last line that was cut off is left out."""
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def to_do(
    done: Sequence[dict[str, Any]], names: Sequence[str], chosen: Sequence[Case]
) -> Iterator[tuple[str, list[Case]]]:
    """Per checkpoint the cases that have no row yet."""
    have = {(row["checkpoint"], row["case_id"]) for row in done}
    for name in names:
        left = [case for case in chosen if (name, case.case_id) not in have]
        if left:
            yield name, left


def collect(out: Path, per_kind: int, seed: int, names: Sequence[str] = ()) -> Path:
    """Write `rows.jsonl` in ``out``, going on with what is there."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "rows.jsonl"
    chosen, done = cases(per_kind, seed), read_rows(path)
    _rewrite(path, done)
    work = list(to_do(done, names or [*zoo.names(), DEFAULT], chosen))
    with (
        progress("cases", sum(len(left) for _, left in work), unit="case") as tick,
        path.open("a", encoding="utf-8") as stream,
    ):
        for name, left in work:
            model = dst.load() if name == DEFAULT else zoo.load(name)
            for case in left:
                row = {
                    "checkpoint": name,
                    "case_id": case.case_id,
                    "kind": world.kind_of(case),
                    "group": case.group,
                    "weights_hash": model.spec.weights_hash,
                    "seed": seed,
                }
                try:
                    row |= row_of(model, case, seed)
                except DSTError as error:
                    row["reason"] = str(error)
                stream.write(json.dumps(row) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
                tick(1)
    return path


def _rewrite(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Drop a line that a kill cut off, so that the next one begins on a line of its own."""
    if path.exists():
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("experiments/out"))
    parser.add_argument("--per-kind", type=int, default=12, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", action="append", default=[], help="some of the zoo's")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(collect(given.out, given.per_kind, given.seed, given.checkpoint))
    return 0


if __name__ == "__main__":
    sys.exit(main())
