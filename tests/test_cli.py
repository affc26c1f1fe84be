"""The command line: what it says, what it refuses, and that refusing leaves nothing behind.

Commands run in this process by `main([...])`, and as processes of their own where it matters:
bad input that needs no model, pipes, signals, terminals. Models are small, random, and saved
to a folder; two of them have planted outputs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import dst
from dst import cli
from dst.core.case import Case
from tests import tiny
from tests.studies.planted import PROMPT, planted_model

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


def as_process(*arguments: str, cwd: Path, code: str = "", **environment: str) -> Done:
    """``dst`` as a process of its own, in ``cwd``."""
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "dst.cli"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8"}
        | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """``dst`` in this process, in an empty folder; what is written at file level counts too."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        capfd.readouterr()
        code = cli.main(arguments)
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return run


def only_object(text: str) -> dict[str, Any]:
    """The one JSON object that ``text`` is, on one line; NaN and Infinity are no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert text.count("\n") == 1
    value = json.loads(text, parse_constant=refuse)
    assert isinstance(value, dict)
    return value


# -- models --------------------------------------------------------------------------------------


def _saved(folder: Path, model: Any, tokenizer: Any) -> Path:
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders by name: sound ones, and each way in which one can be broken."""
    shelf = tmp_path_factory.mktemp("models")
    _saved(shelf / "wrong", *planted_model({"guitar": [6.0] * 4, "fish": [5.0, 5.0, 3.0, 4.0]}))
    _saved(shelf / "right", *planted_model({"fish": 6.0, "guitar": 4.0}))
    _saved(shelf / "mute", *planted_model({"the": 9.0}))
    bpe = tiny.byte_bpe()
    _saved(shelf / "gpt2", tiny.model("gpt2", len(bpe) + 3), bpe)
    _saved(shelf / "chat", tiny.model("llama", len(bpe) + 3), bpe)
    (shelf / "gpt2" / "chat_template.jinja").unlink()

    def broken(name: str, *, without: Sequence[str] = (), of: str = "wrong") -> Path:
        folder = shelf / name
        shutil.copytree(shelf / of, folder)
        for file in without:
            (folder / file).unlink()
        return folder

    weights = "model.safetensors"
    broken("no-config", without=["config.json"])
    (broken("bad-config") / "config.json").write_text("{ no JSON")
    broken("no-weights", without=[weights])
    broken("no-tokenizer", without=["tokenizer.json", "tokenizer_config.json"])
    (broken("bad-tokenizer") / "tokenizer.json").write_text('{"version": "1.0"')
    cut = broken("cut-weights") / weights
    cut.write_bytes(cut.read_bytes()[:-5000])
    tensors = load_file(shelf / "wrong" / weights)
    names = ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"]
    lacking = {name: tensor for name, tensor in tensors.items() if name not in names}
    save_file(lacking, broken("lacking") / weights, metadata={"format": "pt"})
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, broken("nan") / weights, metadata={"format": "pt"})
    pickled = broken("pickled", without=[weights]) / "pytorch_model.bin"
    torch.save(load_file(shelf / "wrong" / weights), pickled)  # noqa: TID251 - what is refused
    _saved(shelf / "other-vocabulary", tiny.model("gpt2", 300), bpe)
    t5 = transformers.T5Config(d_model=16, d_ff=16, num_layers=1, num_heads=2, vocab_size=500)
    _saved(shelf / "t5", transformers.T5ForConditionalGeneration(t5), bpe)
    bert = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**bert, intermediate_size=16, vocab_size=500)
    _saved(shelf / "bert", transformers.BertForMaskedLM(config), bpe)
    return shelf


# -- bad input -------------------------------------------------------------------------------------

LONG = " ".join(["the"] * 200)
TWO_SIDES = ("--contextual", "fish", "--associative", "guitar")

