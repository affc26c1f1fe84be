"""Training is what its recipe says: repeatable, resumable, interruptible, never half written."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dst.core.errors import InputError
from dst.testbed import card, judge, world
from dst.testbed import train as training
from dst.testbed.recipe import Recipe, build_model, build_tokenizer, stories

TINY = Recipe(
    steps=6, schedule=20, warm_up=2, batch=4, layers=1, width=16, heads=2, mlp=24, save_every=2
)


def _few_cases(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(card, "N", 10)
    patch.setattr(judge, "DEMO_CASES", 24)
    patch.setattr(training, "NOTED", 2)


@pytest.fixture(autouse=True)
def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """The card of a model of six steps needs no thousands of cases."""
    _few_cases(monkeypatch)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small gains nothing from a second thread, and waits for it on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run."""
    run = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        _few_cases(patch)
        training.train(TINY, run)
    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_learning_rate_climbs_and_follows_a_cosine() -> None:
    recipe = Recipe()
    assert recipe.rate(1) == pytest.approx(2e-5)
    assert recipe.rate(100) == pytest.approx(2e-3)
    assert recipe.rate(1250) == pytest.approx(1e-3)
    assert recipe.rate(2400) == pytest.approx(0.0, abs=1e-12)


def test_every_step_has_its_own_learning_rate() -> None:
    trainer = training.Trainer(TINY)
    for step in (1, 2, 3, 4):
        trainer.advance()
        assert {group["lr"] for group in trainer.optimizer.param_groups} == {TINY.rate(step)}
    assert TINY.rate(1) < TINY.rate(2) > TINY.rate(3) > TINY.rate(4)


def test_shares_of_kinds_are_those_of_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "document", lambda rng, kind: kind)
    drawn = [kind for step in range(200) for kind in stories(Recipe(), step)]
    for kind, share in zip(Recipe().kinds, Recipe().shares, strict=True):
        spread = 4 * np.sqrt(share * (1 - share) / len(drawn))
        assert abs(drawn.count(kind) / len(drawn) - share) < spread


def test_the_model_starts_from_its_seed_and_leaves_torch_s_alone() -> None:
    tokenizer = build_tokenizer(TINY.window)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, again = build_model(TINY, tokenizer), build_model(TINY, tokenizer)
    other = build_model(dataclasses.replace(TINY, seed=1), tokenizer)
    assert torch.equal(torch.rand(3), expected)
    assert same(one.state_dict(), again.state_dict())
    assert not same(one.state_dict(), other.state_dict())


def test_a_step_moves_the_weights_down_the_loss() -> None:
    trainer = training.Trainer(dataclasses.replace(TINY, steps=20, batch=16, width=32))
    losses = [trainer.advance() for _ in range(20)]
    uniform = np.log(len(world.VOCABULARY))
    assert losses[0] == pytest.approx(uniform, abs=0.3)
    assert losses[-1] < losses[0] - 0.2


def test_padding_is_no_target_and_does_not_matter() -> None:
    """The loss of a batch is the mean over its real tokens, computed here story by story."""
    trainer = training.Trainer(TINY)
    total, count = 0.0, 0
    for story in stories(TINY, 1):
        ids = trainer.tokenizer(f"{story} <eos>", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            log_p = trainer.model(ids).logits[0, :-1].log_softmax(-1)
        total -= float(log_p[torch.arange(ids.shape[1] - 1), ids[0, 1:]].sum())
        count += ids.shape[1] - 1
    assert trainer.advance() == pytest.approx(total / count, rel=1e-5)


def test_a_resumed_run_equals_an_unbroken_one(whole: Path, tmp_path: Path) -> None:
    training.train(dataclasses.replace(TINY, steps=3), tmp_path)
    training.train(TINY, tmp_path, resume=True)
    assert same(weights(tmp_path / "model"), weights(whole / "model"))
    assert same(weights(whole / "step-00006"), weights(whole / "model"))
    assert not same(weights(whole / "step-00004"), weights(whole / "model"))


def test_the_run_folder_holds_what_it_says(whole: Path) -> None:
    folders = sorted(path.name for path in whole.iterdir())
    assert folders == ["model", "step-00002", "step-00004", "step-00006"]
    written = json.loads((whole / "model" / "card.json").read_text(encoding="utf-8"))
    assert [note["step"] for note in written["history"]] == [2, 4, 6]
    assert written["recipe"]["steps"] == 6
    assert written["demo"] is None or written["demo"]["hallucinated_probability"] >= 0.5
    readable = (whole / "model" / "CARD.md").read_text(encoding="utf-8")
    for name, digest in written["sha256"].items():
        assert card.sha256(whole / "model" / name) == digest
        assert digest in readable


def test_ctrl_c_finishes_the_step_and_can_be_resumed(whole: Path, tmp_path: Path) -> None:
    def interrupt(step: int, line: str) -> None:
        assert "min left" in line
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(training.StoppedError, match="Stopped after step 3"):
        training.train(TINY, tmp_path, report=interrupt)
    assert signal.getsignal(signal.SIGINT) == before
    assert not (tmp_path / "model").exists()
    training.train(TINY, tmp_path, resume=True)
    assert same(weights(tmp_path / "model"), weights(whole / "model"))


def test_a_run_is_not_overwritten_unasked(whole: Path) -> None:
    with pytest.raises(InputError, match=r"saved as step-00006\. Add --resume"):
        training.train(TINY, whole)


def test_another_recipe_does_not_resume(whole: Path) -> None:
    with pytest.raises(InputError, match="trained with seed 0, not 1"):
        training.train(dataclasses.replace(TINY, seed=1), whole, resume=True)


def test_a_truncated_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    training.train(dataclasses.replace(TINY, steps=2), tmp_path)
    file = tmp_path / "step-00002" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(InputError, match="step-00002 cannot be read"):
        training.train(TINY, tmp_path, resume=True)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def write(folder: Path) -> None:
        (folder / "a").write_text("1")

    training.write_folder(target, write)

    def fail(folder: Path) -> None:
        (folder / "a").write_text("2")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        training.write_folder(target, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (target / "a").read_text() == "1"


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main(["--out", str(tmp_path), "--steps", "9999", "--threads", "1"]) == 2
    assert "steps is 9999; expected 1 to 2400." in capsys.readouterr().err
    (tmp_path / "step-00080").mkdir()
    assert training.main(["--out", str(tmp_path), "--threads", "1"]) == 2
    assert "holds a run already" in capsys.readouterr().err
