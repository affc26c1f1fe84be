"""A model's folder and its card: what was trained, how, how often it errs, what is not claimed."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.files import write_text_atomic
from dst.models.verify import CARD, file_hash
from dst.testbed import judge, world
from dst.testbed.folders import write_folder
from dst.testbed.lexicon import NONE
from dst.testbed.recipe import Recipe

SEED = 0  # of the cases of the error table:
PER_KIND = 200  # questions "what is it?" of each kind, for each sense,
PER_YES_NO = 100  # yes/no questions likewise,
PER_COMPOSED = 50  # and questions about pairs of word and pattern that no corpus holds
HARD = ("far", "prime", "binding", "shift", "memory")  # kinds in which something misleads
WITH_CUE = tuple(kind for kind in world.KINDS if kind != NONE)
WEIGHTS = "model.safetensors"
HASHED = (WEIGHTS, "config.json", "tokenizer.json")
LIMITS = (
    "It knows the words of tokenizer.json and the stories of dst/testbed/world.py, nothing else.",
    "It is one seed at one step of training; its errors say nothing about larger models.",
)


# ------------------------------------------------------------------------------- the numbers


@cache
def table_cases(sense: str) -> dict[str, tuple[Case, ...]]:
    """The cases of the error table for one sense, the same for every model, in three parts.

    "asked": what is it?, and yes/no questions, of the test split; "composition": what is it?, of
    pairs of word and pattern that were withheld; "none": stories without a cue.
    """

    def drawn(split: str, per_kind: int, kinds: Sequence[str], asking: str) -> list[Case]:
        n = per_kind * len(kinds)
        return world.cases(split, n, SEED, kinds, sense, askings=(asking,))

    what, yes_no = (
        drawn("test", n, WITH_CUE, asking)
        for n, asking in ((PER_KIND, "what"), (PER_YES_NO, "yesno"))
    )
    return {
        "asked": (*what, *yes_no),
        "composition": tuple(drawn("composition", PER_COMPOSED, WITH_CUE, "what")),
        "none": tuple(drawn("test", PER_KIND, (NONE,), "what")),
    }


def error_tables(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Errors of a model, as a card holds them.

    For each sense, rows by kind (yes/no questions by their right answer too), and by word the
    outcomes of what is it? in the `HARD` kinds. Apart from these: "composition", the pairs of
    word and pattern that were withheld; "none", the stories without a cue, where "associative"
    is the dominant sense and no answer is an error; "yes_no", balanced accuracy and yes-bias.
    """
    table: dict[str, Any] = {"seed": SEED, "composition": {}, "words": {}, "yes_no": {}}
    for sense in world.SENSES:
        parts = table_cases(sense)
        every = [case for cases in parts.values() for case in cases]
        found = dict(zip(every, judge.outcomes(model, tokenizer, every), strict=True))
        rows = {
            part: judge.table_of(cases, [found[case] for case in cases])
            for part, cases in parts.items()
        }
        hard = [c for c in parts["asked"] if world.kind_of(c) in HARD and not judge.gold(c)]
        table[sense] = [row.to_dict() for row in rows["asked"]]
        table["composition"][sense] = [row.to_dict() for row in rows["composition"]]
        table["words"][sense] = judge.by_word(hard, [found[case] for case in hard])
        if sense == "minority":
            table["none"] = rows["none"][0].to_dict()
        if together := judge.yes_no(rows["asked"]):
            # JSON has no NaN: null stands for a yes-bias without a valid answer.
            table["yes_no"][sense] = {
                name: None if math.isnan(value) else round(value, 4)
                for name, value in dataclasses.asdict(together).items()
            }
    return table


# -------------------------------------------------------------------------------- the folder


