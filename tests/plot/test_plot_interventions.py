"""Figures of what was changed in a run: flows, repairs, components, cuts. Their exact numbers."""

from __future__ import annotations

import json
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from dst import plot
from dst.core.results import CutEffects, Mark, Pathways, Provenance
from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL, OTHER
from dst.plot.panels import stacked, state_ranges
from dst.plot.theme import template
from tests.report.example import NAN, make_attribution, make_pathways, make_repairs, make_report

HOSTILE = "<script>alert(1)</script> & $x$ \x1b[31m\u202e"
ROLES = ("rest", "cue", "relay", "subject_1", "relay", "answer")


def paths_of(n_layers: int = 4, roles: tuple[str, ...] = ROLES) -> Pathways:
    """Flows whose every number is different, three draws of context and two of association."""
    made = make_pathways(roles, n_layers, -2.0)
    rng = np.random.default_rng(3)
    tables = {
        f"{flow}_{way}": rng.normal(size=(draws, n_layers + 1, len(made.roles)))
        for flow, draws in (("contextual", 3), ("associative", 2))
        for way in ("removal", "insertion")
    }
    return made.replace(**tables)


def named(fig: Any, name: str) -> Any:
    (found,) = [trace for trace in fig.data if trace.name == name]
    return found


def texts(fig: Any) -> list[str]:
    """What stands in a figure, its lines joined."""
    return [note.text.replace("<br>", " ") for note in fig.layout.annotations]


def shapes(fig: Any, name: str) -> list[Any]:
    return [shape for shape in fig.layout.shapes if shape.name == name]


def written(fig: Any) -> str:
    return json.dumps(fig.to_plotly_json(), default=lambda value: value.tolist())


# -------------------------------------------------------------------------------- two pathways


def test_the_flows_at_the_answer_are_means_of_the_draws_that_are_drawn_thin() -> None:
    paths = paths_of()
    fig = plot.pathways(paths)
    for flow, colour, symbol in (
        ("contextual", CONTEXTUAL, "circle"),
        ("associative", ASSOCIATIVE, "diamond"),
    ):
        draws = getattr(paths, f"{flow}_insertion")[:, :, -1]
        shown = f"{flow} {draws.mean(axis=0)[-1]:.2f}".replace("-", "−")
        line = named(fig, shown)
        np.testing.assert_array_equal(line.x, np.arange(5))
        np.testing.assert_array_equal(line.y, draws.mean(axis=0))
        assert (line.line.color, line.marker.symbol) == (colour, symbol)
        thin = named(fig, f"{flow}, each draw")
        kept = np.asarray(thin.y, dtype=float).reshape(len(draws), 6)
        np.testing.assert_array_equal(kept[:, :5], draws)
        assert np.isnan(kept[:, 5]).all()  # a gap between draws
        assert list(thin.x) == [0, 1, 2, 3, 4, None] * len(draws)
        assert thin.connectgaps is False


def test_the_answer_s_column_is_found_by_its_name() -> None:
    paths = paths_of()
    turned = paths.replace(
        roles=paths.roles[::-1],
        positions=paths.positions[::-1],
        contextual_insertion=paths.contextual_insertion[:, :, ::-1],
        associative_insertion=paths.associative_insertion[:, :, ::-1],
    )
    one, two = plot.pathways(paths), plot.pathways(turned)
    for at in (0, 1, 2, 3):
        np.testing.assert_array_equal(np.asarray(one.data[at].y), np.asarray(two.data[at].y))


def test_the_floors_are_shaded_around_zero() -> None:
    fig = plot.pathways(paths_of().replace(contextual_floor=0.25, associative_floor=0.75))
    for flow, floor, colour in (
        ("contextual", 0.25, CONTEXTUAL),
        ("associative", 0.75, ASSOCIATIVE),
    ):
        (band,) = shapes(fig, f"{flow} floor")
        assert (band.y0, band.y1, band.yref, band.fillcolor) == (-floor, floor, "y", colour)


