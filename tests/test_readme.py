"""README and quickstart run as they stand, in a fresh folder, offline; the output is today's.

python -m tests.test_readme    writes today's output of `dst demo` into README.md
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import dst
from benchmarks import _record
from tests import tiny

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
QUICKSTART = REPOSITORY / "docs" / "quickstart.md"
BLOCK = re.compile(r"(<!-- not run: [^\n]* -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"(?<=^```console\n\$ dst demo\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
BARS = re.compile(r"[▁▂▃▄▅▆▇█▌▐│·]+")
NUMBER = re.compile(r"[+−-]?\d+\.\d+")


@dataclass(frozen=True)
class Block:
    """One fenced block of README.md."""

    language: str
    text: str
    not_run: bool


def blocks(document: Path = README) -> list[Block]:
    found = BLOCK.findall(document.read_text("utf-8"))
    return [Block(language, text, bool(not_run)) for not_run, language, text in found]


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script where `dst` is the command of this checkout."""
    commands = folder / ".bin"
    commands.mkdir(exist_ok=True)
    shim = commands / "dst"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dst.cli "$@"\n', "utf-8")
    shim.chmod(0o755)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONIOENCODING": "utf-8",
            "COLUMNS": "80",
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=600,
    )


def demo_output(folder: Path) -> str:
    done = shell("dst demo", folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- the blocks -----------------------------------------------------------------------------------


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    languages = [block.language for block in blocks()]
    assert {"bash", "console", "python"} == set(languages)
    assert README.read_text("utf-8").count("```") == 2 * len(languages)


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "bash" and not b.not_run])
def test_commands_run(block: Block, tmp_path: Path) -> None:
    tokenizer = tiny.byte_bpe()
    tiny.model("llama", len(tokenizer) + 3).save_pretrained(tmp_path / "my-model")
    tokenizer.save_pretrained(tmp_path / "my-model")
    done = shell(block.text, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    if "dst trace" in block.text:
        assert "hallucinates: it answers 'fish'" in done.stdout.replace("\n", " ")
        assert (tmp_path / "felix" / "report.html").is_file()
        assert (tmp_path / "lake.json").read_text("utf-8").startswith("{")
    else:
        assert "3 cases on embedded" in done.stdout
        assert (tmp_path / "runs/first/report.html").is_file()


def test_only_make_is_not_run() -> None:
    """Those are run as they are by whoever clones the project; their targets are tested."""
    lines = [line for b in blocks() if b.not_run for line in b.text.splitlines()]
    assert lines
    assert all(line.startswith("make ") for line in lines)


def run_code(document: Path) -> dict[str, object]:
    """Run the Python blocks of a document one after the other, as one program."""
    names: dict[str, object] = {}
    for block in blocks(document):
        if block.language == "python":
            exec(compile(block.text, document.name, "exec"), names)
    return names


def test_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_code(README)
    assert "hallucination | The model hallucinates: it answers 'fish'" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"bass.npz", "bass.html"}
    assert type(names["again"]).__name__ == "Report"


def test_the_quickstart_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {block.language for block in blocks(QUICKSTART)} == {"python"}
    monkeypatch.chdir(tmp_path)
    run_code(QUICKSTART)
    said = capsys.readouterr().out
    assert "1 good; line 2, asociative: " in said
    assert "did you mean associative" in said
    assert "hallucination fish 0." in said
    assert "holds logits equal a plain forward pass" in said
    assert "FAILS" not in said


def test_the_page_on_suggestions_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_code(REPOSITORY / "docs" / "suggest.md")
    assert "effect of the context" in capsys.readouterr().out
    assert names["report"].suggestion.to_records() == names["found"].to_records()  # type: ignore[attr-defined]


# -- what is shown and said ---------------------------------------------------------------------


def test_the_output_shown_is_today_s(tmp_path: Path) -> None:
    """Numbers within a unit of their last digit, bars within a cell: machines round apart."""
    shown = SHOWN.search(README.read_text("utf-8"))
    assert shown is not None
    then, now = shown[0], demo_output(tmp_path)
    renew = "renew it: python -m tests.test_readme"

    def frame(text: str) -> str:
        return " ".join(NUMBER.sub("#", BARS.sub("", text)).split())

    assert frame(then) == frame(now), renew
    old, new = NUMBER.findall(then), NUMBER.findall(now)
    for before, after in zip(old, new, strict=True):
        difference = float(before.replace("−", "-")) - float(after.replace("−", "-"))
        assert abs(difference) <= 0.0101, (before, after, renew)
    for before, after in zip(BARS.findall(then), BARS.findall(now), strict=True):
        assert abs(len(before) - len(after)) <= 1, (before, after, renew)


def test_what_is_in_is_there_and_what_is_planned_is_not() -> None:
    rows = re.findall(r"^\| (.*) \| (in|planned) \|$", README.read_text("utf-8"), re.MULTILINE)
    states = [state for _, state in rows]
    assert states == sorted(states)  # all that is in comes first
    assert set(states) == {"in", "planned"}
    for part, state in rows:
        for name in re.findall(r"`dst\.(\w+)`", part):
            assert (name in dst.__all__) == (state == "in"), f"dst.{name} is not {state}"


def test_every_name_in_prose_exists() -> None:
    text = README.read_text("utf-8").split("## What is in")[0]
    for name in re.findall(r"\bdst\.(\w+)\(", text):
        assert name in dst.__all__, name
    for path in re.findall(r"`((?:docs|notebooks|benchmarks)/[\w./]+)`", text):
        assert (REPOSITORY / path).exists(), path


def test_the_page_of_benchmarks_is_made_from_what_was_recorded() -> None:
    assert _record.PAGE.read_text("utf-8") == _record.page()


def renew() -> None:
    """Write today's output of `dst demo` into README.md."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        now = demo_output(Path(folder))
    text = README.read_text("utf-8")
    assert SHOWN.search(text) is not None
    README.write_text(SHOWN.sub(lambda _: now, text, count=1), "utf-8")


if __name__ == "__main__":
    renew()
