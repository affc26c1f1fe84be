"""Which words the default model's hallucinations hang on, and what the world knows of them.

    python -m experiments.spans_on_world --out experiments/out

Minority-sense cases of the test split that the model answers with the association; of each, the
first span of `dst.spans` and the world's own account of its words: the subject, the cue, a *rival*
(a loaded word of a distractor, one that the case's clean twin changes: a prime, another one's cue),
another word. Control: random sets of as many words of the same prompt. Beside it the first window
of the published method, with random windows of its size. Intervals are Wilson's.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dst
from dst.core.case import Case
from dst.core.errors import DSTError
from dst.core.files import write_text_atomic
from dst.models.backend import Backend
from dst.studies.explain import outcome_of
from dst.testbed import world
from dst.tracing.progress import progress
from dst.tracing.spans_published import spans_published
from experiments.tables import finite, markdown, share

PARTS = ("subject", "rival", "cue", "other")
RANDOM = 200
"""Random sets per case."""


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return re.findall(r"\w+", text)


def part_of(case: Case) -> dict[str, str]:
    """Every word of the prompt and what the world knows of it."""
    told = dict.fromkeys(words(case.text), "other")
    for sentence in case.distractor:
        for clean in map(str, case.clean):
            for old, new in zip(words(case.text), words(clean), strict=False):
                if len(words(clean)) == len(words(case.text)) and old != new:
                    told[old] = "rival" if old in words(sentence) else told[old]
    told |= dict.fromkeys((w for span in case.cue for w in words(span)), "cue")
    if case.subject:
        told |= dict.fromkeys(words(case.subject), "subject")
    return told


def parts(case: Case, some: Collection[str]) -> list[str]:
    """The parts of a story that some words are of."""
    known = part_of(case)
    return [part for part in PARTS if part in {known[word] for word in some}]


def hallucinations(model: Backend, kind: str, n: int, most: int, seed: int) -> list[Case]:
    """The first ``n`` cases of a kind that the model hallucinates, of at most ``most``."""
    cases = world.cases("test", n=most, seed=seed, kinds=[kind])
    seen = dst.trace(model, cases)
    wrong = [
        case for case, trace in zip(cases, seen, strict=True)
        if outcome_of(trace, int(trace.logits.argmax())) == "hallucination"
    ]  # fmt: skip
    return wrong[:n]


def row_of(model: Backend, case: Case, budget: int, seed: int) -> dict[str, Any]:
    """One hallucination: its first span, the control, the first published window."""
    started = time.perf_counter()
    found = dst.spans(model, case, budget=budget, seed=seed, show_progress=False)
    row: dict[str, Any] = {
        "case_id": case.case_id,
        "kind": world.kind_of(case),
        "contrast": found.contrast,
        "forward_passes": found.forward_passes,
        "complete": found.complete,
        "tried": len(found.words),
        "seconds": time.perf_counter() - started,
    }
    rng = random.Random(seed)
    if found.found:
        first = found.found[0]
        sets = [rng.sample(found.words, len(first.words)) for _ in range(RANDOM)]
        row |= {
            "words": list(first.words),
            "parts": parts(case, first.words),
            "random": {p: float(np.mean([p in parts(case, some) for some in sets])) for p in PARTS},
            "necessity": first.necessity.mean,
            "sufficiency": first.sufficiency.mean,
            "necessary": first.necessity.low > 0,
            "control": first.control,
        }
    published = spans_published(model, case)
    if top := published.top(1):
        text = words(case.text)
        size = len(words(top[0][0]))
        places = [rng.randrange(len(text) - size + 1) for _ in range(RANDOM)]
        windows = [parts(case, text[place : place + size]) for place in places]
        row["published"] = {
            "window": top[0][0],
            "parts": parts(case, words(top[0][0])),
            "random": {p: float(np.mean([p in some for some in windows])) for p in PARTS},
        }
    row["published_as_coded"] = [window for window, _ in published.top(1, as_coded=True)]
    return row


def line(name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """One line of the table."""
    with_span = [row for row in rows if "words" in row]
    cells = [name, str(len(rows)), share(len(with_span), len(rows))]
    for part in PARTS:
        hits = sum(part in row["parts"] for row in with_span)
        chance = np.mean([row["random"][part] for row in with_span]) if with_span else np.nan
        cells.append(f"{share(hits, len(with_span))}; {chance:.2f}" if with_span else "")
    known = sum({*row["parts"]} <= {"subject", "rival"} for row in with_span)
    cells.append(share(known, len(with_span)))
    size = np.mean([len(row["words"]) for row in with_span]) if with_span else np.nan
    return [*cells, f"{size:.1f}", _median(with_span, "necessity"),
            _median(with_span, "sufficiency")]  # fmt: skip


def _median(rows: Sequence[dict[str, Any]], key: str) -> str:
    """The median of what is defined, and in how many it is."""
    known = [row[key] for row in rows if not math.isnan(row[key])]
    return f"{np.median(known):.2f} of {len(known)}" if known else ""


HEADER = (
    *("kind", "n", "a span found", *(f"holds {part}; random" for part in PARTS)),
    *("subject and rival only", "words, mean", "necessity, median", "sufficiency, median"),
)


def published_line(name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """The same of the published window."""
    there = [row["published"] for row in rows if "published" in row]
    cells = [name, str(len(rows)), share(len(there), len(rows))]
    for part in PARTS:
        hits = sum(part in one["parts"] for one in there)
        chance = np.mean([one["random"][part] for one in there]) if there else np.nan
        cells.append(f"{share(hits, len(there))}; {chance:.2f}" if there else "")
    coded = sum(bool(row["published_as_coded"]) for row in rows)
    return [*cells, share(coded, len(rows))]


PUBLISHED = ("kind", "n", "a window found", *(f"holds {part}; random" for part in PARTS),
             "a window found, as coded")  # fmt: skip


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Both tables, a line per kind and one for all."""
    groups = {kind: [row for row in rows if row["kind"] == kind] for kind in world.KINDS}
    groups = {kind: some for kind, some in groups.items() if some} | {"all": list(rows)}
    ours = markdown(HEADER, [line(name, some) for name, some in groups.items()])
    theirs = markdown(PUBLISHED, [published_line(name, some) for name, some in groups.items()])
    return f"{ours}\nPublished windows:\n\n{theirs}"


def main() -> int:
    """Run the cases, print the tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--per-kind", type=int, default=10, help="hallucinations of each kind (10)")
    parser.add_argument("--most", type=int, default=120, help="cases of a kind to look at (120)")
    parser.add_argument("--budget", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("experiments/out"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        model = dst.load(options.model)
        chosen = [
            case for kind in world.KINDS
            for case in hallucinations(model, kind, options.per_kind, options.most, options.seed)
        ]  # fmt: skip
        rows = []
        with progress("hallucinations", len(chosen), unit="case") as tick:
            for case in chosen:
                rows.append(row_of(model, case, options.budget, options.seed))
                tick(1)
    except DSTError as error:
        print(f"spans_on_world: {error}", file=sys.stderr)
        return 2
    text = tables(rows)
    print(text)
    told = {
        name: getattr(options, name) for name in ("model", "per_kind", "most", "budget", "seed")
    }
    told |= {"weights_hash": model.spec.weights_hash}
    values = json.dumps(finite({**told, "rows": rows}), indent=1, allow_nan=False)
    write_text_atomic(options.out / "spans_on_world.md", text)
    print(f"Every number: {write_text_atomic(options.out / 'spans_on_world.json', values)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
