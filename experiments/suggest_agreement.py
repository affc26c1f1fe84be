"""How often the suggested subject and cue are those of the world, and what is made up without one.

    python -m experiments.suggest_agreement --out experiments/out

Each case is stripped to its prompt and its two answers. The suggested cue agrees where every one
of its words stands in the world's cue and one of them is that cue's own word (not only its
preposition); the subject where it is the world's. Intervals are Wilson's. Cases of the kind
"none" have no cue: what is suggested there is false.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dst
from dst.core.case import Case
from dst.core.errors import DSTError, TokenError
from dst.core.files import write_text_atomic
from dst.models.draws import STOP_WORDS
from dst.testbed import world
from dst.tracing.suggest import suggest
from experiments.tables import markdown, share

NO_CUE = "none"
STRIPPED: dict[str, Any] = dict.fromkeys(
    ("cue", "neutral", "substitute", "swap", "clean", "distractor", "paraphrases",
     "context_words", "competing_words"), (),
) | {"subject": None, "question": None}  # fmt: skip


def judged(model: Any, case: Case, kind: str, seed: int) -> dict[str, Any]:
    """One case: what was suggested, and whether the world says so too."""
    row: dict[str, Any] = {"case_id": case.case_id, "kind": kind}
    started = time.perf_counter()
    try:
        found = suggest(model, case.replace(**STRIPPED), seed=seed)
    except TokenError as error:
        return row | {"failed": str(error)}
    own = {w for span in case.cue for w in span.split() if w.casefold() not in STOP_WORDS}
    inside = {w for span in case.cue for w in span.split()}
    return row | {
        "cue": list(found.cue),
        "subject": found.subject,
        "kind_of_pair": found.kind,
        "masked_by": found.masked_by,
        "contrast": found.contrast,
        "total_effect": found.total_effect.mean,
        "prior": found.prior.mean,
        "cue_agrees": bool(own & {*found.cue}) and {*found.cue} <= inside,
        "subject_agrees": found.subject == case.subject,
        "rivals": [one.role for one in found.alternatives],
        "forward_passes": found.forward_passes,
        "seconds": time.perf_counter() - started,
    }


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per kind and sense, and one for all that have a cue: shares with intervals."""
    good = [row for row in rows if "failed" not in row]
    groups = {kind: [r for r in good if r["kind"] == kind] for kind in _in_order(good)}
    with_cue = [row for row in good if not row["kind"].startswith(NO_CUE)]
    if with_cue:
        groups["all with a cue"] = with_cue
    lines: list[dict[str, Any]] = []
    for name, group in groups.items():
        both = [row["cue_agrees"] and row["subject_agrees"] for row in group]
        lines.append(
            {
                "kind": name,
                "n": len(group),
                "cue agrees": _share([row["cue_agrees"] for row in group]),
                "subject agrees": _share([row["subject_agrees"] for row in group]),
                "both agree": _share(both),
                "a cue suggested": _share([bool(row["cue"]) for row in group]),
                "forward passes": round(sum(r["forward_passes"] for r in group) / len(group)),
                "seconds": round(sum(r["seconds"] for r in group) / len(group), 2),
            }
        )
    return lines


def _in_order(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["kind"] for row in rows))


def _share(hits: Sequence[bool]) -> str:
    return share(sum(hits), len(hits))


def plain(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows for JSON: null where a number is not defined."""
    return [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        for row in rows
    ]


def main() -> int:
    """Run the cases, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--split", default="test", choices=world.SPLITS)
    parser.add_argument("--n", type=int, default=200, help="cases of each sense (200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("experiments/out"))
    options = parser.parse_args()
    try:
        import torch

        torch.set_num_threads(1)
        model = dst.load(options.model)
        rows = [
            judged(model, case, f"{world.kind_of(case)}, {sense}", options.seed)
            for sense in world.SENSES
            for case in world.cases(options.split, n=options.n, seed=options.seed, sense=sense)
        ]
    except DSTError as error:
        print(f"suggest_agreement: {error}", file=sys.stderr)
        return 2
    if all("failed" in row for row in rows):
        print(f"suggest_agreement: {rows[0]['failed'] if rows else 'no cases'}", file=sys.stderr)
        return 2
    lines = table(rows)
    print(markdown(list(lines[0]), [list(line.values()) for line in lines]))
    print(f"{sum('failed' in row for row in rows)} of {len(rows)} cases could not be read.")
    told = {"model": options.model, "weights_hash": model.spec.weights_hash}
    told |= {"split": options.split, "n": options.n, "seed": options.seed}
    values = json.dumps({**told, "table": lines, "rows": plain(rows)}, indent=1, allow_nan=False)
    print(f"Every number: {write_text_atomic(options.out / 'suggest_agreement.json', values)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
