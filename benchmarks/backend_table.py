"""Which engine can do what with which family: docs/backend_table.md, measured.

    python -m benchmarks.backend_table

Runs `check_model` and the measures of tests/models/parity.py, those that the tests assert, on a
small random model of every family, with every engine.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks._record import SMOKE
from dst.core.errors import DSTError
from dst.core.files import write_text_atomic
from dst.models.bridge import BridgeBackend
from dst.models.check import check_model
from dst.models.hooks import HooksBackend
from dst.models.nnsight import NNsightBackend
from tests import tiny
from tests.models.parity import MEASURES, TOLERANCE, tiny_model

PAGE = Path(__file__).parents[1] / "docs" / "backend_table.md"
ENGINES: dict[str, Callable[[Any, Any], Any]] = {
    "hooks": HooksBackend,
    "bridge": BridgeBackend,
    "nnsight": NNsightBackend,
    "nnsight, remote": lambda model, tokenizer: NNsightBackend(model, tokenizer, remote="local"),
}
COLUMNS: dict[str, tuple[str, ...]] = {
    "logits": ("logits",),
    "read states": ("hidden states", "read residual"),
    "read q k v z": ("read q k v", "read z"),
    "read patterns": ("read pattern",),
    "edit states": ("edit residual",),
    "edit q k v z": ("edit q k v", "edit z"),
    "cuts": ("cut", "cut pattern"),
    "lens": ("lens",),
    "batch": ("batch",),
    "generate": ("generate",),
}
"""Column -> the measures whose worst it shows."""

ABOUT = f"""# Engines and families

Small random models (3 layers, width 64, float32, biases and norm gains random too) of every
family, run by every engine on the same weights. A figure is the largest difference from the
reference engine (hooks), relative to the largest logit or activation, over every layer, rows of
unequal length, and for cuts and edits after the intervention; the reference itself is compared
with what transformers returns. Up to {TOLERANCE:.0e} counts as equal; `0` is bit for bit, and for
*generate* the same tokens. *check_model* is what `dst.load` measures on every model; *holds* means
all of it. *nnsight, remote* is nnsight's own dry run of the remote path (`remote="local"`). What an
engine cannot do is below the table, in its own words.

"""


class Notes:
    """Reasons, each numbered once."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def mark(self, reason: str) -> str:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return f"no ({self.reasons.index(reason) + 1})"


def cell(reference: Any, engine: Any, measures: Sequence[str], notes: Notes) -> str:
    """The worst of some measures, or why there is none."""
    try:
        worst = max(MEASURES[name](reference, engine) for name in measures)
    except (DSTError, AssertionError) as failed:
        return notes.mark(str(failed).partition("\n")[0])
    if worst > TOLERANCE:
        return notes.mark(f"a relative difference of {worst:.0e}")
    return f"{worst:.0e}" if worst else "0"


def row(family: str, name: str, notes: Notes) -> list[str]:
    model, tokenizer = tiny_model(family), tiny.byte_bpe()
    reference = HooksBackend(model, tokenizer)
    try:
        engine = ENGINES[name](model, tokenizer)
    except DSTError as refused:
        return [family, name, notes.mark(str(refused)), *["-"] * len(COLUMNS)]
    failed = [
        f"{check.name}: {check.reason}" for check in check_model(engine).checks if not check.passed
    ]
    failed += [f"site {kind}: {why}" for kind, why in engine.anatomy.missing.items()]
    holds = notes.mark("; ".join(failed)) if failed else "holds"
    cells = [cell(reference, engine, measures, notes) for measures in COLUMNS.values()]
    return [family, name, holds, *cells]


def page(rows: Sequence[Sequence[str]], notes: Notes) -> str:
    heads = ["family", "engine", "check_model", *COLUMNS]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows]
    packages = ("torch", "transformers", "transformer_lens", "nnsight")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    reasons = [f"{number}. {reason}" for number, reason in enumerate(notes.reasons, 1)]
    listed = "\n".join(["", *reasons, ""]) if reasons else ""
    written = "Written by `python -m benchmarks.backend_table`"
    return f"{ABOUT}{chr(10).join(lines)}\n{listed}\n{written} with {versions}.\n"


def main() -> None:
    notes = Notes()
    families = list(tiny.FAMILIES)[:1] if SMOKE else list(tiny.FAMILIES)
    rows = [row(family, engine, notes) for family in families for engine in ENGINES]
    text = page(rows, notes)
    print(text)
    if not SMOKE:
        write_text_atomic(PAGE, text)


if __name__ == "__main__":
    main()
