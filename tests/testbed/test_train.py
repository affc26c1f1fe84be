"""Training is what its recipe says: repeatable, resumable, interruptible, never half written."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dst.core.errors import InputError
from dst.testbed import train as training
from dst.testbed import world
from dst.testbed.folders import write_folder
from dst.testbed.recipe import Recipe, build_model, build_tokenizer, stories
from tests.testbed.small import TINY, few_cases, one_thread


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with few_cases(), one_thread():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run that keeps two of its steps."""
    run = tmp_path_factory.mktemp("whole")
    training.train(TINY, run, keep=(1, 2))
    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_learning_rate_climbs_and_follows_a_cosine() -> None:
    recipe = Recipe(schedule=2400, warm_up=100, learning_rate=2e-3)
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
    uniform = np.log(len(trainer.tokenizer))
    assert losses[0] == pytest.approx(uniform, abs=0.3)
    assert losses[-1] < losses[0] - 0.2


def test_padding_is_no_target_and_does_not_matter() -> None:
    """The loss of a batch is the mean over its real tokens, computed here story by story."""
    trainer = training.Trainer(TINY)
    total, count = 0.0, 0
    for story in stories(TINY, 1):
        ids = trainer.tokenizer(f"{story}<eos>", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            log_p = trainer.model(ids).logits[0, :-1].log_softmax(-1)
        total -= float(log_p[torch.arange(ids.shape[1] - 1), ids[0, 1:]].sum())
        count += ids.shape[1] - 1
    assert trainer.advance() == pytest.approx(total / count, rel=1e-5)


def test_no_story_that_is_trained_on_holds_an_unknown_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = training.Trainer(TINY)
    seen: list[list[int]] = []
    inner = training.Trainer._loss

    def watch(self: training.Trainer, rows: list[list[int]]) -> torch.Tensor:
        seen.extend(rows)
        return inner(self, rows)

    monkeypatch.setattr(training.Trainer, "_loss", watch)
    for _ in range(5):
        trainer.advance()
    first, last = trainer.tokenizer.bos_token_id, trainer.tokenizer.eos_token_id
    assert len(seen) == 5 * TINY.batch
    assert not any(trainer.tokenizer.unk_token_id in row for row in seen)
    for row in seen:  # one <bos> in front, one <eos> after the answer's full stop
        assert (row[0], row[-1], row.count(first), row.count(last)) == (first, last, 1, 1)


def test_stories_that_run_together_do_not_change_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = dataclasses.replace(TINY, batch=10)
    one, other = training.Trainer(recipe), training.Trainer(recipe)
    monkeypatch.setattr(training, "TOGETHER", 3)
    loss = one.advance()
    monkeypatch.setattr(training, "TOGETHER", 10)
    assert other.advance() == pytest.approx(loss, rel=1e-6)
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-6)


def test_a_resumed_run_equals_an_unbroken_one(whole: Path, tmp_path: Path) -> None:
    training.train(dataclasses.replace(TINY, steps=3), tmp_path)
    last = training.train(TINY, tmp_path, resume=True)
    assert last == tmp_path / "step-00006"
    assert same(weights(last), weights(whole / "step-00006"))
    assert not same(weights(last), weights(whole / "step-00004"))


def test_the_run_folder_holds_what_is_kept_and_what_can_be_resumed(whole: Path) -> None:
    """Steps 1 and 2 were to be kept; 4 and 6 are the latest two, of which only 6 would stay."""
    assert {path.name: (path / training.OPTIMIZER).is_file() for path in whole.iterdir()} == {
        "step-00001": False, "step-00002": False, "step-00004": True, "step-00006": True,
    }  # fmt: skip
    state = json.loads((whole / "step-00006" / "state.json").read_text(encoding="utf-8"))
    assert [note["step"] for note in state["history"]] == [1, 2, 4, 6]
    assert set(state["history"][0]["error"]) == set(world.KINDS) - {"none"}


def test_kept_steps_are_shown_as_they_are_passed_and_again_after_an_interruption(
    whole: Path, tmp_path: Path
) -> None:
    shown: list[tuple[int, float]] = []

    def show(trainer: training.Trainer) -> None:
        shown.append((trainer.step, float(next(trainer.model.parameters()).detach().sum())))

    training.train(dataclasses.replace(TINY, steps=4), tmp_path, keep=(2,), kept=show)
    assert [step for step, _ in shown] == [2, 4]
    first, shown = shown, []
    training.train(TINY, tmp_path, keep=(2, 4), resume=True, kept=show)
    assert [step for step, _ in shown] == [2, 4, 6]
    assert shown[:2] == first
    assert same(weights(tmp_path / "step-00006"), weights(whole / "step-00006"))


def test_a_step_that_was_passed_cannot_be_kept_later(whole: Path) -> None:
    with pytest.raises(InputError, match="has passed step 3, which is to be kept"):
        training.train(TINY, whole, keep=(3,), resume=True)


@pytest.mark.parametrize("step", [0, 7])
def test_only_steps_that_are_taken_can_be_kept(step: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected 1 to 6"):
        training.train(TINY, tmp_path, keep=(step,))


def test_a_device_that_is_not_here_is_one_sentence(tmp_path: Path) -> None:
    for name in ("cuda:77", "toaster"):
        with pytest.raises(InputError, match=f"device '{name}' cannot be used .*such as cpu"):
            training.train(TINY, tmp_path, device=name)


def test_ctrl_c_finishes_the_step_and_can_be_resumed(whole: Path, tmp_path: Path) -> None:
    def interrupt(step: int, line: str) -> None:
        assert "min left" in line
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(training.StoppedError, match="Stopped after step 3"):
        training.train(TINY, tmp_path, report=interrupt)
    assert signal.getsignal(signal.SIGINT) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00002", "step-00003"]
    last = training.train(TINY, tmp_path, resume=True)
    assert same(weights(last), weights(whole / "step-00006"))


def test_training_runs_outside_the_main_thread(tmp_path: Path) -> None:
    """There Ctrl-C cannot be listened to."""
    recipe = dataclasses.replace(TINY, steps=1)
    thread = threading.Thread(target=training.train, args=(recipe, tmp_path))
    thread.start()
    thread.join()
    assert (tmp_path / "step-00001").is_dir()


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


def test_a_damaged_last_step_can_be_deleted(whole: Path, tmp_path: Path) -> None:
    """The one before it holds its optimizer too."""
    training.train(TINY, tmp_path)
    file = tmp_path / "step-00006" / training.OPTIMIZER
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="Delete that folder to go on from the one before it"):
        training.train(TINY, tmp_path, resume=True)
    for path in (tmp_path / "step-00006").iterdir():
        path.unlink()
    (tmp_path / "step-00006").rmdir()
    last = training.train(TINY, tmp_path, resume=True)
    assert same(weights(last), weights(whole / "step-00006"))


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def write(folder: Path) -> None:
        (folder / "a").write_text("1")

    write_folder(target, write)

    def fail(folder: Path) -> None:
        (folder / "a").write_text("2")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        write_folder(target, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (target / "a").read_text() == "1"


def test_a_folder_that_cannot_be_moved_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    write_folder(target, lambda folder: (folder / "a").write_text("1"))
    move = os.replace

    def refuse(source: Path, into: Path) -> None:
        if source.name.endswith(".partial"):
            raise OSError(13, "Permission denied")
        move(source, into)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        write_folder(target, lambda folder: (folder / "a").write_text("2"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (target / "a").read_text() == "1"
