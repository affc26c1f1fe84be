"""Figures carry exactly the numbers of the results, and say what is undefined."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from dst import plot
from dst.core.results import Coherence, Mark, Markers, Score
from dst.plot.marks import marks_on
from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL, OTHER, SCORE_COLOURS
from tests.report.example import ASSOCIATIVE_ID, CONTEXTUAL_ID, make_report

NAN = float("nan")
HOSTILE = "<script>alert(1)</script> & $x$ \x1b[31m\u202e"


def trace_named(fig: Any, start: str) -> Any:
    found = [trace for trace in fig.data if (trace.name or "").startswith(start)]
    assert len(found) == 1, [trace.name for trace in fig.data]
    return found[0]


# ------------------------------------------------------------------------------------- lens


def test_the_lens_figure_holds_the_margin_of_every_state() -> None:
    lens = make_report(n_layers=6).lens
    fig = plot.lens(lens)
    line = trace_named(fig, "logit lens margin")
    np.testing.assert_array_equal(line.x, np.arange(7))
    np.testing.assert_array_equal(line.y, lens.margin)
    assert fig.layout.yaxis.range[0] < lens.margin.min() < 0
    assert fig.layout.yaxis.range[1] > lens.margin.max() > 0


def test_the_side_of_each_state_is_told_by_colour_and_by_symbol() -> None:
    lens = make_report().lens.replace(margin=np.array([0.0, 1.0, 2.0, -1.0, -2.0]))
    marker = trace_named(plot.lens(lens), "logit lens").marker
    assert marker.color == (OTHER, CONTEXTUAL, CONTEXTUAL, ASSOCIATIVE, ASSOCIATIVE)
    assert marker.symbol == ("circle", "circle", "circle", "diamond", "diamond")


def test_the_sides_are_named_and_shaded_above_and_below_zero() -> None:
    report = make_report()
    fig = plot.lens(report.lens, report.trace)
    texts = [note.text for note in fig.layout.annotations]
    assert any("contextual: instrument" in text for text in texts)
    assert any("associative: fish" in text for text in texts)
    zones = {shape.fillcolor: (shape.y0, shape.y1) for shape in fig.layout.shapes}
    low, high = fig.layout.yaxis.range
    assert zones[CONTEXTUAL] == (0, high)
    assert zones[ASSOCIATIVE] == (low, 0)


def test_a_word_is_written_where_it_changes_and_hovering_says_all() -> None:
    lens = make_report().lens
    words = (("the", "a"), ("the", "a"), ("lake", "a"), ("lake", "the"), ("fish", "a"))
    lens = lens.replace(
        top_words=words, top_log_prob=lens.top_log_prob[:, :2], top_ids=lens.top_ids[:, :2]
    )
    line = trace_named(plot.lens(lens), "logit lens")
    assert list(line.text) == ["the", "", "lake", "", "fish"]
    last = line.hovertext[-1]
    for part in ("after block 4 of 4", "LD −2.31 logits", "0.837", "fish", "nats"):
        assert part in last, last


def test_words_of_a_deep_model_are_thinned_and_the_last_one_stays() -> None:
    line = trace_named(plot.lens(make_report(n_layers=80).lens), "logit lens")
    written = [text for text in line.text if text]
    assert 2 <= len(written) <= 9
    assert line.text[-1] == "fish"


def test_words_and_answers_cannot_add_tags_or_formulas_to_a_figure() -> None:
    report = make_report(vocabulary=[HOSTILE + str(i) for i in range(10)])
    for fig in (plot.lens(report.lens, report.trace), plot.top_words(report.lens, report.trace)):
        text = json.dumps(fig.to_plotly_json(), default=lambda value: value.tolist())
        assert "<script>" not in text
        assert "&lt;" in text
        assert "$" not in text
        assert "\\u001b" not in text
        assert "\\u202e" not in text.replace("\\\\u202e", "")


# ------------------------------------------------------------------------------------ marks


def test_marks_stand_at_their_states_with_name_definition_and_interval() -> None:
    report = make_report(n_layers=8)
    marks = Markers(
        (
            Mark("onset", "published (guide) on dss_published", 2.0, 8),
            Mark("inversion", "lens (dst) on margin", 6.0, 8, low=5.5, high=7.25),
        )
    )
    fig = plot.lens(report.lens, marks=marks)
    onset = trace_named(fig, "onset, published (guide) on dss_published")
    inversion = trace_named(fig, "inversion, lens (dst) on margin")
    assert (list(onset.x), list(inversion.x)) == ([2.0], [6.0])
    assert onset.marker.symbol == "triangle-down-open"
    assert inversion.marker.symbol == "diamond"
    assert (list(inversion.error_x.arrayminus), list(inversion.error_x.array)) == ([0.5], [1.25])
    lines = [shape for shape in fig.layout.shapes if shape.type == "line"]
    assert [(shape.x0, shape.x1) for shape in lines] == [(2.0, 2.0), (6.0, 6.0)]
    bands = [shape for shape in fig.layout.shapes if shape.name == "inversion"]
    assert [(shape.x0, shape.x1) for shape in bands] == [(5.5, 7.25)]
    texts = [note.text for note in fig.layout.annotations]
    assert "<b>onset</b>, published (guide) on dss_published" in texts
    assert "<b>inversion</b>, lens (dst) on margin" in texts
    # Rows stand one below the other, beneath the margin.
    assert onset.y[0] > inversion.y[0]
    assert fig.layout.yaxis2.domain[1] <= fig.layout.yaxis.domain[0]


def test_an_absent_mark_is_named_last_with_its_reason_and_has_no_place() -> None:
    absent = Mark("inversion", "lens (dst) on margin", NAN, 4, reason="never contextual")
    there = Mark("commitment", "lens (dst) on margin", 3.0, 4)
    fig = plot.lens(make_report().lens, marks=[absent, there])
    rows = [trace for trace in fig.data if trace.yaxis == "y2"]
    assert [(row.name.split(",")[0], list(row.x)) for row in rows] == [("commitment", [3.0])]
    there_note, absent_note = [note for note in fig.layout.annotations if note.yref == "y2"]
    assert there_note.text == "<b>commitment</b>, lens (dst) on margin"
    assert absent_note.text == "<b>no inversion</b>, lens (dst) on margin"
    assert "never contextual" in absent_note.hovertext
    assert there_note.y > rows[0].y[0] > absent_note.y >= fig.layout.yaxis2.range[0]
    assert [shape.x0 for shape in fig.layout.shapes if shape.type == "line"] == [3.0]


def test_marks_are_told_apart_by_the_score_that_their_definition_names() -> None:
    marks = Markers(
        (
            Mark("onset", "published (guide) on dss_published", 1.0, 4),
            Mark("onset", "lens (dst) on margin", 1.0, 4),
            Mark("onset", "on dss_published_2", 1.0, 4),
        )
    )
    on, others = marks_on(marks, ["dss_published", "cas_published"])
    assert on == [marks.marks[0]]
    assert others == [marks.marks[1], marks.marks[2]]
    assert marks_on(marks, []) == ([], list(marks.marks))


# ------------------------------------------------------------------------------- coherence


def test_every_score_is_drawn_with_its_own_values() -> None:
    coherence = make_report(n_layers=5).coherence
    fig = plot.coherence(coherence)
    for score in coherence.scores:
        line = trace_named(fig, score.name)
        np.testing.assert_array_equal(line.x, np.arange(6))
        np.testing.assert_array_equal(line.y, score.value)
        assert line.connectgaps is False


def test_published_scores_are_dashed_and_open_and_ours_solid_and_filled() -> None:
    fig = plot.coherence(make_report().coherence)
    for name, dash, is_open in (
        ("dss_published", "dash", True),
        ("dss_corrected", "solid", False),
        ("cas_published", "dash", True),
        ("cas_corrected", "solid", False),
    ):
        line = trace_named(fig, name)
        assert line.line.dash == dash
        assert line.marker.symbol.endswith("-open") is is_open


def test_no_two_scores_look_alike() -> None:
    value = np.array([0.1, 0.2])
    names = [f"dss_{i}" for i in range(12)]
    scores = [Score(name, value, 0.2, "share", ("", "")) for name in names]
    fig = plot.coherence(Coherence(tuple(scores)))
    assert {line.yaxis for line in fig.data} == {"y"}
    assert len({(line.line.color, line.marker.symbol) for line in fig.data}) == len(names)


def test_each_family_and_unit_has_its_own_panel() -> None:
    fig = plot.coherence(make_report().coherence)
    axes = [trace_named(fig, name).yaxis for name in make_report().coherence.names]
    assert axes == ["y", "y", "y2", "y3", "y4"]
    panels = [fig.layout[f"yaxis{i}"] for i in ("", 2, 3, 4)]
    for above, below in pairwise(panels):
        assert below.domain[1] < above.domain[0]
    titles = ["dss (share)", "cas (share)", "cas (no unit)", "margin (logits)"]
    assert [panel.title.text for panel in panels] == titles


def test_a_gap_says_why_for_every_score_that_has_it() -> None:
    none = ("", "", "")
    scores = (
        Score("s_a", np.array([NAN, 0.5, 0.5]), 0.5, "share", ("no words", "", "")),
        Score("s_b", np.array([NAN, NAN, 0.5]), 0.5, "share", ("per block", "nothing <yet>", "")),
        Score("s_c", np.array([0.0, 1.0, 2.0]), 2.0, "logits", none),
    )
    fig = plot.coherence(Coherence(scores))
    crosses = trace_named(fig, "undefined")
    assert list(crosses.x) == [0, 1]
    assert "s_a: no words" in crosses.hovertext[0]
    assert "s_b: per block" in crosses.hovertext[0]
    assert "s_b: nothing &lt;yet&gt;" in crosses.hovertext[1]
    assert "s_a:" not in crosses.hovertext[1]
    assert "no words" in trace_named(fig, "s_a").hovertext[0]


def test_one_score_and_no_score_can_be_drawn() -> None:
    score = make_report().coherence["dss_corrected"]
    fig = plot.coherence(score)
    np.testing.assert_array_equal(trace_named(fig, "dss_corrected").y, score.value)
    assert len(plot.coherence(Coherence(())).data) == 0


def test_a_score_that_is_nowhere_defined_is_drawn_as_gaps() -> None:
    score = Score("dss_published", np.full(3, NAN), NAN, "logits", ("no concept words",) * 3)
    fig = plot.coherence(score)
    assert list(trace_named(fig, "undefined").x) == [0, 1, 2]
    assert not any(trace.showlegend for trace in fig.data)
    assert np.isfinite(fig.layout.yaxis.range).all()


def test_marks_of_the_scores_share_their_axis_of_states() -> None:
    report = make_report(n_layers=8)
    fig = plot.coherence(report.coherence, report.markers)
    names = {mark.name for mark in report.markers.marks}
    rows = [trace for trace in fig.data if trace.name.split(",")[0] in names]
    assert [list(row.x) for row in rows] == [
        [mark.state] for mark in report.markers.marks if not mark.reason
    ]
    assert len(rows) == 10
    assert {row.xaxis for row in rows} == {"x"}
    assert all(trace.xaxis in (None, "x") for trace in fig.data)


# -------------------------------------------------------------------------- words, residual


def test_the_table_of_words_holds_their_probabilities() -> None:
    report = make_report()
    fig = plot.top_words(report.lens, report.trace)
    (table,) = fig.data
    np.testing.assert_allclose(table.z, np.exp(report.lens.top_log_prob), rtol=1e-12)
    assert fig.layout.yaxis.autorange == "reversed"
    for i, row in enumerate(report.lens.top_ids):
        for k, token in enumerate(row):
            mark = {CONTEXTUAL_ID: "● ", ASSOCIATIVE_ID: "◆ "}.get(int(token), "")
            assert table.text[i][k] == mark + report.lens.top_words[i][k]
    assert "●" not in str(plot.top_words(report.lens).data[0].text)


def test_norms_are_those_of_right_triangles() -> None:
    report = make_report(n_layers=2, prompt="bass concert a", subject="bass", cue="concert")
    shape = (3, 3, 2)
    resid = np.zeros(shape)
    resid[:, 2] = [(3, 4), (6, 8), (5, 12)]
    resid[1, 0] = (0, 100)
    attn, mlp = np.zeros((2, 3, 2)), np.zeros((2, 3, 2))
    attn[:, 2], mlp[:, 2] = [(8, 15), (7, 24)], [(9, 40), (0, 2)]
    fig = plot.residual(report.trace.replace(resid=resid, attn_out=attn, mlp_out=mlp))
    for name, x, y in (
        ("residual", [0, 1, 2], [5, 10, 13]),
        ("attention", [1, 2], [17, 25]),
        ("MLP", [1, 2], [41, 2]),
    ):
        line = trace_named(fig, name)
        assert list(line.x) == x
        np.testing.assert_allclose(line.y, y)
    table = next(trace for trace in fig.data if trace.type == "heatmap")
    np.testing.assert_allclose(np.array(table.z)[:, 2], np.log10([5, 10, 13]))
    assert table.z[1][0] == 2
    assert np.isnan(table.z[0][0])  # a residual of norm 0 has no logarithm
    assert "norm 10.00" in table.hovertext[1][2]
    assert list(fig.layout.xaxis2.ticktext) == ["bass", "concert", "a"]


def test_ticks_of_a_long_prompt_are_picked() -> None:
    tokens = ["bass", "concert", *(f"w{i}" for i in range(200)), "a"]
    report = make_report(prompt=" ".join(tokens))
    ticks = plot.residual(report.trace).layout.xaxis2
    assert len(ticks.tickvals) <= 41
    assert [tokens[i] for i in ticks.tickvals] == list(ticks.ticktext)


# ----------------------------------------------------------------------------- the theme


def luminance(colour: str) -> float:
    """Relative luminance of an ``#rrggbb`` colour, as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("background", ["#FFFFFF", "#1E2126"])
