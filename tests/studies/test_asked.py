"""What `explain` adds when it is asked to: the same results as by themselves, or a note."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dst
from dst.cli import main
from dst.core.drift_results import Drift
from dst.core.importance_results import ConceptImportance
from dst.core.map_results import SemanticMap
from dst.core.span_results import Spans
from dst.models.backend import Backend
from dst.studies.asked import NAMES, asked_for
from dst.testbed import world


@pytest.fixture(scope="module")
def model() -> Backend:
    return dst.load()


@pytest.fixture(scope="module")
def case() -> dst.Case:
    return world.cases(split="test", n=1, seed=0)[0]


def test_they_are_the_results_of_the_calls(model: Backend, case: dst.Case) -> None:
    report = dst.explain(model, case, semantic_map=True, drift=True)
    assert isinstance(report.semantic_map, SemanticMap)
    assert isinstance(report.drift, Drift)
    alone = dst.semantic_map(model, case, show=False)
    np.testing.assert_array_equal(report.semantic_map.effects, alone.effects)
    assert report.semantic_map.positions is not None
    assert report.semantic_map.positions.words == alone.words
    assert not case.clean  # there is no distractor to leave out: the other sense is the twin
    twin = dst.drift(model, case, "swap", show_progress=False)
    np.testing.assert_array_equal(report.drift.drift, twin.drift)
    assert (report.importance, report.spans) == (None, None)


def test_what_cannot_be_measured_is_a_note(model: Backend) -> None:
    bare = dst.Case(
        "Anna sees a bass. The bass is a kind of", contextual="instrument", associative="fish"
    )
    found = asked_for(model, bare, ["semantic_map", "importance", "drift"], draws=4, seed=0)
    for name in ("semantic_map", "importance", "drift"):
        there = name in found.results
        assert there != any(note.startswith(f"No {NAMES[name]}: ") for note in found.notes)
    assert "semantic_map" in found.results  # without a cue the donor is ordinary text
    assert found.results["semantic_map"].positions is None
    assert any(
        "Without the prompt's places" in note for note in found.results["semantic_map"].notes
    )


def test_nothing_is_run_unless_asked(model: Backend, case: dst.Case) -> None:
    assert asked_for(model, case, [], draws=4, seed=0).results == {}


def test_the_command_line_asks_too(capsys: pytest.CaptureFixture[str]) -> None:
    prompt = (
        "Felix is at the opera. Anna is at the river. Felix sees a bass. So the bass is a kind of"
    )
    status = main(
        ["trace", prompt, "--contextual", "instrument", "--associative", "fish", "--subject",
         "bass", "--cue", "at the opera", "--map", "--json"]
    )  # fmt: skip
    assert status == 0
    told = json.loads(capsys.readouterr().out)
    assert isinstance(told["semantic_map"], list)
    assert "drift" not in told


@pytest.mark.full
def test_spans_and_importance_are_there_too(model: Backend, case: dst.Case) -> None:
    report = dst.explain(model, case, spans=True, importance=True)
    assert isinstance(report.spans, Spans)
    assert isinstance(report.importance, ConceptImportance)
    assert report.spans.case == report.case
    np.testing.assert_array_equal(
        report.importance.p, dst.concept_importance(model, case, show_progress=False).p
    )
