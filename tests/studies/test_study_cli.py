"""``dst study``: what it prints and refuses, and kills by the system at moments of its choosing."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dst import cli
from dst.core.study_results import StudyTable, open_study
from tests.studies import study_cases

REPOSITORY = Path(__file__).resolve().parents[2]
N = 40


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, forty cases of which four have flows, and their table, never stopped."""
    made = tmp_path_factory.mktemp("shelf")
    study_cases.saved(made / "model")
    study_cases.write(made / "cases.jsonl", study_cases.cases(N, flows=10))
    assert cli.main(arguments(made, made / "whole")) == 0
    return made


def arguments(shelf: Path, out: Path, *more: str) -> list[str]:
    """A study of these cases, in batches of four."""
    model, cases = str(shelf / "model"), str(shelf / "cases.jsonl")
    return [
        "study", "run", cases, "--model", model, "--out", str(out), "--draws", "2",
        "--batch-cases", "4", *more,
    ]  # fmt: skip


def started(given: list[str]) -> subprocess.Popen[str]:
    """The same command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "dst.cli", *given],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # Started in the background, the tests themselves may have been told to ignore it.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def parts(out: Path) -> int:
    return len(list((out / "parts").glob("[0-9]*.parquet")))


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Wait until it holds or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.005)


def killed_and_finished(shelf: Path, out: Path, kills: int, seed: int) -> int:
    """Kill the command at random moments after its first batch, then let it end; the true kills."""
    rng, killed = random.Random(seed), 0
    for _ in range(kills):
        process, before = started(arguments(shelf, out)), parts(out)
        # The first run dies after its first batch; the later ones at any moment of their work.
        wait_for(process, lambda before=before: parts(out) > (0 if before else before))  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        if (out / "results.parquet").exists():
            break
    assert cli.main(arguments(shelf, out)) == 0
    return killed


def same_table(shelf: Path, out: Path) -> bool:
    whole = shelf / "whole"
    return (whole / "results.parquet").read_bytes() == (out / "results.parquet").read_bytes()


def test_killed_three_times_it_ends_with_the_same_table(shelf: Path, tmp_path: Path) -> None:
    assert killed_and_finished(shelf, tmp_path / "out", kills=3, seed=0) >= 2
    assert same_table(shelf, tmp_path / "out")


@pytest.mark.full
def test_killed_fifty_times_fifty_tables_are_the_same(shelf: Path, tmp_path: Path) -> None:
    kills, study = 0, 0
    while kills < 50:
        out = tmp_path / f"out-{study}"
        kills += killed_and_finished(shelf, out, kills=1, seed=study)
        assert same_table(shelf, out)
        study += 1
        assert study < 60


def test_stopped_from_the_keyboard_it_says_how_to_go_on(shelf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = started(arguments(shelf, out))
    wait_for(process, lambda: parts(out) > 0)
    process.send_signal(signal.SIGINT)
    told, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert told == ""
    assert error.strip().startswith("dst: Stopped after ")
    assert error.strip().endswith("of 10 batches; the same command goes on from there.")
    assert 0 < parts(out) < 10


# -- what it says ------------------------------------------------------------------------------


def test_the_summary_counts_outcomes_and_names_reasons(
    shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(shelf, shelf / "whole")) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("40 cases on ")
    assert lines[0].endswith(": 39 neither, 1 failed.")
    assert lines[1].startswith("  1 failed: The model does not know 'xylophone'")
    assert lines[2].endswith("The two pathways were not measured: the case names no cue.")
    assert lines[-1] == f"Next: dst study correlate {shelf / 'whole'}"
    assert err == ""


def test_as_json(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*arguments(shelf, shelf / "whole"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["outcomes"] == {"neither": 39, "failed": 1}
    assert told["cases"] == N
    assert told["study"]["settings"]["draws"] == 2
    assert Path(told["table"]) == shelf / "whole" / "results.parquet"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--draws", "3"], "was begun otherwise: draws was 2 and is 3."),
        (["--limit", "5"], "there were 40 cases and are 5."),
        (["--engine", "spark"], "There is no engine 'spark'"),
        (["--draws", "0"], "draws is 0; expected 1 or more."),
        (["--workers", "0"], "workers is 0; expected 1 or more."),
        (["--failure"], "measures was coherence+markers and is coherence+markers+failure."),
    ],
)
def test_what_is_refused_is_one_sentence(
    shelf: Path, more: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(shelf, shelf / "whole", *more)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dst: ")
    assert err.count("\n") == 1
    assert sentence in err


def test_bad_cases_and_models_leave_nothing_behind(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n')
    for given, sentence in (
        (["study", "run", "nowhere.jsonl", "--out", str(out)], "nowhere.jsonl"),
        (["study", "run", str(tmp_path / "bad.jsonl"), "--out", str(out)], "1 bad row(s)"),
        (
            ["study", "run", str(shelf / "cases.jsonl"), "--out", str(out), "--model", "./none"],
            "none",
        ),
        (["study", "run", str(shelf / "cases.jsonl")], "--out"),
        (["study"], "COMMAND"),
        (["study", "correlate", str(out)], "There is no study in"),
    ):
        assert cli.main(given) == 2
        err = capsys.readouterr().err
        assert sentence in err
        assert err.count("\n") == 1
        assert not out.exists()


# -- correlate ---------------------------------------------------------------------------------


def with_errors(shelf: Path, folder: Path) -> Path:
    """The table with errors, since the random model's answers are neither."""
    table = open_study(shelf / "whole")
    margin = table.column("margin")
    usual = np.nanmedian(margin)
    error = [None if m != m else float(m < usual) for m in margin]
    place = table.names.index("error")
    arrow = table.arrow.set_column(place, "error", pa.array(error, pa.float64()))
    StudyTable(arrow).save(folder / "results.parquet")
    return folder