# name: (arguments, what the sentence holds); these are refused before any model is loaded.
EARLY: dict[str, tuple[tuple[str, ...], str]] = {
    "no command": ((), "arguments are required: COMMAND. See dst --help"),
    "unknown command": (("tarce", PROMPT), "invalid choice: 'tarce'"),
    "unknown option": (("trace", PROMPT, *TWO_SIDES, "--cues", "x"), "--cues x. See dst"),
    "no prompt": (("trace", *TWO_SIDES), "required: PROMPT. See dst trace --help"),
    "no contextual answer": (("trace", PROMPT), "--contextual. See dst trace --help"),
    "empty prompt": (("trace", "", *TWO_SIDES), "The prompt is empty"),
    "blank prompt": (("trace", " \n ", *TWO_SIDES), "The prompt is empty"),
    "empty answer": (("trace", PROMPT, "--contextual", " "), "field contextual is wrong"),
    "subject not there": (
        ("trace", PROMPT, *TWO_SIDES, "--subject", "bat"),
        "field subject is wrong: found 'bat', which is not in the prompt",
    ),
    "subject inside a word": (
        ("trace", PROMPT, *TWO_SIDES, "--subject", "bas"),
        "field subject is wrong: found 'bas'",
    ),
    "cue not there": (
        ("trace", PROMPT, *TWO_SIDES, "--cue", "the lake", "--cue", "the sea"),
        "field cue is wrong: found 'the sea', which is not in the prompt",
    ),
    "equal answers": (
        ("trace", PROMPT, "--contextual", "fish", "--associative", " Fish"),
        "'fish', which is also a contextual answer",
    ),
    "overlapping word lists": (
        ("trace", PROMPT, *TWO_SIDES, "--context-words", "song,drum", "--competing-words", "Drum"),
        "'drum', which is also a context word",
    ),
    "an answer among the words": (
        ("trace", PROMPT, *TWO_SIDES, "--context-words", "guitar"),
        "'guitar', which is an answer",
    ),
    "system without chat": (
        ("trace", PROMPT, *TWO_SIDES, "--system", "Be brief."),
        "a system message without chat",
    ),
    "response without at": (
        ("trace", PROMPT, "--contextual", "fish", "--response", "It is a drum ."),
        "--response and --at belong together",
    ),
    "at without response": (
        ("trace", PROMPT, "--contextual", "fish", "--at", "drum"),
        "--response and --at belong together",
    ),
    "at not in the reply": (
        ("trace", PROMPT, "--contextual", "fish", "--response", "It is a drum .", "--at", "dru"),
        "The reply has no word 'dru'",
    ),
    "at twice in the reply": (
        ("trace", PROMPT, "--contextual", "fish", "--response", "a drum , a drum", "--at", "drum"),
        "The reply has 'drum' 2 times. Say which: --at 'drum#1' to 'drum#2'",
    ),
    "at a third time": (
        ("trace", PROMPT, "--contextual", "fish", "--response", "a drum, a drum", "--at", "drum#3"),
        "The reply has 'drum' 2 time(s), not 3",
    ),
    "prefix and response": (
        ("trace", PROMPT, "--contextual", "fish", "--prefix", "It is", "--response", "a drum",
         "--at", "drum"),
        "--prefix and --response were both given",
    ),
    "bytes that are no text": (
        ("trace", "a \udcff", *TWO_SIDES), "The argument prompt is no text; expected UTF-8"
    ),
}  # fmt: skip