def test_the_maps_hold_the_mean_removal_of_every_role_and_state() -> None:
    paths = paths_of()
    fig = plot.pathways(paths)
    for flow in ("contextual", "associative"):
        table = named(fig, f"{flow} removal")
        mean = getattr(paths, f"{flow}_removal").mean(axis=0)
        np.testing.assert_array_equal(np.asarray(table.z), mean.T)
        axis = fig.layout[f"yaxis{table.yaxis[1:]}"]
        assert list(axis.ticktext) == list(paths.roles)
        assert axis.range[0] > axis.range[1]  # the prompt's order runs down to the answer
        assert list(table.x) == [0, 1, 2, 3, 4]
    assert fig.layout.coloraxis.cmax == -fig.layout.coloraxis.cmin
    both = np.concatenate(
        [np.ravel(named(fig, f"{f} removal").z) for f in ("contextual", "associative")]
    )
    assert fig.layout.coloraxis.cmax == np.abs(both).max()


def test_blue_is_toward_the_context_and_vermillion_toward_the_association() -> None:
    fig = plot.pathways(paths_of())
    assert fig.layout.coloraxis.autocolorscale is True  # of the template, light or dark
    for scheme in ("any", "light", "dark"):
        scale = template(scheme).layout.colorscale.diverging
        assert [at for at, _ in scale] == [0, 0.5, 1]
    light = [colour for _, colour in template("light").layout.colorscale.diverging]
    assert (light[0], light[2]) == (ASSOCIATIVE, CONTEXTUAL)


def test_a_number_is_written_where_a_removal_is_above_its_floor() -> None:
    removal = np.zeros((2, 3, 2))
    removal[:, 0, 0], removal[:, 1, 1], removal[:, 2, 1] = 2.04, -0.5, 0.49
    paths = make_pathways(("cue", "answer"), 2, -2.0).replace(
        contextual_removal=removal, contextual_insertion=removal, contextual_floor=0.5
    )
    table = named(plot.pathways(paths), "contextual removal")
    assert [list(row) for row in table.text] == [["2.0", "", ""], ["", "−0.5", ""]]
    assert table.texttemplate == "%{text}"
    deep = named(plot.pathways(make_pathways(("cue", "answer"), 30, -2.0)), "contextual removal")
    assert deep.texttemplate == ""


def test_hovering_a_cell_says_removal_insertion_draws_and_control() -> None:
    paths = make_pathways(ROLES, 4, -2.0)
    removal, insertion = np.zeros((2, 5, 5)), np.zeros((2, 5, 5))
    removal[:, 1, 1], insertion[:, 1, 1] = (1.0, 3.0), (0.25, 0.75)
    paths = paths.replace(contextual_removal=removal, contextual_insertion=insertion)
    fig = plot.pathways(paths)
    cell = named(fig, "contextual removal").hovertext[1][1]
    assert cell.split("<br>") == [
        "<b>cue</b> (position 1), after block 1",
        "removal 2.00 logits (95 % of draws 1.05 to 2.95)",
        "insertion 0.50 logits (95 % of draws 0.26 to 0.74)",
        "floor 0.20",
        "control, one neutral draw for another: 0.07",
    ]
    assert "(positions 2, 4)" in named(fig, "contextual removal").hovertext[2][0]
    assert "control" not in named(fig, "associative removal").hovertext[1][1]


def test_one_draw_is_said_to_be_one_and_has_no_thin_line() -> None:
    made = make_pathways(ROLES, 4, -2.0)
    tables = {
        f"{flow}_{way}": getattr(made, f"{flow}_{way}")[:1]
        for flow in ("contextual", "associative")
        for way in ("removal", "insertion")
    }
    paths = made.replace(**tables, draw_against_draw=np.full((5, 5), NAN))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = plot.pathways(paths)
    assert not any("each draw" in trace.name for trace in fig.data)
    cell = named(fig, "contextual removal").hovertext[1][1]
    assert "(one draw)" in cell
    assert "control" not in cell