def test_correlate_prints_every_score_with_its_interval(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_errors(shelf, tmp_path / "study")
    assert cli.main(["study", "correlate", str(folder), "--resamples", "200"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "40 cases, by item: correlation with error"
    assert lines[2].split() == ["score", "n", "pearson", "p", "Holm", "spearman", "p", "Holm"]
    (margin,) = [line.split() for line in lines if line.startswith("margin@0.75")]
    assert margin[1] == "39"
    assert float(margin[2]) < -0.5
    assert "1 of 40 cases left out for an undefined value: " in out
    assert "contextual_insertion" not in out
    assert lines[-1].strip().endswith("seed 0.")


def test_correlate_as_json_adjusts_for_the_number_of_scores(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(with_errors(shelf, tmp_path / "study"))
    asked = ["--score", "margin", "--score", "cas_corrected@0.5", "--resamples", "200", "--json"]
    assert cli.main(["study", "correlate", folder, "--covariate", "prompt_tokens", *asked]) == 0
    told: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["score"]) for row in told] == [
        ("partial_pearson", "margin@0.75"),
        ("partial_pearson", "cas_corrected@0.5"),
        ("partial_spearman", "margin@0.75"),
        ("partial_spearman", "cas_corrected@0.5"),
    ]
    assert all(row["covariates"] == "prompt_tokens" for row in told)
    for method in ("partial_pearson", "partial_spearman"):
        smaller, larger = sorted(
            (row for row in told if row["name"] == method), key=lambda row: row["p"]
        )
        assert smaller["p_holm"] == pytest.approx(min(1, 2 * smaller["p"]))
        assert larger["p_holm"] == pytest.approx(max(larger["p"], smaller["p_holm"]))


def test_correlate_stacks_studies_and_groups_them(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (str(with_errors(shelf, tmp_path / name)) for name in ("one", "other"))
    given = ["--unit", "group", "--score", "margin", "--resamples", "200"]
    assert cli.main(["study", "correlate", one, other, *given]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "80 cases, by group: correlation with error"


def test_correlate_refuses_in_one_sentence(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = str(shelf / "whole")
    for given, sentence in (
        (["--score", "margn"], "no column 'margn'"),
        (["--unit", "word"], "no unit 'word'"),
        (["--resamples", "-1"], "n_resamples is -1"),
    ):
        assert cli.main(["study", "correlate", whole, *given]) == 2
        err = capsys.readouterr().err
        assert sentence in err
        assert err.count("\n") == 1