# name: (model folder or id, further arguments, what the sentence holds)
LATE: dict[str, tuple[str, tuple[str, ...], str]] = {
    "unknown id": ("nobody/nothing", (), "neither a folder here nor a model that could be"),
    "unknown folder": ("./nowhere", (), "The model folder ./nowhere does not exist"),
    "a file": ("wrong/config.json", (), "config.json is a file"),
    "no config": ("no-config", (), "has no config.json"),
    "broken config": ("bad-config", (), "config.json cannot be read"),
    "no weights": ("no-weights", (), "holds no weights"),
    "weights cut off": ("cut-weights", (), "cannot be loaded"),
    "weights lacking": ("lacking", (), "lack 2 tensor(s), first 'lm_head.weight'"),
    "pickled weights": (
        "pickled",
        (),
        r"pickles (pytorch_model.bin), which can run code when they are opened; expected "
        r"*.safetensors. Convert them",
    ),
    "no tokenizer": ("no-tokenizer", (), "The tokenizer of"),
    "broken tokenizer": ("bad-tokenizer", (), "is missing or broken"),
    "another model's tokenizer": ("other-vocabulary", (), "The tokenizer has 381 tokens and the"),
    "encoder and decoder": ("t5", (), "is an encoder-decoder model"),
    "encoder": ("bert", (), "BertLayer looks ahead: its attention is not causal"),
    "NaN in activations": ("nan", (), "NaN or infinite logits; expected finite"),
    "longer than the window": ("wrong", ("--prefix", f" {LONG}"), "expected at most 128"),
    "unknown words": (
        "wrong",
        ("--prefix", " zebra and guitarist"),
        "does not know 'zebra' (near it: ",
    ),
    "unknown answer": ("wrong", ("--associative", "zebra"), "know the answer 'zebra'"),
    "unknown concept word": (
        "wrong",
        ("--context-words", "lake,zebra", "--competing-words", "song,drum"),
        "does not know 'zebra' (near it: ",
    ),
    "an answer within the other": (
        "wrong",
        ("--contextual", "an animal", "--associative", "an"),
        "are the same tokens, or one begins with the other",
    ),
    "chat without a template": ("gpt2", ("--chat",), "tokenizer has no chat template"),
    "no answer of its own": ("mute", (), "The model has no answer here"),
    "unknown backend": ("wrong", ("--backend", "magic"), "The backend 'magic' does not exist"),
    "unknown device": ("wrong", ("--device", "abacus"), "The device 'abacus' cannot be used"),
    "unknown dtype": ("wrong", ("--dtype", "int8"), "The dtype 'int8' cannot be used"),
}


def refused(done: Done, sentence: str) -> None:
    assert done.code == 2, done
    assert done.out == ""
    assert "Traceback" not in done.err
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("dst: ")
    assert lines[0].endswith(".")
    assert sentence in lines[0]


@pytest.mark.parametrize("name", EARLY)
def test_bad_input_is_one_sentence(name: str, here: Callable[..., Done], tmp_path: Path) -> None:
    arguments, sentence = EARLY[name]
    out = ("--out", "made/for/it") if arguments[:1] == ("trace",) else ()
    refused(here(*arguments, *out), sentence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", EARLY)
def test_bad_input_is_one_sentence_of_a_process_that_loads_no_torch(
    name: str, tmp_path: Path
) -> None:
    arguments, sentence = EARLY[name]
    out = ("--out", "made/for/it") if arguments[:1] == ("trace",) else ()
    given = [os.fsdecode(os.fsencode(argument)) for argument in (*arguments, *out)]
    code = (
        "import sys; from dst.cli import main; code = main(); "
        "assert not {'torch', 'transformers', 'scipy', 'plotly'} & {*sys.modules}; sys.exit(code)"
    )
    refused(as_process(*given, cwd=tmp_path, code=code), sentence)
    assert list(tmp_path.iterdir()) == []


def late(name: str, shelf: Path) -> tuple[tuple[str, ...], str]:
    model, more, sentence = LATE[name]
    folder = shelf / model
    answers = () if "--contextual" in more else ("--contextual", "fish")
    where = model if model.startswith((".", "nobody")) else str(folder)
    return ("trace", PROMPT, "--model", where, *answers, *more, "--out", "made/for/it"), sentence


@pytest.mark.parametrize("name", LATE)
def test_bad_input_to_a_model_is_one_sentence(
    name: str, shelf: Path, here: Callable[..., Done], tmp_path: Path
) -> None:
    arguments, sentence = late(name, shelf)
    refused(here(*arguments), sentence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("unknown id", "pickled weights", "NaN in activations")
        else pytest.param(name, marks=pytest.mark.full)
        for name in LATE
    ],
)
def test_bad_input_to_a_model_is_one_sentence_of_a_process(
    name: str, shelf: Path, tmp_path: Path
) -> None:
    arguments, sentence = late(name, shelf)
    refused(as_process(*arguments, cwd=tmp_path), sentence)
    assert list(tmp_path.iterdir()) == []