def test_arrival_and_handover_stand_in_rows_with_their_intervals() -> None:
    paths = make_pathways(ROLES, 6, -2.0)
    fig = plot.pathways(paths)
    arrival = named(fig, "arrival, contextual flow at answer")
    assert (list(arrival.x), arrival.yaxis) == ([5.0], "y2")
    assert list(arrival.error_x.arrayminus) == [0.5]
    assert named(fig, "handover, associative flow at answer").marker.symbol == "hexagon"
    # Marks at sources are in the maps; only those at the answer have a row.
    rows = [trace for trace in fig.data if trace.yaxis == "y2"]
    assert len(rows) == 4
    tops = [fig.layout[f"yaxis{i}"].domain for i in ("", 2, 3, 4)]
    for above, below in pairwise(tops):
        assert below[1] <= above[0]


def test_a_flow_that_never_arrives_is_named_with_its_reason() -> None:
    why = "the total is under the floor (0.10 < 0.20 logits)"
    paths = make_pathways(ROLES, 4, -2.0)
    marks = (Mark("arrival", "contextual flow at answer", NAN, 4, reason=why),)
    fig = plot.pathways(paths.replace(marks=marks))
    (note,) = [note for note in fig.layout.annotations if note.yref == "y2"]
    assert note.text == "<b>no arrival</b>, contextual flow at answer"
    assert "0.10 &lt; 0.20" in note.hovertext
    assert plot.pathways(paths.replace(marks=())).layout.xaxis.anchor == "y"


def test_redundancy_and_cancellation_are_said_above_the_map() -> None:
    paths = make_pathways(ROLES, 6, -2.0)
    plain = " ".join(texts(plot.pathways(paths)))
    assert "Redundant" not in plain
    assert "Cancelled" not in plain
    redundant = np.array([False, True, True, True, False, True, False])
    said = " ".join(texts(plot.pathways(paths.replace(redundant=redundant, cancelled=True))))
    assert "Redundant at state 1 to 3, 5: no single role is needed" in said
    assert "Cancelled: parts of it are above its floor, their sum is not." in said


def test_names_of_roles_cannot_add_tags_or_formulas() -> None:
    paths = paths_of(roles=("cue", HOSTILE, "answer"))
    fixes = make_repairs(4, -2.0)
    fixes = fixes.replace(
        names=(HOSTILE, "remove cue"),
        commitments=tuple(mark.replace(definition=f"causal, {HOSTILE}", reason=HOSTILE, state=NAN)
                          for mark in fixes.commitments),
    )  # fmt: skip
    parts = make_attribution(2, -2.0)
    parts = parts.replace(components=(HOSTILE,) * len(parts.components))
    effects = cut_effects().replace(sources=(HOSTILE, "cue"))
    for fig in (
        plot.pathways(paths),
        plot.repairs(fixes),
        plot.attribution(parts),
        plot.cuts(effects),
    ):
        text = written(fig)
        assert "<script>" not in text
        assert "&lt;" in text
        assert "$" not in text
        assert "\\u001b" not in text
        assert "\\u202e" not in text.replace("\\\\u202e", "")


# ------------------------------------------------------------------------------------- repairs


