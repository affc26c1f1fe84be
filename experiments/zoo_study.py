"""Run one study per checkpoint of the zoo: the tables that the other experiments read.

    python -m experiments.zoo_study --out experiments/out/zoo --per-kind 40

The cases are the world's test split, the minority sense of every kind that has a cue: the same for
every checkpoint. Each checkpoint is a study of its own (`dst.run_study`), so that the same command
goes on where it was stopped. Checkpoints were fixed by their errors alone, before any score.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dst.core.case import Case
from dst.core.errors import DSTError, InputError
from dst.core.lens_results import ReferenceRuns, TunedLens
from dst.core.results import open_result
from dst.core.study_results import StudyTable, open_study
from dst.models.backend import Backend
from dst.models.load import EMBEDDED
from dst.models.reference import reference_sentences
from dst.studies.rows import MEASURES
from dst.studies.study import run_study
from dst.testbed import world, zoo
from dst.testbed.card import WITH_CUE
from dst.tracing.reference import reference_runs
from dst.tracing.tuned_lens import fit_tuned_lens

OUT = Path("experiments/out/zoo")
AIDS = "aids"
TEXTS, RUNS, DOSES = 400, 200, 25
"""Stories that a tuned lens is fitted on; how many of them make the reference; doses in it."""


def cases(per_kind: int, seed: int) -> list[Case]:
    """The test split's minority-sense cases, as many of each kind that has a cue."""
    return world.cases("test", n=per_kind * len(WITH_CUE), seed=seed, kinds=WITH_CUE)


def kind(case: Case) -> dict[str, str]:
    """What the world knows of a case."""
    return {"kind": world.kind_of(case)}


def aids_of(model: Backend, folder: Path, seed: int) -> tuple[TunedLens, ReferenceRuns | None]:
    """A tuned lens and a reference of the model's correct runs, both from the tune split.

    They are kept in ``folder``. A checkpoint that gets nothing right has no such runs: then bands
    and CAS* are undefined.
    """
    kept = [folder / "tuned_lens.npz", folder / "reference.npz"]
    if all(path.is_file() for path in kept):
        lens, runs = (open_result(path) for path in kept)
        return lens, runs
    known = world.cases("tune", n=TEXTS, seed=seed)
    lens = fit_tuned_lens(
        model, [f"{case.text} {case.contextual[0]}" for case in known], show=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    lens.save(kept[0])
    try:
        runs = reference_runs(model, known[:RUNS], lens=lens, doses=DOSES, show=False)
    except InputError:
        return lens, None
    runs = runs.replace(sentences=reference_sentences(EMBEDDED))
    runs.save(kept[1])
    return lens, runs


def tables(out: Path) -> dict[str, StudyTable]:
    """Checkpoint -> its study, the measured cases only.

    Raises:
        InputError: There is none yet.
        ResultError: One of them is unfinished.
    """
    found = {name: open_study(out / name) for name in zoo.names() if (out / name).is_dir()}
    if not found:
        raise InputError(
            f"{out} holds no study", do=f"Run python -m experiments.zoo_study --out {out} first"
        )
    return {name: one.where(one.column("status") == "ok") for name, one in found.items()}


def rows(out: Path) -> list[dict[str, Any]]:
    """Every measured case of every checkpoint, with its flows."""
    found = []
    for name, table in tables(out).items():
        seed = table.study.get("settings", {}).get("seed")
        found += [
            row | {"checkpoint": name, "seed": seed}
            for row in table.to_records()
            if row["total_effect"] is not None
        ]
    return found


def run(out: Path, per_kind: int, seed: int, names: Sequence[str] = ()) -> None:
    """One study per checkpoint."""
    chosen = cases(per_kind, seed)
    for name in names or zoo.names():
        print(name, flush=True)
        model = zoo.load(name)
        lens, reference = aids_of(model, out / AIDS / name, seed)
        run_study(
            model, chosen, out=out / name, seed=seed, measures=MEASURES, labels=kind, lens=lens,
            reference=reference,
        )  # fmt: skip


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--per-kind", type=int, default=40, help="cases of each kind (40)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", action="append", default=[], help="some of the zoo's")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        run(given.out, given.per_kind, given.seed, given.checkpoint)
    except DSTError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