def test_the_three_nearest_words_are_words_of_the_model(
    shelf: Path, here: Callable[..., Done]
) -> None:
    words = tiny.word_level().get_vocab()
    for given in (("--prefix", " guitarist"), ("--associative", "guitarist")):
        done = here(
            "trace", PROMPT, "--contextual", "fish", "--model", str(shelf / "wrong"), *given
        )
        near = re.search(r"'guitarist'.* \(near it: (.*?)\)", done.err)
        assert near is not None
        named = near[1].split(", ")
        assert len(named) == 3
        assert named[0] == "guitar"
        assert {*named} <= {*words}


def test_pickled_weights_open_when_that_is_said(shelf: Path, here: Callable[..., Done]) -> None:
    ask = ("trace", PROMPT, *TWO_SIDES, "--json", "--model")
    pickled = here(*ask, str(shelf / "pickled"), "--allow-pickle")
    safe = here(*ask, str(shelf / "wrong"))
    assert pickled.code == safe.code == 0, pickled.err
    pickled_found, safe_found = only_object(pickled.out), only_object(safe.out)
    assert pickled_found["contrast"] == pytest.approx(safe_found["contrast"], abs=1e-5)
    assert pickled_found["weights_hash"] == safe_found["weights_hash"]


@pytest.mark.parametrize("command", ["trace", "demo"])
def test_an_output_that_cannot_be_is_refused_before_anything_is_loaded(
    command: str, here: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(cli, "_load", lambda *_a, **_k: pytest.fail("a model was loaded"))
    arguments = (command, PROMPT, *TWO_SIDES) if command == "trace" else (command,)
    refused(here(*arguments, "--out", "file/folder"), "The folder file/folder cannot be made")
    refused(here(*arguments, "--out", "file"), "The folder file cannot be made")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder_is_refused(here: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    done = here("trace", PROMPT, *TWO_SIDES, "--out", "locked")
    refused(done, "The folder locked cannot be written to")


def test_a_file_that_cannot_be_written_is_one_sentence(
    shelf: Path, here: Callable[..., Done], tmp_path: Path
) -> None:
    """A folder stands where the page should: found out only when the page is put in place."""
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    done = here("trace", PROMPT, *TWO_SIDES, "--model", str(shelf / "wrong"), "--out", "out")
    refused(done, "report.html cannot be written")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


# -- trace ---------------------------------------------------------------------------------------


def test_a_hallucination_is_traced_and_written(
    shelf: Path, here: Callable[..., Done], tmp_path: Path
) -> None:
    done = here(
        "trace", PROMPT, *TWO_SIDES, "--subject", "bass", "--cue", "at the lake",
        "--model", str(shelf / "wrong"), "--out", "out/deep",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.err == ""
    assert "hallucinates: it answers 'guitar'" in done.out.replace("\n", " ")
    assert "[at the lake]" in done.out
    assert "<bass>" in done.out
    assert "\n\n\n" not in done.out
    assert {p.name for p in (tmp_path / "out/deep").iterdir()} == {"report.html", "report.npz"}
    assert "out/deep/report.html" in done.out
    report = dst.open_result(tmp_path / "out/deep/report.npz")
    assert report.outcome == "hallucination"
    assert report.trace.contrast == pytest.approx(-2.0, abs=1e-4)  # planted: 4 - 6


def test_without_out_nothing_is_written(
    shelf: Path, here: Callable[..., Done], tmp_path: Path
) -> None:
    done = here("trace", PROMPT, *TWO_SIDES, "--model", str(shelf / "wrong"))
    assert done.code == 0
    assert "Add --out DIR" in done.out
    assert list(tmp_path.iterdir()) == []


def test_without_an_associative_answer_the_model_s_own_is_explained(
    shelf: Path, here: Callable[..., Done]
) -> None:
    ask = ("trace", PROMPT, "--contextual", "fish", "--model", str(shelf / "wrong"))
    found = only_object(here(*ask, "--json").out)
    assert found["case"]["associative"] == "guitar"
    assert found["outcome"] == "hallucination"
    assert "the model's own answer 'guitar'" in " ".join(found["verdict"] + found["notes"])


def test_without_a_hallucination_it_says_so_and_traces_the_strongest_rival(
    shelf: Path, here: Callable[..., Done]
) -> None:
    ask = ("trace", PROMPT, "--contextual", "fish", "--model", str(shelf / "right"))
    found = only_object(here(*ask, "--json").out)
    assert found["case"]["associative"] == "guitar"
    assert found["outcome"] == "correct"
    assert found["contrast"] == pytest.approx(2.0, abs=1e-4)  # planted: 6 - 4
    assert "There is no hallucination here" in " ".join(found["verdict"] + found["notes"])
    assert "There is no hallucination here" in here(*ask).out


def test_without_any_answer_it_asks_for_one(shelf: Path, here: Callable[..., Done]) -> None:
    done = here("trace", PROMPT, "--contextual", "fish", "--model", str(shelf / "mute"))
    refused(done, "no word that could be an answer reaches p 0.01. Give the answer to explain")
    assert "its likeliest token is 'the'" in done.err


def test_json_is_one_object_without_nan(shelf: Path, here: Callable[..., Done]) -> None:
    """No concept words: most scores are undefined, and say why instead of being NaN."""
    done = here("trace", PROMPT, *TWO_SIDES, "--model", str(shelf / "wrong"), "--json")
    assert (done.code, done.err) == (0, "")
    found = only_object(done.out)
    undefined = found["scores"]["cas_published"]
    assert undefined["total"] is None
    assert undefined["value"] == [None] * 4
    assert undefined["reasons"] == ["no concept words"]
    assert found["pathways"] is None
    assert found["continuation"] == ""
    assert found["tokens"][0] == "<s>"
    assert found["roles"][-1] == "answer"
    assert [row["state"] for row in found["lens"]] == [0, 1, 2, 3]
    planted = [5 - 6, 5 - 6, 3 - 6, 4 - 6]
    assert [row["margin"] for row in found["lens"]] == pytest.approx(planted, abs=1e-3)
    assert all(len(row["top_words"]) == 5 for row in found["lens"])
    again = Case.from_dict(found["case"])
    assert again.text == PROMPT


def test_the_json_of_a_process_is_all_it_prints(shelf: Path, tmp_path: Path) -> None:
    """Also where the terminal knows ASCII only, and with words outside it."""
    ask = ("trace", "Anna's bäss — the bass is a", *TWO_SIDES, "--model", str(shelf / "chat"))
    seen = []
    for encoding in ("utf-8", "ascii"):
        done = as_process(*ask, "--json", cwd=tmp_path, PYTHONIOENCODING=encoding)
        assert (done.code, done.err) == (0, "")
        seen.append(only_object(done.out))
        assert seen[-1]["case"]["prompt"] == "Anna's bäss — the bass is a"
    assert seen[0] == seen[1]
    shown = as_process(*ask, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.isascii()


def test_a_wrong_word_in_the_middle_of_a_reply(shelf: Path, here: Callable[..., Done]) -> None:
    """The reply up to the word is the prefix, and the word is the associative answer."""
    start, reply = "Anna sees a bass .", "the bass is a guitar and a drum ."
    ask = ("--contextual", "fish", "--model", str(shelf / "wrong"), "--json")
    found = only_object(here("trace", start, "--response", reply, "--at", "GUITAR", *ask).out)
    assert found["case"]["prefix"] == " the bass is a"
    assert found["case"]["associative"] == "guitar"
    direct = only_object(
        here("trace", f"{start} the bass is a", "--associative", "guitar", *ask).out
    )
    assert found["tokens"] == direct["tokens"]
    assert found["contrast"] == direct["contrast"]


def test_which_mention_of_a_word_in_a_reply(shelf: Path, here: Callable[..., Done]) -> None:
    reply = "the guitar is a guitar ."
    ask = ("--contextual", "fish", "--model", str(shelf / "wrong"), "--json")
    found = [
        only_object(here("trace", "Anna", "--response", reply, "--at", at, *ask).out)
        for at in ("guitar#1", "guitar#2")
    ]
    assert [one["case"]["prefix"] for one in found] == [" the", " the guitar is a"]


def test_a_reply_in_a_chat_follows_the_template(shelf: Path, here: Callable[..., Done]) -> None:
    done = here(
        "trace", "What is the bass?", "--chat", "--system", "Be brief.",
        "--response", "The bass is a guitar.", "--at", "guitar", "--contextual", "fish",
        "--model", str(shelf / "chat"), "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = only_object(done.out)
    assert found["case"]["prefix"] == "The bass is a"
    text = "".join(found["tokens"])
    assert text.endswith("<think></think>The bass is a")
    assert "<|system|>\nBe brief.\n<|user|>\nWhat is the bass?\n" in text
    assert any("thinking was switched off" in note for note in found["notes"])


def test_options_say_what_a_case_says(shelf: Path, here: Callable[..., Done]) -> None:
    found = only_object(
        here(
            "trace", PROMPT, "--contextual", "fish", "--contextual", "animal",
            "--associative", "guitar", "--associative", "drum", "--subject", "bass",
            "--cue", "lake", "--cue", "Anna", "--context-words", "water, river",
            "--competing-words", "song", "--model", str(shelf / "wrong"), "--json",
        ).out
    )["case"]  # fmt: skip
    expected = Case(
        prompt=PROMPT, contextual=["fish", "animal"], associative=["guitar", "drum"],
        subject="bass", cue=["lake", "Anna"], context_words=["water", "river"],
        competing_words="song",
    )  # fmt: skip
    assert found.items() >= {k: v for k, v in expected.to_dict().items() if k != "case_id"}.items()


def test_options_give_the_variants_of_a_case(shelf: Path, here: Callable[..., Done]) -> None:
    cities, drums = PROMPT.replace("lake", "city"), PROMPT.replace("bass", "drum")
    found = only_object(
        here(
            "trace", PROMPT, *TWO_SIDES, "--subject", "bass", "--cue", "lake",
            "--neutral", cities, "--neutral", PROMPT.replace("lake", "song"),
            "--substitute", drums, "--substitute", PROMPT.replace("bass", "bat"),
            "--swap", PROMPT.replace("lake", "river"), "--clean", "the bass is a",
            "--question", "the bass is a", "--distractor", "sees",
            "--model", str(shelf / "wrong"), "--json",
        ).out
    )  # fmt: skip
    case = Case.from_dict(found["case"])
    assert case.neutral == (cities, PROMPT.replace("lake", "song"))
    assert case.substitute[0] == drums
    assert case.swap == (PROMPT.replace("lake", "river"),)
    assert (case.clean, case.question, case.distractor) == (
        ("the bass is a",), "the bass is a", ("sees",)
    )  # fmt: skip
    assert found["suggestion"] is None  # cue and subject were given
    assert found["pathways"]["total_effect"]["draws"] == 2


def test_without_suggestions_nothing_is_inferred(shelf: Path, here: Callable[..., Done]) -> None:
    ask = ("trace", PROMPT, *TWO_SIDES, "--model", str(shelf / "wrong"), "--json")
    found = only_object(here(*ask).out)["suggestion"]
    assert {"inferred", "cue", "subject", "candidates", "forward_passes"} <= {*found}
    assert only_object(here(*ask, "--no-suggest").out)["suggestion"] is None


def test_a_twin_that_cannot_be_proposed_is_one_sentence(
    shelf: Path, here: Callable[..., Done]
) -> None:
    done = here("trace", PROMPT, *TWO_SIDES, "--twin", "proposed", "--model", str(shelf / "wrong"))
    refused(done, "No twin can be proposed: this is no yes/no prompt")


def test_remote_runs_are_asked_of_nnsight_alone(shelf: Path, here: Callable[..., Done]) -> None:
    ask = ("trace", PROMPT, *TWO_SIDES, "--model", str(shelf / "wrong"))
    done = here(*ask, "--remote", "local")
    assert done.code == 2
    assert "nnsight" in done.err


# -- demo, check, help ---------------------------------------------------------------------------


def test_the_demonstration(here: Callable[..., Done], tmp_path: Path) -> None:
    done = here("demo")
    assert (done.code, done.err) == (0, "")
    assert "The model hallucinates" in done.out
    assert "Its twin, which the model gets right" in done.out
    names = {path.name for path in (tmp_path / "dst-out").iterdir()}
    assert names == {"report.html", "report.npz", "twin.html"}
    for name in names:
        assert f"dst-out/{name}" in done.out or name == "report.npz"
    assert dst.open_result(tmp_path / "dst-out/report.npz").outcome == "hallucination"


def test_the_demonstration_as_json(here: Callable[..., Done], tmp_path: Path) -> None:
    found = only_object(here("demo", "--json", "--out", "x").out)
    assert found["report"]["outcome"] == "hallucination"
    assert found["twin"]["outcome"] == "correct"
    terms = found["report"]["pathways"]
    assert set(terms) == {"base", "prior", "total_effect"}
    summed = sum(term["mean"] for term in terms.values())
    assert summed == pytest.approx(found["report"]["contrast"], abs=1e-4)
    assert {path.name for path in (tmp_path / "x").iterdir()} == {
        Path(found[key]).name for key in ("page", "result", "twin_page")
    }


def test_check_says_what_holds(shelf: Path, here: Callable[..., Done]) -> None:
    done = here("check", str(shelf / "gpt2"))
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert "gpt2, 3 layers x 64, 4 heads (4 kv), vocabulary 384, float32" in lines[0]
    assert len(lines) >= 8
    assert all(line.startswith("  holds  ") for line in lines[1:])
    found = only_object(here("check", str(shelf / "gpt2"), "--json").out)
    assert found["passed"] is True
    assert len(found["checks"]) == len(lines) - 1
    assert all(check["error"] < 1e-5 for check in found["checks"])


@pytest.mark.full
@pytest.mark.parametrize("backend", ["bridge", "nnsight"])
def test_other_engines_give_the_same_account(backend: str, shelf: Path, tmp_path: Path) -> None:
    """As processes: `import nnsight` changes Python's own objects."""
    ask = ("trace", PROMPT, *TWO_SIDES, "--model", str(shelf / "wrong"), "--json")
    reference = only_object(as_process(*ask, cwd=tmp_path).out)
    done = as_process(*ask, "--backend", backend, cwd=tmp_path)
    assert done.code == 0, done.err
    found = only_object(done.out)
    assert found["contrast"] == pytest.approx(reference["contrast"], abs=1e-4)
    margins = [[row["margin"] for row in one["lens"]] for one in (found, reference)]
    assert margins[0] == pytest.approx(margins[1], abs=1e-4)
    checked = as_process("check", str(shelf / "wrong"), "--backend", backend, cwd=tmp_path)
    assert checked.code == 0, checked.err
    assert "  holds  " in checked.out


def test_check_of_a_broken_model_is_one_sentence(shelf: Path, here: Callable[..., Done]) -> None:
    refused(here("check", str(shelf / "nan")), "NaN or infinite logits")
    refused(here("check", str(shelf / "bert")), "not causal")


def test_check_names_what_fails(
    shelf: Path, here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tolerance that nothing can meet stands for a model on which a check fails."""
    monkeypatch.setitem(dst.models.check.TOLERANCE, "float32", -1.0)
    done = here("check", str(shelf / "gpt2"))
    assert done.code == 2
    assert "  FAILS  " in done.out
    assert "over -1e+00" in done.out


def test_help_is_readable(here: Callable[..., Done], capfd: pytest.CaptureFixture[str]) -> None:
    texts = {}
    for arguments in (["--help"], ["trace", "--help"], ["check", "--help"], ["demo", "--help"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 0
        texts[arguments[0]] = capfd.readouterr().out
        assert max(map(len, texts[arguments[0]].splitlines())) <= 100
    for command in ("demo", "trace", "check"):
        assert re.search(rf"^ +{command} +\w", texts["--help"], re.MULTILINE)
    assert "Exit codes: 0 done, 2 the input is wrong" in texts["--help"]
    for option in ("--contextual", "--associative", "--response", "--at", "--model", "--out"):
        assert re.search(rf"^ +{option} \S+\s+\S", texts["trace"], re.MULTILINE), option


def test_the_example_in_the_help_runs(here: Callable[..., Done]) -> None:
    import shlex

    command = cli.EXAMPLES.split("dst trace ")[1].replace("\\\n", " ")
    done = here("trace", *shlex.split(command))
    assert done.code == 0, done.err


def test_the_version(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capfd.readouterr().out == f"dst {dst.__version__}\n"


# -- pipes, signals, terminals ---------------------------------------------------------------------


def test_a_reader_that_leaves_early_is_no_error(shelf: Path, tmp_path: Path) -> None:
    """As in `dst trace ... | head -1`, here with a reader that leaves before the first line."""
    with subprocess.Popen(
        [sys.executable, "-m", "dst.cli", "trace", PROMPT, *TWO_SIDES, "--model",
         str(shelf / "wrong")],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)


def test_an_interrupt_says_so_and_leaves_nothing(
    shelf: Path, tmp_path: Path, terminal: tuple[int, int]
) -> None:
    """Ctrl-C while the model is loading: the terminal says when that is."""
    ours, theirs = terminal
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from dst.cli import main; sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "trace", PROMPT, *TWO_SIDES, "--out", "out",
         "--model", str(shelf / "wrong")],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while b"loading" not in said:
        said += os.read(ours, 1000)
    process.send_signal(2)
    while True:
        try:
            more = os.read(ours, 1000)
        except OSError:  # how Linux says that the other end is closed
            break
        if not more:
            break
        said += more
    assert process.wait(60) == 130
    assert b"dst: interrupted" in said
    assert b"Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_writing_leaves_whole_files_only(
    shelf: Path, here: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dst.core.results.Result, "save", interrupted)
    done = here("trace", PROMPT, *TWO_SIDES, "--model", str(shelf / "wrong"), "--out", "out")
    assert done.code == 130
    assert done.err == "dst: interrupted; files already written are whole\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_a_terminal_is_told_what_is_waited_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with cli._doing("loading a model of seventy billion parameters, spread over many devices"):
        shown = capsys.readouterr().err
        assert shown.startswith("loading a model of seventy billion")
        assert len(shown) <= 80
        assert "\n" not in shown
    assert capsys.readouterr().err == "\r\x1b[K"


def test_a_fault_of_ours_exits_with_1(
    shelf: Path, here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lens that misses the logits: no number is printed, and the input is not blamed."""
    engine = dst.models.hooks.HooksBackend
    norm = engine.final_norm
    monkeypatch.setattr(engine, "final_norm", lambda *args: 1.5 * norm(*args))
    done = here("trace", PROMPT, *TWO_SIDES, "--model", str(shelf / "wrong"))
    assert (done.code, done.out) == (1, "")
    assert "misses the logits" in done.err
    assert "Traceback" not in done.err


def test_tracing_without_a_page_loads_no_plotting(shelf: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from dst.cli import main; code = main(); "
        "assert not {'plotly', 'pandas', 'pyarrow', 'networkx', 'nnsight', 'transformer_lens'} "
        "& {*sys.modules}; sys.exit(code)"
    )
    started = time.monotonic()
    done = as_process(
        "trace", PROMPT, *TWO_SIDES, "--model", str(shelf / "wrong"), cwd=tmp_path, code=code
    )
    assert done.code == 0, done.err
    assert time.monotonic() - started < 200
