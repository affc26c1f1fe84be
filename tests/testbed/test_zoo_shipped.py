"""The zoo of the repository: complete, whole, small, and what its recipes train."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dst.models.pretrained import zoo_path
from dst.testbed import card, errors, export, zoo
from dst.testbed import train as training
from dst.testbed.recipe import ZOO

pytestmark = pytest.mark.skipif(
    not (zoo_path() / export.MANIFEST).is_file(), reason="the zoo is not here"
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_no_checkpoint_was_dropped_and_none_was_added() -> None:
    planned = {
        export.checkpoint_name(run, step)
        for run, course in ZOO.items()
        for step in course.checkpoints
    }
    assert set(zoo.names()) == planned
    assert {path.parent.name for path in zoo_path().glob("*/config.json")} == planned


def test_every_checkpoint_is_whole_and_of_today_s_recipe() -> None:
    for name in zoo.names():
        written = zoo.card(name)
        course = ZOO[written["run"]]
        assert written["recipe"] == json.loads(json.dumps(dataclasses.asdict(course.recipe))), name
        assert written["error_table"]["seed"] == card.SEED
        kinds = {row["kind"]: row["n"] for row in written["error_table"]["minority"]}
        assert set(kinds) == set(card.WITH_CUE)


def test_all_together_they_are_small() -> None:
    assert sum(path.stat().st_size for path in zoo_path().rglob("*") if path.is_file()) <= 40e6


def test_an_error_table_comes_out_again() -> None:
    (one,) = errors.compare_zoo(names=zoo.names()[:1])
    assert one.same_weights
    assert one.agrees, one.sentence()


@pytest.mark.full
def test_all_error_tables_come_out_again_in_minutes() -> None:
    start = time.monotonic()
    found = errors.compare_zoo(workers=2)
    assert [one.sentence() for one in found if not one.agrees] == []
    assert time.monotonic() - start < 180


@pytest.mark.full
def test_training_again_gives_the_same_errors(tmp_path: Path) -> None:
    """The start of one run; on the processor that trained it, the weights are the same."""
    name = min(zoo.names(), key=lambda name: zoo.card(name)["step"])
    written = zoo.card(name)
    recipe, step = ZOO[written["run"]].recipe, written["step"]
    trainer = training.Trainer(dataclasses.replace(recipe, steps=step))
    while trainer.step < step:
        trainer.advance()
    trainer.note()
    mine = export.export(trainer, tmp_path, written["run"])
    own = card.read_card(mine)
    same = own["sha256"][card.WEIGHTS] == written["sha256"][card.WEIGHTS]
    found = errors.compare(name, own["error_table"], written["error_table"], same_weights=same)
    assert found.agrees, found.sentence()