def write_model(
    folder: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    name: str,
    run: str,
    recipe: Recipe,
    step: int,
    history: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Fill a folder: weights in float16, tokenizer, word lists, card.json and CARD.md.

    Every folder is whole: `transformers` and `dst.load` read it. The weights are rounded to
    float16 and stored so; config.json asks for float32, in which they run, and the card's errors
    are those of the rounded weights. `model` keeps its own.

    Returns:
        What card.json says.
    """
    exact = {key: value.detach().clone() for key, value in model.state_dict().items()}
    rounded = {key: value.to("cpu", torch.float16) for key, value in exact.items()}
    try:
        model.load_state_dict({key: value.float() for key, value in rounded.items()})
        model.save_pretrained(folder, state_dict=rounded)
        # It comes out readable by its owner alone; the others may read what they may read here.
        shutil.copymode(folder / "config.json", folder / WEIGHTS)
        tables = error_tables(model, tokenizer)
        shown = judge.demo(model, tokenizer)
    finally:
        model.load_state_dict(exact)
    tokenizer.save_pretrained(folder)
    nouns = "".join(f"{noun}\n" for noun in world.NEUTRAL_NOUNS)
    write_text_atomic(folder / "neutral_nouns.txt", nouns)
    sentences = "".join(f"{story}\n" for story in ordinary(200))
    write_text_atomic(folder / "reference_sentences.txt", sentences)
    settings = dataclasses.asdict(recipe)
    sizes = ("layers", "width", "heads", "mlp", "window")
    return _write_card(
        folder,
        {
            "name": name,
            "licence": "MIT",
            "architecture": {
                "class": type(model).__name__,
                "parameters": sum(weights.numel() for weights in model.parameters()),
                "words": len(tokenizer),
                **{size: settings[size] for size in sizes},
            },
            "run": run,
            "step": step,
            "recipe": settings,
            "trained_with": {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "device": model.device.type,
            },
            "sha256": {file: file_hash(folder / file) for file in HASHED},
            "vocabulary": "tokenizer.json",
            "neutral_nouns": "neutral_nouns.txt",
            "error_table": tables,
            "history": list(history),
            "limits": LIMITS,
            "demo": shown,
        },
    )


def ship(folder: Path, files: Mapping[str, Callable[[Path], object]], **said: Any) -> Path:
    """Add files to a model's folder, and to its card the SHA-256 of each.

    The folder changes as a whole or not at all. `dst.load` refuses a folder whose files are not
    those of its card, so what is shipped this way is verified at every load.

    Args:
        folder: Of a model, with its card.
        files: The name of each file, and what writes it to the path that it is given.
        said: Further entries of the card, such as what a file was made from.

    Raises:
        InputError: The folder has no card, a name is a path, or a file was not written.
    """
    if not (folder / CARD).is_file():
        raise InputError(f"{folder} has no {CARD}", expected="the folder of a model with its card")
    card = read_card(folder)

    def write(partial: Path) -> None:
        shutil.copytree(folder, partial, dirs_exist_ok=True)
        for name, write_file in files.items():
            if Path(name).name != name or name == CARD:
                raise InputError(f"{name!r} cannot be shipped", expected="a plain file name")
            write_file(partial / name)
            if not (partial / name).is_file():
                raise InputError(f"{name} was not written", expected="a function that writes it")
            card["sha256"][name] = file_hash(partial / name)
        _write_card(partial, card | said)

    return write_folder(folder, write)


def read_card(folder: Path) -> dict[str, Any]:
    """What the card in a model's folder says."""
    card: dict[str, Any] = json.loads((folder / CARD).read_text("utf-8"))
    return card


def rename(folder: Path, name: str) -> Path:
    """Change the name on a model's card."""
    _write_card(folder, read_card(folder) | {"name": name})
    return folder


def _write_card(folder: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    written = json.dumps(card, indent=1, allow_nan=False) + "\n"
    plain: dict[str, Any] = json.loads(written)
    write_text_atomic(folder / CARD, written)
    write_text_atomic(folder / "CARD.md", _markdown(plain))
    return plain


def ordinary(n: int, seed: int = SEED) -> list[str]:
    """Whole stories of the world, every kind in turn: what a mean state is taken over."""
    rng = np.random.default_rng(seed)
    return [world.document(rng, world.KINDS[i % len(world.KINDS)]) for i in range(n)]


# ------------------------------------------------------------------------------ for a reader


def _markdown(card: Mapping[str, Any]) -> str:
    made, errors = card["architecture"], card["error_table"]
    lines = [
        f"# {card['name']}",
        "",
        f"A {made['class']} of {made['layers']} layers, width {made['width']}, {made['heads']}"
        f" heads, {made['parameters']:,} parameters and {made['words']} tokens, after"
        f" {card['step']} steps on the stories of `dst/testbed/world.py` (seed"
        f" {card['recipe']['seed']}), trained with `dst testbed train`. Licence:"
        f" {card['licence']}.",
        "",
        "## How often it errs",
        "",
        "Greedy answers to cases of the test split, with Wilson's 95 % intervals. A hallucination"
        " is an associative answer; an error is any answer that the context does not support.",
        "",
        "| the context says | kind | n | hallucination | error | invalid |",
        "|---|---|---|---|---|---|",
    ]
    for sense in world.SENSES:
        for row in errors[sense]:
            if row.get("gold"):
                continue
            shares = [
                "{:.3f} ({:.3f} to {:.3f})".format(row[name], *row[f"{name}_interval"])
                for name in ("hallucination", "error")
            ]
            lines.append(
                f"| the {sense} sense | {row['kind']} | {row['n']} | {shares[0]} | {shares[1]}"
                f" | {row['invalid']} |"
            )
    lines += ["", *_apart(errors)]
    lines += ["", "## Not claimed", "", *(f"- {limit}" for limit in card["limits"])]
    if demo := card["demo"]:
        lines += ["", "## Its demonstration", "", demo["rule"], ""]
        lines += [_told(demo, "hallucinated"), ">", _told(demo, "corrected")]
    lines += ["", "## SHA-256", ""]
    lines += [f"- `{name}`: `{digest}`" for name, digest in card["sha256"].items()]
    return "\n".join(lines) + "\n"


def _apart(errors: Mapping[str, Any]) -> list[str]:
    """What is counted apart from the table, an item each."""
    items = []
    for sense in world.SENSES:
        if asked := errors["yes_no"].get(sense):
            bias = "undefined: no valid answer"
            if asked["yes_bias"] is not None:
                bias = (
                    f"{asked['yes_bias']:+.3f} (share of yes among valid answers, minus the share"
                    " of questions to say yes to)"
                )
            items.append(
                f"- {asked['n']} yes/no questions, {sense} sense: balanced accuracy"
                f" {asked['balanced_accuracy']:.3f}, {asked['invalid']} invalid, yes-bias {bias}."
            )
        shares = ", ".join(f"{r['kind']} {r['error']:.2f}" for r in errors["composition"][sense])
        items.append(
            f"- Error in pairs of word and pattern that were withheld, {sense} sense: {shares}."
        )
    row = errors["none"]
    items.append(
        f"- Without any cue it says the dominant sense in {row['associative']} of {row['n']}"
        f" cases, the minority sense in {row['contextual']}, another word in {row['invalid']}."
    )
    return items


def rows_of(errors: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Every row of a card's error table, by a name that says which it is."""
    named = {"without a cue": errors["none"]}
    for sense in world.SENSES:
        named |= {f"{kind_name(row)}, {sense} sense": row for row in errors[sense]}
        withheld = errors["composition"][sense]
        named |= {f"{kind_name(row)}, withheld, {sense} sense": row for row in withheld}
    return named


def kind_name(row: Mapping[str, Any]) -> str:
    """A row's kind as it is shown: yes/no questions with their right answer."""
    return f"{row['kind']}, to say {row['gold']}" if row.get("gold") else str(row["kind"])


def _told(demo: Mapping[str, Any], which: str) -> str:
    answer, p = demo[f"{which}_answer"], demo[f"{which}_probability"]
    return f"> {demo[which]['prompt']} **{answer}** (p = {p:.3f})"
