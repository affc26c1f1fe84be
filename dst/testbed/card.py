"""A model's card: what was trained, how, how often it errs, and what is not claimed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from dst.core.files import write_text_atomic
from dst.testbed import world
from dst.testbed.judge import ErrorRow, demo, error_table, wilson

NAME = "dst embedded world"
SPLIT, SEED, N = "test", 0, 1200  # the cases of the error table, for each sense
HASHED = ("model.safetensors", "config.json", "tokenizer.json")
LIMITS = (
    "It knows the words of tokenizer.json and the stories of dst/testbed/world.py, nothing else.",
    "It is one seed at one step of training; its errors say nothing about larger models.",
    "It was stopped while it still confuses who is where: that it errs in binding is intended.",
    "It was never asked a yes/no question.",
)


def write_model(
    folder: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    recipe: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Fill a folder: the model, its tokenizer, its neutral nouns, card.json and CARD.md."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    nouns = "".join(f"{noun}\n" for noun in world.NEUTRAL_NOUNS)
    write_text_atomic(folder / "neutral_nouns.txt", nouns)
    write_text_atomic(folder / "reference_sentences.txt", _reference_sentences())
    tables = {
        sense: [
            _row(row)
            for row in error_table(model, tokenizer, world.cases(SPLIT, N, SEED, sense=sense))
        ]
        for sense in world.SENSES
    }
    card = {
        "name": NAME,
        "licence": "MIT",
        "architecture": {
            "class": type(model).__name__,
            "parameters": sum(weights.numel() for weights in model.parameters()),
            "words": len(tokenizer),
            **{name: recipe[name] for name in ("layers", "width", "heads", "mlp", "window")},
        },
        "recipe": dict(recipe),
        "trained_with": {"torch": torch.__version__, "transformers": transformers.__version__},
        "sha256": {name: sha256(folder / name) for name in HASHED},
        "vocabulary": "tokenizer.json",
        "neutral_nouns": "neutral_nouns.txt",
        "error_table": {"split": SPLIT, "seed": SEED, "n_per_sense": N, **tables},
        "history": list(history),
        "limits": LIMITS,
        "demo": demo(model, tokenizer),
    }
    written = json.dumps(card, indent=1) + "\n"
    write_text_atomic(folder / "card.json", written)
    write_text_atomic(folder / "CARD.md", _markdown(json.loads(written)))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _reference_sentences() -> str:
    """200 ordinary stories of the world, every kind in turn: what a mean state is taken over."""
    rng = np.random.default_rng(SEED)
    kinds = world.KINDS
    return "".join(f"{world.document(rng, kinds[i % len(kinds)])}\n" for i in range(200))


def _row(row: ErrorRow) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "n": row.n,
        "contextual": row.contextual,
        "associative": row.associative,
        "invalid": row.invalid,
        "error": round(row.error, 4),
        "error_interval": [round(x, 4) for x in wilson(row.n - row.contextual, row.n)],
        "hallucination": round(row.hallucination, 4),
        "hallucination_interval": [round(x, 4) for x in wilson(row.associative, row.n)],
    }


def _markdown(card: Mapping[str, Any]) -> str:
    made, errors = card["architecture"], card["error_table"]
    lines = [
        f"# {card['name']}",
        "",
        f"A {made['class']} of {made['layers']} layers, width {made['width']}, {made['heads']}"
        f" heads, {made['parameters']:,} parameters and {made['words']} words, trained for"
        f" {card['recipe']['steps']} steps on the stories of `dst/testbed/world.py` with"
        f" `python -m dst.testbed.train`. Licence: {card['licence']}.",
        "",
        "## How often it errs",
        "",
        f"Greedy answers to {errors['n_per_sense']} cases of the {errors['split']} split (seed"
        f" {errors['seed']}) for each sense, with Wilson's 95 % intervals. A hallucination is an"
        " associative answer; an error is any answer that the context does not support.",
        "",
        "| the context says | kind | n | hallucination | error | invalid |",
        "|---|---|---|---|---|---|",
    ]
    for sense in ("minority", "dominant"):
        for row in errors[sense]:
            shares = [
                "{:.3f} ({:.3f} to {:.3f})".format(row[name], *row[f"{name}_interval"])
                for name in ("hallucination", "error")
            ]
            lines.append(
                f"| the {sense} sense | {row['kind']} | {row['n']} | {shares[0]} | {shares[1]}"
                f" | {row['invalid']} |"
            )
    lines += ["", "## Not claimed", "", *(f"- {limit}" for limit in card["limits"])]
    if demo := card["demo"]:
        lines += ["", "## Its demonstration", "", demo["rule"], ""]
        lines += [_told(demo, "hallucinated"), ">", _told(demo, "corrected")]
    lines += ["", "## SHA-256", ""]
    lines += [f"- `{name}`: `{digest}`" for name, digest in card["sha256"].items()]
    return "\n".join(lines) + "\n"


def _told(demo: Mapping[str, Any], which: str) -> str:
    answer, p = demo[f"{which}_answer"], demo[f"{which}_probability"]
    return f"> {demo[which]['prompt']} **{answer}** (p = {p:.3f})"
