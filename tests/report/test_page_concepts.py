"""The page and the terminal with map, importance, drift and spans: every number, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from dst.core.results import Report
from dst.plot.text import number
from dst.report import render_page, render_text
from dst.report.reproduce import command_line, python_lines
from tests.plot.test_plot_drift import drift
from tests.plot.test_plot_maps import HOSTILE, importance, places, semantic_map
from tests.plot.test_plot_spans import spans
from tests.report.example import make_report
from tests.report.test_report_page import Document

TITLES = [
    "Concepts and their effects",
    "What the answer owes to the concepts",
    "Where meaning drifts",
    "The words the answer hangs on",
]


def asked_report() -> Report:
    return make_report().replace(
        semantic_map=semantic_map(positions=places()),
        importance=importance(),
        drift=drift(),
        spans=spans(),
    )


def told(report: Report) -> str:
    return " ".join(" ".join(Document(render_page(report)).texts["section"]).split())


def test_the_sections_are_there_if_asked_for_and_absent_if_not() -> None:
    page = Document(render_page(asked_report()))
    assert [title for title in page.texts["h2"] if title in TITLES] == TITLES
    assert page.open == []
    identities = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identities) == len(set(identities))
    figures = {attrs["data-figure"] for attrs in page.all("div") if "data-figure" in attrs}
    assert {"figure-map", "figure-map-rivers", "figure-importance", "figure-drift",
            "figure-spans"} <= figures  # fmt: skip
    without = Document(render_page(make_report()))
    assert not set(TITLES) & set(without.texts["h2"])


def test_the_map_has_its_counts_and_every_number_of_its_edges() -> None:
    text = told(asked_report())
    assert "3 of 15 effects stand out among 20 random directions" in text
    assert "rate of 5 % over the whole map" in text
    found = semantic_map()
    for edge in found.edges():
        row = (
            f"{edge['source']}{edge['state']}{edge['target']}{edge['to_state']}"
            f"{number(edge['effect'], 3)}{number(edge['control'], 3)}"
        )
        assert row in text
    for place in places().edges():
        assert f"{number(place['effect'], 3)}{number(place['control'], 3)}" in text


def test_an_empty_map_says_that_nothing_stands_out() -> None:
    report = make_report().replace(semantic_map=semantic_map(rate=0.0001))
    text = told(report)
    assert "No effect of 15 stands out" in text
    assert "That does not say that nothing happens." in text
    assert "No effect of a concept, and none of a word of the prompt, stands out." in text


def test_importance_drift_and_spans_have_their_numbers_and_controls() -> None:
    text = told(asked_report())
    assert "1 of 3 cells stands out at a q under 0.05" in text
    assert "0cue2.0000.5001.5001.000 to 2.2500.002" in text
    assert "every draw is the same as the prompt there" in text
    assert "onset: after block 1 of 2 (z over 4.0, as large by chance in 5 % of runs)" in text
    assert "neutral draws, 8 against one another" in text
    assert "the largest exceeds 3.0 by chance in 5 % of runs" in text
    assert "anna … bass4.00 3.75 to 4.503.50 3.00 to 3.75" in text
    assert "over 24 fills and 1234 runs" in text
    none = importance(reason="the case has no cue", importance=np.full((2, 2, 2), np.nan),
                      p=np.full((2, 2), np.nan), q=np.full((2, 2), np.nan))  # fmt: skip
    assert "Undefined: the case has no cue." in told(make_report().replace(importance=none))


def test_the_terminal_has_a_line_for_each() -> None:
    text = render_text(asked_report(), colour=False, width=100)
    for part in (
        "3 of 15 effects at q < 0.05; fish → choir −1.00 (states 0 to 2)",
        "3 from words of the prompt; opera → Choir +1.50",
        "1 of 3 cells at q < 0.05; largest +1.50 (cue, state 0)",
        "from the swap run, begins at state 1 (z over 4.0)",
        "anna … bass: lost without 4.00, kept alone 3.50 logits",
    ):
        assert part in text
    assert "concepts " not in render_text(make_report(), colour=False, width=100)


def test_the_lines_to_compute_it_again_ask_for_the_same() -> None:
    report = make_report().replace(semantic_map=semantic_map(), spans=spans())
    assert "dst.explain(model, case, semantic_map=True, spans=True).to_html" in python_lines(report)
    command, _ = command_line(report)
    assert " --map --spans" in command
    assert "--drift" not in command
    assert "dst.explain(model, case).to_html" in python_lines(make_report())


def test_hostile_text_stays_text() -> None:
    words = ("instrument", "fish", HOSTILE, "blue")
    report = make_report().replace(
        semantic_map=semantic_map(
            words=words, notes=(HOSTILE,), donor=HOSTILE,
            positions=places(tokens=(HOSTILE, "is"), roles=(HOSTILE, "answer")),
        ),
        importance=importance(words=(HOSTILE, "a"), roles=(HOSTILE, "answer")),
        drift=drift(against=HOSTILE, notes=(HOSTILE,)),
        spans=spans(words=("anna", "lake", HOSTILE), notes=(HOSTILE,)),
    )  # fmt: skip
    page = render_page(report)
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert Document(page).open == []
    for width in (72, 200):
        text = render_text(report, colour=False, width=width)
        assert "\x1b" not in text
        assert "\u202e" not in text


@pytest.mark.parametrize("name", ["semantic_map", "importance", "drift", "spans"])
def test_a_saved_report_keeps_them(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    from dst.core.results import open_result

    path = asked_report().save(tmp_path_factory.mktemp("report") / "report.npz")
    opened = open_result(path)
    assert getattr(opened, name).to_records() is not None
    assert type(getattr(opened, name)) is type(getattr(asked_report(), name))
