"""The recipe of the embedded model: a small Llama that learns the world's stories.

    python -m dst.testbed.train --out runs/world            # 560 steps, about 2 minutes
    python -m dst.testbed.train --out runs/world --resume   # after an interruption

The run folder holds `step-00080/` ... (weights, optimizer, progress) and, at the end, `model/`:
a folder that `transformers` and `dst.load` read, with its card. Stories are drawn anew for every
step from the seed and the step's number, so a resumed run reads what an unbroken one reads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dst.core.errors import DSTError, InputError
from dst.core.files import write_text_atomic
from dst.testbed import world
from dst.testbed.card import write_model
from dst.testbed.judge import error_table
from dst.testbed.recipe import Recipe, build_model, build_tokenizer, stories

__all__ = ["StoppedError", "Recipe", "Trainer", "error_table", "train"]

NOTED = 96  # cases of each kind whose error is noted at a checkpoint


class StoppedError(DSTError):
    """Training was stopped from the keyboard; it can be resumed."""


class Trainer:
    """A model on its way: `advance` takes one step, `save` and `load` keep the place."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.tokenizer = build_tokenizer(recipe.window)
        self.model = build_model(recipe, self.tokenizer)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self.step = 0
        self.losses: list[float] = []  # since the last note
        self.history: list[dict[str, Any]] = []  # loss and error at every note

    def advance(self) -> float:
        """Train on one batch; the mean loss of its tokens, in nats."""
        texts = [
            f"{story} {self.tokenizer.eos_token}" for story in stories(self.recipe, self.step + 1)
        ]
        batch = self.tokenizer(texts, padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.step + 1)
        # Padding stands on the right, so causal attention needs no mask to keep out of it.
        loss = self.model.train()(input_ids=batch["input_ids"], labels=labels).loss
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.step += 1
        self.losses.append(float(loss.detach()))
        return self.losses[-1]

    def note(self) -> None:
        """Add to the history: the mean loss since the last note, and errors on the tune split."""
        kinds = self.recipe.kinds
        cases = world.cases("tune", n=NOTED * len(kinds), kinds=kinds)
        rows = error_table(self.model, self.tokenizer, cases)
        error = {row.kind: round(row.error, 4) for row in rows}
        loss = round(sum(self.losses) / len(self.losses), 4)
        self.history.append({"step": self.step, "loss": loss, "error": error})
        self.losses.clear()

    def save(self, run: Path) -> Path:
        """Write weights, optimizer and progress of this step; all of it or nothing appears."""

        def write(folder: Path) -> None:
            save_file(self.model.state_dict(), folder / "model.safetensors")
            save_file(self._optimizer_tensors(), folder / "optimizer.safetensors")
            state = {
                "step": self.step,
                "recipe": dataclasses.asdict(self.recipe),
                "losses": self.losses,
                "history": self.history,
            }
            write_text_atomic(folder / "state.json", json.dumps(state, indent=1) + "\n")

        return write_folder(run / f"step-{self.step:05d}", write)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: The checkpoint is of another recipe, or cannot be read.
        """
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            weights = load_file(folder / "model.safetensors")
            moments = load_file(folder / "optimizer.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(
                f"The checkpoint {folder} cannot be read ({error})",
                do="Delete that folder to go on from the one before it",
            ) from None
        # Only where training stops may differ: it changes no step before it.
        mine = json.loads(json.dumps(dataclasses.asdict(self.recipe)))
        for name, value in mine.items():
            if name != "steps" and state["recipe"].get(name) != value:
                raise InputError(
                    f"{folder} was trained with {name} {state['recipe'].get(name)}, not {value}",
                    do="Resume with the same settings, or begin in another folder",
                )
        self.model.load_state_dict(weights)
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in moments.items():
            number, name = key.split(".")
            slots.setdefault(int(number), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.step, self.losses = state["step"], state["losses"]
        self.history = state["history"]

    def _optimizer_tensors(self) -> dict[str, torch.Tensor]:
        slots = self.optimizer.state_dict()["state"]
        return {f"{n}.{name}": value for n, slot in slots.items() for name, value in slot.items()}


def train(
    recipe: Recipe,
    run: Path,
    *,
    resume: bool = False,
    report: Callable[[int, str], None] = lambda step, line: None,
) -> Path:
    """Train by a recipe; the folder `run`/model holds the result.

    Args:
        recipe: What to train, and how far.
        run: Folder of checkpoints and of the result.
        resume: Go on from the last checkpoint in `run`.
        report: Called after every step with its number and a line about progress.

    Raises:
        InputError: `run` holds a run already and `resume` is not said, or its recipe differs.
        StoppedError: Ctrl-C; the step in progress was finished and saved.
    """
    trainer = Trainer(recipe)
    if saved := sorted(run.glob("step-*")):
        if not resume:
            raise InputError(
                f"{run} holds a run already, saved as {saved[-1].name}",
                do="Add --resume to go on with it, or give another folder",
            )
        usable = [folder for folder in saved if folder.name <= f"step-{recipe.steps:05d}"]
        if usable:
            trainer.load(usable[-1])
    start, first = time.monotonic(), trainer.step
    with _stop_on_interrupt() as asked_to_stop:
        while trainer.step < recipe.steps and not asked_to_stop():
            loss = trainer.advance()
            pace = (time.monotonic() - start) / (trainer.step - first)
            left = pace * (recipe.steps - trainer.step) / 60
            report(
                trainer.step,
                f"step {trainer.step}/{recipe.steps}  loss {loss:.3f} nats  {left:.1f} min left",
            )
            at_end = trainer.step == recipe.steps
            if trainer.step % recipe.save_every == 0 or at_end:
                trainer.note()
                trainer.save(run)
        if trainer.step < recipe.steps:
            trainer.save(run)
            raise StoppedError(f"Stopped after step {trainer.step}, which is saved in {run}")

    def write(folder: Path) -> None:
        settings = {**dataclasses.asdict(recipe), "steps": trainer.step}
        write_model(
            folder, trainer.model, trainer.tokenizer, recipe=settings, history=trainer.history
        )

    return write_folder(run / "model", write)


@contextmanager
def _stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C lets the step in progress end; a second Ctrl-C stops at once."""
    asked = threading.Event()

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def write_folder(target: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a folder beside `target`, then move it into place.

    Raises:
        InputError: The folder cannot be written; nothing is left behind.
    """
    partial = target.with_name(f".{target.name}.partial")
    old = target.with_name(f".{target.name}.old")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        if target.exists():
            os.replace(target, old)
        os.replace(partial, target)
    except OSError as error:
        raise InputError(
            f"{target} cannot be written ({error.strerror or error})",
            do="Give a folder that you may write to",
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m dst.testbed.train`; the exit code is 0, 2 for wrong input, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m dst.testbed.train", description=main.__doc__)
    recipe = Recipe()
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=recipe.steps, help="where to stop")
    parser.add_argument("--seed", type=int, default=recipe.seed)
    parser.add_argument("--threads", type=int, default=2, help="of the processor")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    transformers.utils.logging.disable_progress_bar()
    live = sys.stderr.isatty()

    def report(step: int, line: str) -> None:
        if live:
            sys.stderr.write(f"\r\033[K{line}")
        elif step % recipe.save_every == 0:
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    try:
        recipe = dataclasses.replace(recipe, steps=given.steps, seed=given.seed)
        folder = train(recipe, given.out, resume=given.resume, report=report)
    except StoppedError as error:
        sys.stderr.write(f"\n{error} Go on with --resume.\n")
        return 130
    except DSTError as error:
        sys.stderr.write(f"\n{error}\n")
        return 2
    sys.stderr.write(f"\nThe model and its card are in {folder}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