def test_every_colour_stands_out_on_light_and_on_dark(background: str) -> None:
    for colour in {CONTEXTUAL, ASSOCIATIVE, OTHER, *SCORE_COLOURS}:
        light, dark = sorted((luminance(colour), luminance(background)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, (colour, background)


@pytest.mark.parametrize("n_layers", [1, 4, 12, 28, 61, 126])
def test_the_axis_names_the_embedding_and_at_most_thirteen_blocks(n_layers: int) -> None:
    axis = plot.lens(make_report(n_layers=n_layers).lens).layout.xaxis
    assert axis.ticktext[0] == "emb"
    assert list(axis.ticktext[1:]) == [str(state) for state in axis.tickvals[1:]]
    assert 1 <= len(axis.ticktext[1:]) <= 13
    assert axis.range[0] < 0
    assert axis.range[1] > n_layers


def test_drawing_changes_neither_the_results_nor_plotlys_default() -> None:
    import plotly.io as pio

    before = pio.templates.default
    report = make_report()
    margin = report.lens.margin.copy()
    plot.lens(report.lens, report.trace, report.markers)
    plot.coherence(report.coherence, report.markers)
    plot.top_words(report.lens, report.trace)
    plot.residual(report.trace)
    assert report.pathways is not None
    assert report.repairs is not None
    assert report.attribution is not None
    plot.pathways(report.pathways)
    plot.repairs(report.repairs)
    plot.attribution(report.attribution)
    assert pio.templates.default == before
    np.testing.assert_array_equal(report.lens.margin, margin)
    assert report.lens.margin.flags.writeable


def test_plotly_is_loaded_by_the_first_figure_only() -> None:
    code = "import sys, dst.plot, dst.report.terminal; print('plotly' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert set(plot.__all__) <= set(dir(plot))
    with pytest.raises(AttributeError, match="has no figure 'histogram'"):
        _ = plot.histogram
