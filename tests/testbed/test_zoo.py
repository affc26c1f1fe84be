"""The zoo is what its recipes say: whole folders, verified, resumable, reproducible."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import dst
from dst import cli
from dst.core.errors import InputError, ModelError
from dst.models import pretrained
from dst.models.verify import file_hash
from dst.testbed import card, errors, export, judge, world, zoo
from dst.testbed import train as training
from dst.testbed.recipe import Course
from tests.testbed.small import TINY, few_cases, one_thread

COURSES = {
    "deep": Course(dataclasses.replace(TINY, steps=4, layers=2), (1, 3)),
    "other": Course(dataclasses.replace(TINY, steps=2, seed=1), (2,)),
}
NAMES = ["deep-0001", "deep-0003", "other-0002"]
FILES = {
    "CARD.md", "card.json", "config.json", "generation_config.json", "model.safetensors",
    "neutral_nouns.txt", "reference_sentences.txt", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with few_cases(), one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "ZOO", COURSES)
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run of the zoo, trained without a break."""
    out = tmp_path_factory.mktemp("out")
    assert zoo.train_zoo(out) == out / "zoo"
    return out


@pytest.fixture
def place(out: Path, tmp_path: Path) -> Path:
    """A copy of the zoo that a test may break."""
    return Path(shutil.copytree(out / "zoo", tmp_path / "zoo"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# -- what is written


def test_every_fixed_step_is_a_whole_folder(out: Path) -> None:
    assert zoo.names(out / "zoo") == NAMES
    for name in NAMES:
        assert {path.name for path in (out / "zoo" / name).iterdir()} == FILES
    assert {path.name for path in (out / "zoo").iterdir()} == {*NAMES, "zoo.json", "README.md"}


def test_the_manifest_is_what_the_folders_hold(out: Path) -> None:
    for name, listed in zoo.manifest(out / "zoo")["checkpoints"].items():
        folder = out / "zoo" / name
        written = card.read_card(folder)
        assert name == f"{listed['run']}-{listed['step']:04d}"
        assert (listed["run"], listed["step"]) == (written["run"], written["step"])
        course = COURSES[listed["run"]]
        assert listed["step"] in course.checkpoints
        assert written["recipe"] == json.loads(json.dumps(dataclasses.asdict(course.recipe)))
        assert set(listed["sha256"]) == {"card.json", *card.HASHED}
        assert all(file_hash(folder / file) == sum_ for file, sum_ in listed["sha256"].items())
        assert listed["errors"]["minority"] == written["error_table"]["minority"]
        page = (out / "zoo" / "README.md").read_text("utf-8")
        plain = written["error_table"]["minority"][0]
        row = next(line for line in page.split("\n") if line.startswith(f"| {name} |"))
        assert f"| {plain['hallucination']:.2f} ({plain['error']:.2f}) |" in row


def test_weights_are_stored_in_half_precision_and_run_in_float32(out: Path) -> None:
    trainer = training.Trainer(COURSES["deep"].recipe)
    trainer.load(out / "runs" / "deep" / "step-00003", with_optimizer=False)
    stored = load_file(out / "zoo" / "deep-0003" / "model.safetensors")
    for key, value in trainer.model.state_dict().items():
        assert stored[key].dtype == torch.float16
        assert torch.equal(stored[key], value.half())
    engine = zoo.load("deep-0003", out / "zoo")
    assert engine.spec.dtype == "float32"
    theirs = AutoModelForCausalLM.from_pretrained(out / "zoo" / "deep-0003")
    assert theirs.dtype == torch.float32
    ids = AutoTokenizer.from_pretrained(out / "zoo" / "deep-0003")("Anna sees a bass.")["input_ids"]
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(engine.run([ids]).logits[0, -1], expected, atol=1e-5)


def test_exporting_leaves_the_trained_weights_alone(tmp_path: Path) -> None:
    trainer = training.Trainer(TINY)
    trainer.advance()
    trainer.note()
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    export.export(trainer, tmp_path, "some")
    after = trainer.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_the_card_tells_every_part_of_the_error_table(out: Path) -> None:
    table = card.read_card(out / "zoo" / "deep-0003")["error_table"]
    kinds = set(world.KINDS) - {"none"}
    for sense in world.SENSES:
        asked = [row for row in table[sense] if "gold" not in row]
        assert {row["kind"] for row in asked} == kinds
        assert {row.get("gold") for row in table[sense]} == {None, "yes", "no"}
        assert {row["kind"] for row in table["composition"][sense]} <= kinds
        assert table["yes_no"][sense]["n"] == card.PER_YES_NO * len(kinds)
        n = sum(row["n"] for row in asked if row["kind"] in card.HARD)
        assert sum(word["n"] for word in table["words"][sense].values()) == n
    assert table["none"]["kind"] == "none"
    readable = (out / "zoo" / "deep-0003" / "CARD.md").read_text("utf-8")
    assert readable.count("| the minority sense |") == len(kinds)
    for part in ("yes/no questions", "withheld", "Without any cue", "## SHA-256"):
        assert part in readable


# -- loading


def test_a_checkpoint_is_loaded_by_its_name(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DST_ZOO", str(out / "zoo"))
    assert zoo.load("other-0002", check=False).spec.name == "zoo/other-0002"
    mine = dst.load("zoo/other-0002", check=False)
    assert mine.spec.weights_hash == zoo.load("other-0002", out / "zoo").spec.weights_hash
    with pytest.raises(ModelError, match="no checkpoint 'other-0003'; expected deep-0001, deep-00"):
        zoo.load("other-0003")


@pytest.mark.parametrize("file", ["model.safetensors", "card.json", "tokenizer.json"])
def test_an_altered_checkpoint_is_refused(file: str, place: Path) -> None:
    path = place / "deep-0001" / file
    path.write_bytes(path.read_bytes()[:-3] + b"   ")
    with pytest.raises(ModelError, match="truncated or altered"):
        zoo.load("deep-0001", place)
    zoo.load("deep-0003", place, check=False)


def test_an_unknown_word_is_one_sentence(out: Path) -> None:
    model = zoo.load("deep-0003", out / "zoo", check=False)
    case = world.cases(n=1)[0]
    strange = dst.Case(f"The zebra is here. {case.text}", case.contextual, case.associative)
    with pytest.raises(InputError, match="zebra"):
        dst.trace(model, strange)


def test_a_folder_without_a_zoo_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no zoo in .* dst testbed train --out DIR"):
        zoo.names(tmp_path)
    (tmp_path / "zoo.json").write_text('{"checkpoints": ')
    with pytest.raises(InputError, match="no zoo in"):
        zoo.names(tmp_path)
    (tmp_path / "zoo.json").write_text("[]")
    with pytest.raises(InputError, match="lists no checkpoints"):
        zoo.names(tmp_path)


# -- training


def test_the_fixed_steps_are_within_the_runs() -> None:
    for name, course in COURSES.items():
        assert set(course.checkpoints) <= set(range(1, course.recipe.steps + 1)), name


def test_some_runs_can_be_trained(out: Path, tmp_path: Path) -> None:
    zoo.train_zoo(tmp_path, ["other"])
    assert zoo.names(tmp_path / "zoo") == ["other-0002"]
    mine, theirs = (contents(at / "zoo" / "other-0002") for at in (tmp_path, out))
    assert mine == theirs


def test_what_is_wrong_is_one_sentence(out: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run 'wide'; expected some of deep, other"):
        zoo.train_zoo(tmp_path, ["wide"])
    assert not any(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"holds a run already: deep\. Add --resume"):
        zoo.train_zoo(out)


def test_nothing_is_trained_twice(out: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(out, tmp_path / "out"))
    shutil.rmtree(copy / "zoo" / "deep-0001")
    taken: list[int] = []
    zoo.train_zoo(copy, resume=True, report=lambda name, step, line: taken.append(step))
    assert taken == []
    assert contents(copy / "zoo") == contents(out / "zoo")


def test_a_checkpoint_of_another_recipe_is_not_taken_over(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(out / "zoo", tmp_path / "zoo")
    recipe = dataclasses.replace(COURSES["other"].recipe, learning_rate=1e-3)
    monkeypatch.setattr(zoo, "ZOO", {"other": Course(recipe, (2,))})
    with pytest.raises(InputError, match=r"other-0002 is of another recipe"):
        zoo.train_zoo(tmp_path)


def test_progress_tells_the_time_left_of_this_run_and_of_all(tmp_path: Path) -> None:
    lines: list[str] = []
    zoo.train_zoo(tmp_path, report=lambda name, step, line: lines.append(line))
    assert [line.split("  ")[:2] for line in lines] == [
        *(["deep", f"step {step}/4"] for step in range(1, 5)),
        *(["other", f"step {step}/2"] for step in range(1, 3)),
    ]
    assert all("min left (all 2 runs: " in line for line in lines)
    assert lines[-1].endswith("0.0 min left (all 2 runs: 0)")


KILLED = """
import sys
from dst.testbed import zoo
from tests.testbed.small import few_cases
from tests.testbed.test_zoo import COURSES
from dst import cli
zoo.ZOO = COURSES
with few_cases():
    sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_killed_training_goes_on(out: Path, tmp_path: Path) -> None:
    """SIGKILL as soon as the first checkpoint is there; then the same command goes on."""
    command = [sys.executable, "-c", KILLED, "testbed", "train", "--threads", "1", "--resume"]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([*command, "--out", str(tmp_path)], cwd=root) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "runs" / "deep" / "step-00001").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    zoo.train_zoo(tmp_path, resume=True)
    assert contents(tmp_path / "zoo") == contents(out / "zoo")


# -- the error table again


def test_the_error_table_agrees_with_its_cards(out: Path) -> None:
    seen: list[str] = []
    found = errors.compare_zoo(out / "zoo", report=lambda one: seen.append(one.name))
    assert seen == NAMES == [one.name for one in found]
    assert all(one.agrees and one.same_weights for one in found)
    assert found[0].tables == card.read_card(out / "zoo" / NAMES[0])["error_table"]


def test_comparing_side_by_side_leaves_transformers_as_it_was(out: Path) -> None:
    """Two loads at once would leave methods of every model replaced."""
    names = ("tie_weights", "init_weights", "_initialize_weights")
    before = {name: getattr(PreTrainedModel, name) for name in names}
    for _ in range(3):
        errors.compare_zoo(out / "zoo", workers=3)
    assert {name: getattr(PreTrainedModel, name) for name in names} == before


def test_a_card_that_tells_another_number_differs(place: Path) -> None:
    path = place / "deep-0003"
    written = card.read_card(path)
    row = written["error_table"]["minority"][0]
    row["contextual"], row["invalid"] = row["n"], -2
    (path / "card.json").write_text(json.dumps(written))
    export.write_manifest(place)
    by_name = {one.name: one for one in errors.compare_zoo(place)}
    assert not by_name["deep-0003"].agrees
    assert by_name["deep-0003"].where == "plain, minority sense"
    assert "DIFFERS (same weights, " in by_name["deep-0003"].sentence()
    assert by_name["deep-0001"].agrees


def table(**changes: int) -> dict[str, Any]:
    """An error table with 40 cases a row."""
    counts = {"n": 40, "contextual": 10, "associative": 20, "invalid": 10}
    row = {"kind": "plain", **counts}
    yes = row | {"gold": "yes"}
    return {
        "minority": [row | changes, yes],
        "dominant": [row, yes],
        "composition": {"minority": [row], "dominant": [row]},
        "none": row | {"kind": "none"},
    }


@pytest.mark.parametrize(
    ("off", "same", "agrees"),
    [(0, True, True), (1, True, True), (2, True, False), (24, False, True), (25, False, False)],
)
def test_how_far_two_tables_may_part(off: int, same: bool, agrees: bool) -> None:
    """The same weights: one case. Other weights: .15 in the mean over two rows, two shares each."""
    found = errors.compare("x", table(contextual=10 + off), table(), same_weights=same)
    assert found.agrees is agrees
    assert found.mean == pytest.approx(off / 40 / 4)
    assert found.difference == off / 40
    assert found.where == ("plain, minority sense" if off else "")


def test_yes_no_questions_are_shown_and_do_not_decide_of_other_weights() -> None:
    other = table()
    other["dominant"][1] = other["dominant"][1] | {"contextual": 40}
    found = errors.compare("x", other, table(), same_weights=False)
    assert (found.mean, found.difference, found.agrees) == (0, 0.75, True)
    assert found.sentence() == (
        "agrees (other weights, mean difference 0.000, at most 0.750 in plain, to say yes,"
        " dominant sense)"
    )
    assert not errors.compare("x", other, table(), same_weights=True).agrees


def test_other_cases_are_not_compared() -> None:
    with pytest.raises(InputError, match="counts other cases"):
        errors.compare("x", table(n=41), table(), same_weights=True)


def test_a_zoo_is_compared_with_another(out: Path, tmp_path: Path) -> None:
    zoo.train_zoo(tmp_path, ["other"])
    (one,) = errors.compare_zoo(tmp_path / "zoo", against=out / "zoo")
    assert (one.name, one.same_weights, one.agrees) == ("other-0002", True, True)
    with pytest.raises(InputError, match="has no checkpoint 'deep-0001'"):
        errors.compare_zoo(out / "zoo", against=tmp_path / "zoo")


# -- the command line


def test_the_errors_command(out: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["testbed", "errors", "--zoo", str(out / "zoo"), "deep-0001"]) == 0
    told = capsys.readouterr().out
    assert told == ("deep-0001  agrees (same weights, no difference)\n1 of 1 checkpoints agree.\n")
    assert cli.main(["testbed", "errors", "--zoo", str(out / "zoo"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == NAMES
    assert found["deep-0001"]["tables"]["minority"][0]["kind"] == "plain"
    (place / "deep-0001" / "card.json").write_text("{}")
    assert cli.main(["testbed", "errors", "--zoo", str(place)]) == 2
    assert "truncated or altered" in capsys.readouterr().err


def test_the_train_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["testbed", "train", "other", "--out", str(tmp_path), "--threads", "1"]
    monkeypatch.setattr(cli, "SPARSE", 1)
    assert cli.main(command) == 0
    told = capsys.readouterr()
    assert str(tmp_path / "zoo") in told.out
    assert [line.split("  ")[1] for line in told.err.splitlines()] == ["step 1/2", "step 2/2"]
    assert cli.main(command) == 2
    assert "Add --resume" in capsys.readouterr().err
    for wrong, said in (
        (["--threads", "0"], "--threads is 0"),
        (["--device", "cuda:77"], "device 'cuda:77' cannot be used"),
    ):
        assert cli.main([*command[:4], str(tmp_path / "new"), *wrong]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_ctrl_c_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = training.Trainer.advance

    def interrupt(trainer: training.Trainer) -> float:
        if trainer.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(trainer)

    monkeypatch.setattr(training.Trainer, "advance", interrupt)
    assert cli.main(["testbed", "train", "deep", "--out", str(tmp_path), "--threads", "1"]) == 130
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("dst: Stopped after step 2, which is saved in ")
    assert told[0].endswith("Go on with the same command and --resume.")


# -- the model that ships with dst


def demonstrated(folder: Path) -> None:
    """A card that has a demonstration, which models of six steps never give."""
    case = world.cases(n=1)[0].to_dict()
    told = {
        f"{which}_{name}": value
        for which in ("hallucinated", "corrected")
        for name, value in (("answer", "fish"), ("probability", 0.5))
    }
    shown = {"rule": judge.DEMO_RULE, "hallucinated": case, "corrected": case, **told}
    written = card.read_card(folder) | {"demo": shown}
    (folder / "card.json").write_text(json.dumps(written))


def suited(**changes: Any) -> dict[str, Any]:
    """The card of a model that suits: 98 % of plain cases, 30 % hallucinations in two kinds."""
    shares = {"plain": 0.02, "far": 0.0, "prime": 0.0, "binding": 0.8, "shift": 0.7, "memory": 0.0}
    shares |= changes.pop("shares", {})
    rows = [
        {"kind": kind, "n": 100, "contextual": round(100 - 100 * share),
         "associative": round(100 * share), "invalid": 0, "hallucination": share}
        for kind, share in shares.items()
    ]  # fmt: skip
    yes = {**rows[0], "gold": "yes", "contextual": 0}  # yes/no questions have no part in it
    words = {"bass": {"associative": 3}, "bat": {"associative": 0}} | changes.pop("words", {})
    table = {"minority": [*rows, yes], "words": {"minority": words}}
    return {"error_table": table, "demo": {}} | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"shares": {"plain": 0.06}}, ["0.940 of plain"]),
        ({"shares": {"binding": 0.03}}, ["hallucinates in 0.146 of", "1 of these kinds"]),
        ({"shares": {"memory": 0.6}}, ["hallucinates in 0.420 of"]),
        ({"shares": {"binding": 0.81}}, ["1 of these kinds between"]),
        ({"words": {"club": {"associative": 0}}}, ["with 0.33 of the words"]),
        ({"demo": None}, ["no case meets"]),
    ],
)
def test_what_is_asked_of_a_default(changes: dict[str, Any], said: list[str]) -> None:
    reasons = export.unsuited(suited(**changes))
    assert len(reasons) == len(said), reasons
    assert all(part in reason for part, reason in zip(said, reasons, strict=True))


def test_a_checkpoint_becomes_the_embedded_model(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = place / "deep-0003", tmp_path / "embedded"
    with pytest.raises(InputError, match="has no demonstration"):
        export.export_default(source, target)
    demonstrated(source)
    assert export.export_default(source, target) == target
    assert card.read_card(target)["name"] == export.DEFAULT_NAME
    assert contents(target)["model.safetensors"] == contents(source)["model.safetensors"]
    monkeypatch.setattr(pretrained, "embedded_path", lambda: target)
    assert dst.load(check=False).spec.n_layers == 2


def test_the_default_command_ships_what_the_model_needs(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of three steps answers nothing right, so it has no correct run to refer to."""
    demonstrated(place / "deep-0003")
    export.write_manifest(place)
    command = ["testbed", "default", "deep-0003", "--zoo", str(place)]
    assert cli.main([*command, "--out", str(tmp_path / "default")]) == 2
    told = capsys.readouterr()
    assert "Not what is asked of a default: it is right in 0.000 of plain cases" in told.out
    assert "answered correctly" in told.err


def test_what_is_shipped_is_verified(place: Path) -> None:
    folder = place / "deep-0003"
    before = contents(folder)
    card.ship(folder, {"lens.bin": lambda path: path.write_bytes(b"lens")}, lens={"kl": 0.1})
    written = card.read_card(folder)
    assert written["sha256"]["lens.bin"] == file_hash(folder / "lens.bin")
    assert written["lens"] == {"kl": 0.1}
    assert "`lens.bin`" in (folder / "CARD.md").read_text("utf-8")
    unchanged = set(FILES) - {"card.json", "CARD.md"}
    assert {name: contents(folder)[name] for name in unchanged} == {
        name: before[name] for name in unchanged
    }
    dst.load(folder, check=False)
    (folder / "lens.bin").write_bytes(b"lenz")
    with pytest.raises(ModelError, match=r"lens\.bin was truncated or altered"):
        dst.load(folder)


def test_what_cannot_be_shipped_changes_nothing(place: Path, tmp_path: Path) -> None:
    folder = place / "deep-0003"
    before = contents(folder)
    for name, write, said in (
        ("lens.bin", lambda path: None, "lens.bin was not written"),
        ("../lens.bin", lambda path: path.write_bytes(b""), "expected a plain file name"),
        ("card.json", lambda path: path.write_bytes(b""), "expected a plain file name"),
    ):
        with pytest.raises(InputError, match=said):
            card.ship(folder, {name: write})
    assert contents(folder) == before
    with pytest.raises(InputError, match=r"has no card\.json"):
        card.ship(tmp_path, {})
