"""From a trainer to a folder of the zoo, its list, and the model that ships with dst."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dst.core.errors import InputError
from dst.core.files import write_text_atomic
from dst.models.pretrained import embedded_path, quiet
from dst.models.verify import CARD, file_hash, verify_files
from dst.testbed import world
from dst.testbed.card import HARD, read_card, rename, write_model
from dst.testbed.folders import write_folder
from dst.testbed.train import Trainer

MANIFEST = "zoo.json"
DEFAULT_NAME = "dst embedded world"


def checkpoint_name(run: str, step: int) -> str:
    """The name of a run's checkpoint: "w128-s0-0320"."""
    return f"{run}-{step:04d}"


def export(trainer: Trainer, zoo: Path, run: str) -> Path:
    """Write a checkpoint's folder and list it in `zoo.json`; one that is there is kept.

    Raises:
        InputError: The one that is there is of another recipe.
    """
    name = checkpoint_name(run, trainer.step)
    target = zoo / name
    if target.is_dir():
        mine = json.loads(json.dumps(dataclasses.asdict(trainer.recipe)))
        if read_card(target)["recipe"] != mine:
            raise InputError(
                f"{target} is of another recipe", do="Delete it, or give another folder"
            )
    else:

        def write(partial: Path) -> None:
            write_model(
                partial,
                trainer.model,
                trainer.tokenizer,
                name=f"dst zoo {name}",
                run=run,
                recipe=trainer.recipe,
                step=trainer.step,
                history=trainer.history,
            )

        with quiet():
            write_folder(target, write)
    write_manifest(zoo)
    return target


def write_manifest(zoo: Path) -> Path:
    """List every checkpoint of a folder in its `zoo.json` and README.md, by their cards."""
    # A folder whose name begins with a dot was being written when something ended the process.
    folders = [path.parent for path in zoo.glob(f"*/{CARD}") if path.parent.name[0] != "."]
    cards = {folder.name: read_card(folder) for folder in folders}
    order = sorted(cards, key=lambda name: (cards[name]["run"], cards[name]["step"]))
    listed = {
        name: {
            "run": cards[name]["run"],
            "step": cards[name]["step"],
            "seed": cards[name]["recipe"]["seed"],
            "architecture": cards[name]["architecture"],
            "sha256": {CARD: file_hash(zoo / name / CARD), **cards[name]["sha256"]},
            "errors": {sense: cards[name]["error_table"][sense] for sense in world.SENSES},
        }
        for name in order
    }
    write_text_atomic(zoo / "README.md", _markdown(listed))
    return write_text_atomic(zoo / MANIFEST, json.dumps({"checkpoints": listed}, indent=1) + "\n")


def _markdown(listed: Mapping[str, Any]) -> str:
    kinds: dict[str, None] = {}
    for entry in listed.values():
        kinds |= dict.fromkeys(row["kind"] for row in _what(entry))
    lines = [
        "# The zoo",
        "",
        'Models of `dst/testbed/world.py` at fixed steps of their training. `dst.load("zoo/NAME")`'
        " loads one, `transformers` reads its folder too; `dst testbed train` trains them again,"
        " and `dst testbed errors` recomputes this table. Share of hallucinations (associative"
        " answers) where the context says the minority sense, and in brackets of all errors:",
        "",
        "| name | layers x width | step | " + " | ".join(kinds) + " |",
        "|---|---|---|" + "---|" * len(kinds),
    ]
    for name, entry in listed.items():
        made = entry["architecture"]
        shares = {
            row["kind"]: f"{row['hallucination']:.2f} ({row['error']:.2f})" for row in _what(entry)
        }
        lines.append(
            f"| {name} | {made['layers']} x {made['width']} | {entry['step']} | "
            + " | ".join(shares.get(kind, "") for kind in kinds)
            + " |"
        )
    return "\n".join(lines) + "\n"


def _what(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a checkpoint's minority-sense cases that ask what it is."""
    return [row for row in entry["errors"]["minority"] if not row.get("gold")]


def unsuited(card: Mapping[str, Any]) -> list[str]:
    """What keeps a checkpoint from being the default model, by its card; nothing if it suits.

    The default reads plain stories and errs, for the association, in a fair share of others, in
    more than one way and with most words.
    """
    table = card["error_table"]
    rows = {row["kind"]: row for row in table["minority"] if not row.get("gold")}
    plain = rows["plain"]["contextual"] / rows["plain"]["n"]
    hard = [rows[kind] for kind in HARD if kind in rows]
    share = sum(row["associative"] for row in hard) / sum(row["n"] for row in hard)
    fair = [row["kind"] for row in hard if 0.10 <= row["hallucination"] <= 0.80]
    words = table["words"]["minority"].values()
    hit = sum(word["associative"] > 0 for word in words) / len(words)
    reasons = {
        f"it is right in {plain:.3f} of plain cases; 0.95 are asked for": plain >= 0.95,
        f"it hallucinates in {share:.3f} of {', '.join(HARD)}; 0.15 to 0.40 are asked for": (
            0.15 <= share <= 0.40
        ),
        f"{len(fair)} of these kinds between 0.10 and 0.80; two are asked for": len(fair) >= 2,
        f"it hallucinates with {hit:.2f} of the words; half are asked for": hit >= 0.5,
        "no case meets dst.testbed.judge.DEMO_RULE": card["demo"] is not None,
    }
    return [reason for reason, holds in reasons.items() if not holds]


def export_default(source: Path, target: Path | None = None) -> Path:
    """Make a checkpoint the embedded model: what `dst.load()` gives.

    Its lens and its reference of correct runs are not in the zoo: `dst.testbed.card.ship` adds
    them, and their SHA-256, to the folder.

    Args:
        source: The checkpoint's folder.
        target: The folder to write; by default the one that ships with dst.

    Raises:
        InputError: The checkpoint has no demonstration, which `dst demo` needs, or its files are
            not those of its card. (`unsuited` says what else is asked of a default.)
    """
    verify_files(source, needs_card=True)
    if read_card(source)["demo"] is None:
        raise InputError(
            f"{source} has no demonstration: no case meets dst.testbed.judge.DEMO_RULE",
            do="Choose another checkpoint",
        )
    return write_folder(
        target or embedded_path(),
        lambda partial: rename(shutil.copytree(source, partial, dirs_exist_ok=True), DEFAULT_NAME),
    )