def test_each_repair_has_a_panel_with_its_run_and_its_control() -> None:
    fixes = make_repairs(5, -2.0)
    fig = plot.repairs(fixes)
    for i, axis in enumerate(("y", "y2")):
        here = [t for t in fig.data if (t.yaxis or "y") == axis]
        control, repaired = [t for t in here if t.name in ("control", "repaired")]
        np.testing.assert_array_equal(repaired.y, fixes.patched[i])
        np.testing.assert_array_equal(control.y, fixes.control[i])
        assert (control.line.dash, repaired.line.dash) == ("dash", "solid")
        assert all(symbol.endswith("-open") for symbol in control.marker.symbol)
        sides = [CONTEXTUAL if value > 0 else ASSOCIATIVE for value in fixes.patched[i]]
        assert list(repaired.marker.color) == sides
        wanted = ["circle" if value > 0 else "diamond" for value in fixes.patched[i]]
        assert list(repaired.marker.symbol) == wanted
    assert fig.layout.yaxis2.domain[1] < fig.layout.yaxis.domain[0]
    assert fig.layout.yaxis.range == fig.layout.yaxis2.range  # panels can be compared
    assert sum(trace.showlegend is not False for trace in fig.data) == 2


def test_the_commitment_is_a_line_with_its_interval_in_its_own_panel() -> None:
    fig = plot.repairs(make_repairs(5, -2.0))
    lines = shapes(fig, "commitment")
    assert [(s.type, s.x0, s.x1, s.yref) for s in lines] == [
        ("line", 2.0, 2.0, "y domain"),
        ("rect", 1.0, 2.0, "y domain"),
    ]
    mark = named(fig, "commitment, causal, de-prime")
    assert (list(mark.x), mark.marker.symbol) == ([2.0], "square")
    for part in ("causal, de-prime", "after block 2 of 5", "interval 1 to 2", "floor = 0.5"):
        assert part in mark.hovertext[0]
    floors = shapes(fig, "floor")
    assert {(s.yref, s.y0, s.y1, s.fillcolor) for s in floors} == {
        ("y", -0.5, 0.5, OTHER),
        ("y2", -0.5, 0.5, OTHER),
    }
    heads = texts(fig)
    assert "<b>de-prime</b> committed from state 2 (1 to 2 over draws)" in heads
    assert "<b>remove cue</b> no commitment: nothing to break: no success" in heads


def test_a_repair_that_a_case_does_not_have_is_named_with_its_reason() -> None:
    fixes = make_repairs(4, -2.0)
    fig = plot.repairs(fixes)
    assert "no restore cue: no clean variant of equal length" in texts(fig)
    all_there = fixes.replace(commitments=(fixes.commitments[0], fixes.commitments[2]))
    assert not any(text.startswith("no ") for text in texts(plot.repairs(all_there)))
    none = fixes.replace(names=(), patched=np.zeros((0, 5)), control=np.zeros((0, 5)))
    said = " ".join(texts(plot.repairs(none)))
    assert "no de-prime" in said


# --------------------------------------------------------------------------------- attribution


def test_the_largest_components_are_paired_bars_in_order_of_size() -> None:
    parts = make_attribution(4, -2.0)
    fig = plot.attribution(parts, k=5)
    size = np.maximum(abs(parts.contextual), abs(parts.associative))
    wanted = np.argsort(-size)[:5]
    assert list(fig.layout.yaxis.ticktext) == [parts.components[i] for i in wanted]
    assert list(fig.layout.yaxis.ticktext)[:2] == ["mlp 0", "head 0.1"]
    for part, pattern in (("contextual", ""), ("associative", "/")):
        bars = named(fig, f"{part} part")
        np.testing.assert_array_equal(bars.x, getattr(parts, part)[wanted])
        assert bars.marker.pattern.shape == pattern  # told apart without colour too
        assert bars.orientation == "h"
    assert "5 of 20 components" in texts(fig)[0]
    hover = named(fig, "contextual part").hovertext[0]
    i = int(wanted[0])
    for part in ("contextual", "associative", "base"):
        assert f"{part} {getattr(parts, part)[i]:.3f}".replace("-", "−") in hover
    assert f"all three {parts.total[i]:.3f}".replace("-", "−") in hover


