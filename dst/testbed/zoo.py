"""The zoo: models of the world at fixed steps of their training, from ignorance to knowledge.

    from dst.testbed import zoo

    zoo.names()                    # every checkpoint, run by run
    model = zoo.load(zoo.names()[3])  # or dst.load("zoo/NAME")

`dst testbed train` trains the runs of `recipe.ZOO` and exports each of their checkpoints as a whole
folder. The steps stand in the recipes: they were chosen before any score was computed, and none is
dropped. `zoo.json` lists the checkpoints with their SHA-256 and their errors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dst.core.errors import InputError, ModelError
from dst.models.backend import Backend
from dst.models.pretrained import zoo_path
from dst.models.verify import compare_files
from dst.testbed.card import read_card
from dst.testbed.export import MANIFEST, export, write_manifest
from dst.testbed.recipe import ZOO, Course
from dst.testbed.train import Trainer, train

# ----------------------------------------------------------------------------------- reading


def manifest(zoo: Path | None = None) -> dict[str, Any]:
    """What `zoo.json` says: under "checkpoints", by name, run, step, sizes, SHA-256 and errors.

    Args:
        zoo: The folder of the zoo; by default that of the repository, or what DST_ZOO names.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    path = (zoo or zoo_path()) / MANIFEST
    try:
        written = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"There is no zoo in {path.parent} ({MANIFEST}: {reason})",
            do="Train one with dst testbed train --out DIR, and give DIR/zoo",
        ) from None
    if not isinstance(written, dict) or not isinstance(written.get("checkpoints"), dict):
        raise InputError(f"{path} lists no checkpoints", expected="what dst testbed train writes")
    return written


def names(zoo: Path | None = None) -> list[str]:
    """The checkpoints, run by run and step by step."""
    return list(manifest(zoo)["checkpoints"])


def folder(name: str, zoo: Path | None = None) -> Path:
    """The folder of a checkpoint, after its files were compared with `zoo.json`.

    Raises:
        ModelError: The zoo has no such checkpoint, or a file was truncated or altered.
    """
    place = zoo or zoo_path()
    known = manifest(place)["checkpoints"]
    if name not in known:
        raise ModelError(f"The zoo has no checkpoint {name!r}", expected=", ".join(known))
    compare_files(place / name, known[name]["sha256"], place / MANIFEST)
    return place / name


def card(name: str, zoo: Path | None = None) -> dict[str, Any]:
    """What a checkpoint's card says, after its files were compared with `zoo.json`."""
    return read_card(folder(name, zoo))


def load(name: str, zoo: Path | None = None, **how: Any) -> Backend:
    """Load a checkpoint of the zoo, in float32, after comparing it with `zoo.json`.

    Args:
        name: One of `names()`.
        zoo: The folder of the zoo; by default that of the repository, or what DST_ZOO names.
        how: As for `dst.load`.

    Raises:
        ModelError: The zoo has no such checkpoint, or a file was truncated or altered.
    """
    from dst.models import load as loading

    checked = folder(name, zoo)
    return loading.load(str(checked) if zoo else f"zoo/{name}", **how)


# ---------------------------------------------------------------------------------- training


def chosen(names: Sequence[str] = ()) -> dict[str, Course]:
    """The runs of the zoo with these names; all of them if none is given.

    Raises:
        InputError: The zoo has no run of a name.
    """
    for name in names:
        if name not in ZOO:
            raise InputError(f"The zoo has no run {name!r}", expected="some of " + ", ".join(ZOO))
    return {name: ZOO[name] for name in (dict.fromkeys(names) or ZOO)}


def train_zoo(
    out: Path,
    names: Sequence[str] = (),
    *,
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[str, int, str], None] = lambda name, step, line: None,
) -> Path:
    """Train runs of the zoo one after another; the folder `out`/zoo that holds the checkpoints.

    Where training stands is kept in `out`/runs, so that the same call with `resume` goes on after
    any interruption. A checkpoint that is in `out`/zoo already is kept as it is.

    Args:
        out: Folder for everything.
        names: Of the runs; all by default.
        resume: Go on with what is in `out`.
        device: Such as "cuda".
        report: Called after every step with the run, the step and a line about progress.

    Raises:
        InputError: A name is unknown, or `out` holds a run already and `resume` is not said.
        StoppedError: Ctrl-C; the step in progress was finished and saved.
    """
    courses = chosen(names)
    zoo, runs = out / "zoo", out / "runs"
    held = [name for name in courses if any((runs / name).glob("step-*"))]
    if held and not resume:
        raise InputError(
            f"{out} holds a run already: {held[0]}",
            do="Add --resume to go on with it, or give another folder",
        )
    clock = _Clock(courses, runs)
    for name, course in courses.items():

        def said(step: int, line: str, name: str = name) -> None:
            report(name, step, f"{name}  {line}{clock.at(name, step)}")

        def kept(trainer: Trainer, name: str = name, course: Course = course) -> None:
            if trainer.step in course.checkpoints:
                export(trainer, zoo, name)

        train(
            course.recipe,
            runs / name,
            keep=course.checkpoints,
            resume=resume,
            device=device,
            report=said,
            kept=kept,
        )
    write_manifest(zoo)  # of what another process may have exported meanwhile, too
    return zoo


class _Clock:
    """The time left of several runs, by the pace of those steps that were taken here.

    The work of a step is taken to grow with layers x width (models this small wait as much as
    they compute).
    """

    def __init__(self, courses: Mapping[str, Course], runs: Path) -> None:
        self.work = {
            name: course.recipe.layers * course.recipe.width for name, course in courses.items()
        }
        self.left = {
            name: course.recipe.steps - _reached(runs / name) for name, course in courses.items()
        }
        self.steps = {name: course.recipe.steps for name, course in courses.items()}
        self.start, self.before = time.monotonic(), self._to_do()

    def _to_do(self) -> float:
        return sum(self.work[name] * left for name, left in self.left.items())

    def at(self, name: str, step: int) -> str:
        """What is left of all runs, as the end of a line; "" if there is one run only."""
        self.left[name] = self.steps[name] - step
        to_do = self._to_do()
        minutes = (time.monotonic() - self.start) * to_do / (self.before - to_do) / 60
        return f" (all {len(self.left)} runs: {minutes:.0f})" if len(self.left) > 1 else ""


def _reached(run: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in run.glob("step-*")), default=0)
