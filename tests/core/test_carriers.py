"""Which words and components carry a flow: picked, by the marks and parts that are there."""

from __future__ import annotations

import math

import numpy as np

from dst.core.carriers import component_carriers, separator, spoken, word_carriers
from tests.report.example import make_report


def test_words_are_read_with_their_spans_apart() -> None:
    words = ("anna", "sees", "a", "bass", "here")
    assert spoken(words, (0, 1, 3)) == "anna sees … bass"
    assert spoken(words, ()) == ""
    pieces = ("An", "na", " sees", " a", " ba", "ss")
    assert spoken(pieces, (0, 1, 4, 5)) == "Anna … bass"
    assert separator(pieces) == ""
    assert separator(words) == " "


def test_a_role_carries_a_flow_between_its_marks() -> None:
    report = make_report(n_layers=6)
    paths = report.pathways
    assert paths is not None
    (cue,) = word_carriers(paths, report.trace.tokens, "contextual")
    assert (cue.role, cue.words, cue.first, cue.last) == ("cue", "concert", 0, 1)
    i = paths.roles.index("cue")
    assert cue.removal == paths.contextual_removal.mean(axis=0)[cue.state, i]
    assert cue.control == paths.draw_against_draw[cue.state, i]
    (subject,) = word_carriers(paths, report.trace.tokens, "associative")
    assert (subject.role, subject.first, subject.last) == ("subject_1", 0, 0)
    assert math.isnan(subject.control)
    stays = paths.replace(
        marks=tuple(mark for mark in paths.marks if mark.name != "departure")
    )  # fmt: skip
    (cue,) = word_carriers(stays, report.trace.tokens, "contextual")
    assert cue.last == 6
    assert word_carriers(paths.replace(marks=()), report.trace.tokens, "contextual") == []


def test_components_come_largest_first_with_the_whole() -> None:
    parts = make_report().attribution
    assert parts is not None
    found = component_carriers(parts, "associative", most=3)
    assert found[0].name == "mlp 0"
    assert len(found) == 3
    sizes = [abs(one.part) for one in found]
    assert sizes == sorted(sizes, reverse=True)
    assert {one.total for one in found} == {float(parts.associative.sum())}
    tiny = parts.replace(contextual=np.where(np.arange(len(parts.contextual)) == 2, 2.5, 0.01))
    assert [one.name for one in component_carriers(tiny, "contextual")] == [parts.components[2]]