def test_what_is_hardly_there_is_left_out() -> None:
    parts = make_attribution(1, -2.0)
    n = len(parts.components)
    contextual, associative = np.zeros(n), np.zeros(n)
    contextual[1], associative[2], contextual[3] = 5.0, -0.06, 0.04
    fig = plot.attribution(parts.replace(contextual=contextual, associative=associative))
    assert list(fig.layout.yaxis.ticktext) == [parts.components[1], parts.components[2]]
    nothing = parts.replace(contextual=np.zeros(n), associative=np.zeros(n))
    assert list(plot.attribution(nothing).layout.yaxis.ticktext) == []


def test_the_parts_add_up_over_depth_to_the_contrast() -> None:
    parts = make_attribution(3, -2.0)
    fig = plot.attribution(parts)
    last = 0.0
    for part in ("contextual", "associative", "base"):
        (line,) = [t for t in fig.data if t.name.startswith(f"{part} ") and t.type == "scatter"]
        values = getattr(parts, part)
        by_hand = [values[:1].sum(), values[:5].sum(), values[:9].sum(), values.sum()]
        np.testing.assert_allclose(line.y, by_hand, atol=1e-12)
        assert list(line.x) == [0, 1, 2, 3]
        last += line.y[-1]
    assert last == pytest.approx(-2.0)


# ---------------------------------------------------------------------------------------- cuts


def cut_effects() -> CutEffects:
    return CutEffects(
        sources=("cue", "subject"),
        all_layers=np.array([5.4, -1.0]),
        one_layer=np.array([[0.1, 5.0, 0.3], [-0.9, 0.0, 0.05]]),
        up_to_layer=np.array([[0.1, 5.2, 5.4], [-0.9, -1.0, -1.0]]),
        control=np.array([[0.2, -0.1, 0.05, 0.0], [NAN, NAN, NAN, NAN]]),
        provenance=Provenance(),
    )


def test_cuts_of_each_source_are_bars_per_block_and_a_line_up_to_it() -> None:
    effects = cut_effects()
    fig = plot.cuts(effects)
    for i, axis in enumerate(("y", "y2")):
        bars, line = [t for t in fig.data if (t.yaxis or "y") == axis]
        assert (bars.type, line.type) == ("bar", "scatter")
        np.testing.assert_array_equal(bars.y, effects.one_layer[i])
        np.testing.assert_array_equal(line.y, effects.up_to_layer[i])
        assert list(bars.x) == list(line.x) == [1, 2, 3]
    assert "cut in blocks 1 to 2<" in fig.data[1].hovertext[1]
    assert [(s.yref, s.y0, s.y1) for s in shapes(fig, "control")] == [("y", -0.1, 0.2)]
    cue, subject = texts(fig)
    assert cue.endswith("in every block: 5.40 as many random keys: −0.10 to 0.20")
    assert subject.endswith("in every block: −1.00 no other keys to compare with")


# -------------------------------------------------------------------------------------- panels


def test_panels_stand_below_each_other_with_their_gaps() -> None:
    domains = stacked([100, 50, 40], [0, 10, 0])
    assert domains == [(0.5, 1.0), (0.2, 0.45), (0.0, 0.2)]
    assert stacked([], []) == []


@pytest.mark.parametrize(
    ("states", "text"),
    [([], ""), ([3], "3"), ([1, 2, 3], "1 to 3"), ([7, 1, 2, 4], "1 to 2, 4, 7")],
)
def test_states_are_told_in_few_words(states: list[int], text: str) -> None:
    assert state_ranges(states) == text


@pytest.mark.parametrize("n_layers", [1, 4, 80])
def test_every_depth_can_be_drawn(n_layers: int) -> None:
    report = make_report(n_layers=n_layers)
    assert report.pathways is not None
    assert report.repairs is not None
    assert report.attribution is not None
    for fig in (
        plot.pathways(report.pathways),
        plot.repairs(report.repairs),
        plot.attribution(report.attribution),
    ):
        heights = [fig.layout[axis].domain for axis in fig.layout if axis.startswith("yaxis")]
        assert all(0 <= low < high <= 1 for low, high in heights)
