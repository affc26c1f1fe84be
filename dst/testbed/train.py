"""Training by a recipe: seeded, resumable, with checkpoints at steps that were fixed before.

A run folder holds `step-00400/` and so on: weights and progress of every step that is kept, and
beside the latest two also the optimizer, from which training goes on. Stories are drawn anew for
every step from the seed and the step's number, so a resumed run reads what an unbroken one reads.
Everything is computed in float32, on a GPU too (no bfloat16, no TF32).
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dst.core.errors import DSTError, InputError
from dst.core.files import write_text_atomic
from dst.testbed import world
from dst.testbed.folders import write_folder
from dst.testbed.judge import error_table
from dst.testbed.lexicon import NONE
from dst.testbed.recipe import Recipe, build_model, build_tokenizer, stories

NOTED = 96  # cases of each kind whose error is noted on the way
TOGETHER = 16  # stories in one pass
OPTIMIZER = "optimizer.safetensors"


class StoppedError(DSTError):
    """Training was stopped from the keyboard; it can be resumed."""


class Trainer:
    """A model on its way: `advance` takes one step, `save` and `load` keep the place.

    Raises:
        InputError: The device does not exist here.
    """

    def __init__(self, recipe: Recipe, device: str = "cpu") -> None:
        self.recipe = recipe
        self.tokenizer = build_tokenizer(recipe.window)
        # The first weights are drawn on the processor, so that every device begins alike.
        self.model = on_device(build_model(recipe, self.tokenizer), device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self.step = 0
        self.losses: list[float] = []  # since the last note
        self.history: list[dict[str, Any]] = []  # loss and error at every note

    def advance(self) -> float:
        """Train on one batch; the mean loss of its tokens, in nats.

        Stories of about one length run together, so that little is padded; the gradient is that of
        the whole batch.
        """
        end = self.tokenizer.eos_token
        texts = sorted((f"{story}{end}" for story in stories(self.recipe, self.step + 1)), key=len)
        rows = self.tokenizer(texts)["input_ids"]
        targets = sum(len(row) - 1 for row in rows)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.step + 1)
        self.optimizer.zero_grad()
        self.model.train()
        loss = 0.0
        for start in range(0, len(rows), TOGETHER):
            part = self._loss(rows[start : start + TOGETHER]) / targets
            part.backward()
            loss += float(part.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.step += 1
        self.losses.append(loss)
        return loss

    def _loss(self, rows: list[list[int]]) -> torch.Tensor:
        """The summed loss of some stories, in nats."""
        batch = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(self.model.device)
        ids = batch["input_ids"]
        # Padding stands on the right, so causal attention needs no mask to keep out of it.
        logits = self.model(input_ids=ids, use_cache=False).logits[:, :-1]
        labels = ids.masked_fill(batch["attention_mask"] == 0, -100)[:, 1:]
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
        )

    def note(self) -> None:
        """Add to the history: the mean loss since the last note, and errors on the tune split."""
        kinds = [kind for kind in self.recipe.kinds if kind != NONE]
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
            save_file(self._optimizer_tensors(), folder / OPTIMIZER)
            state = {
                "step": self.step,
                "recipe": dataclasses.asdict(self.recipe),
                "losses": self.losses,
                "history": self.history,
            }
            write_text_atomic(folder / "state.json", json.dumps(state, indent=1) + "\n")

        return write_folder(step_folder(run, self.step), write)

    def load(self, folder: Path, *, with_optimizer: bool = True) -> None:
        """Take the place of a checkpoint: to go on from it or, without its optimizer, to look.

        Raises:
            InputError: The checkpoint is of another recipe, or cannot be read.
        """
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            weights = load_file(folder / "model.safetensors")
            moments = load_file(folder / OPTIMIZER) if with_optimizer else {}
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
        if with_optimizer:
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


def on_device(model: Any, device: str) -> Any:
    """A model moved to a device.

    Raises:
        InputError: torch finds no such device here.
    """
    try:
        return model.to(device)
    except (RuntimeError, AssertionError, ValueError) as error:  # torch's words for "not here"
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise InputError(
            f"The device {device!r} cannot be used ({reason})", expected="such as cpu or cuda"
        ) from None


def step_folder(run: Path, step: int) -> Path:
    """Where a run keeps a step."""
    return run / f"step-{step:05d}"


def train(
    recipe: Recipe,
    run: Path,
    *,
    keep: Sequence[int] = (),
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int, str], None] = lambda step, line: None,
    kept: Callable[[Trainer], object] = lambda trainer: None,
) -> Path:
    """Train by a recipe, keeping the weights of some steps; the folder of the last one.

    Args:
        recipe: What to train, and how far.
        run: Folder of the checkpoints.
        keep: Steps whose weights stay in `run`, beside the last step.
        resume: Go on from the last checkpoint in `run`, if there is one.
        device: Such as "cuda".
        report: Called after every step with its number and a line about progress.
        kept: Called at every step of `keep` and at the last, with the model there; after an
            interruption again for those that `run` holds.

    Raises:
        InputError: `run` holds a run already and `resume` is not said, its recipe differs, it
            has passed a step of `keep` without keeping it, or the device does not exist.
        StoppedError: Ctrl-C; the step in progress was finished and saved.
    """
    wanted = sorted({*keep, recipe.steps})
    if not 1 <= wanted[0] <= wanted[-1] <= recipe.steps:
        raise InputError(f"Steps to keep are {list(keep)}", expected=f"1 to {recipe.steps}")
    trainer = Trainer(recipe, device)
    _go_on(trainer, run, wanted, resume=resume, kept=kept)
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
            if trainer.step in wanted or trainer.step % recipe.save_every == 0:
                trainer.note()
                trainer.save(run)
                _thin(run, wanted)
            if trainer.step in wanted:
                kept(trainer)
        if trainer.step < recipe.steps:
            if not step_folder(run, trainer.step).exists():
                trainer.save(run)
            raise StoppedError(f"Stopped after step {trainer.step}, which is saved in {run}")
    return step_folder(run, recipe.steps)


def _go_on(
    trainer: Trainer,
    run: Path,
    wanted: Sequence[int],
    *,
    resume: bool,
    kept: Callable[[Trainer], object],
) -> None:
    """Bring a trainer to the last step that was saved, by way of the steps that are kept."""
    saved = sorted(run.glob("step-*"))
    if saved and not resume:
        raise InputError(
            f"{run} holds a run already, saved as {saved[-1].name}",
            do="Add --resume to go on with it, or give another folder",
        )
    last = step_folder(run, trainer.recipe.steps).name
    usable = [path for path in saved if (path / OPTIMIZER).is_file() and path.name <= last]
    if not usable:
        return
    reached = usable[-1]
    for step in wanted:
        folder = step_folder(run, step)
        if folder.name > reached.name:
            break
        if not folder.is_dir():
            raise InputError(
                f"{run} has passed step {step}, which is to be kept, without keeping it",
                do="Begin in another folder",
            )
        trainer.load(folder, with_optimizer=False)
        kept(trainer)
    trainer.load(reached)


def _thin(run: Path, wanted: Sequence[int]) -> None:
    """Remove what nobody needs: older steps that are not kept, and older optimizers.

    The latest two steps can be resumed from, in case one of them is damaged.
    """
    names = {step_folder(run, step).name for step in wanted}
    for folder in sorted(run.glob("step-*"))[:-2]:
        if folder.name in names:
            (folder / OPTIMIZER).unlink(missing_ok=True)
        else:
            shutil.rmtree(folder)


@contextmanager
def _stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C lets the step in progress end; a second Ctrl-C stops at once.

    Python lets only the main thread listen to the keyboard.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
