"""Figures of semantic maps: every number of the result, no arrow that is not an edge."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dst import plot
from dst.core.errors import InputError
from dst.core.importance_results import ConceptImportance
from dst.core.map_results import SemanticMap
from dst.core.position_results import PositionEffects
from dst.core.published_map_results import PublishedMap
from dst.core.results import Provenance
from dst.plot.map_drawing import LOWERS, RAISES, SIDE_COLOURS
from dst.plot.map_layout import columns, crossings, rows, spread

NAN = float("nan")
HOSTILE = "<script>alert(1)</script> & $x$ \x1b[31m\u202e"
WORDS = ("instrument", "fish", "choir", "blue")
PROB = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.25, 0.125, 0.0625], [0.3, 0.6, 0.05, 0.01]])


def places(**fields: Any) -> PositionEffects:
    """Two tokens, states 0 and 1, read at the output; three effects have q under .05."""
    effects = np.zeros((1, 2, 2, 2))
    effects[0, 0, 0] = [1.5, -0.25]  # "opera" at state 0 on Choir and fish
    effects[0, 1, 0] = [0.75, 0.125]  # ... at state 1
    effects[0, 1, 1] = [3.0, 2.0]  # "is": not significant
    q = np.array([[[[0.01, 0.02], [NAN, NAN]], [[0.03, 0.4], [0.2, 0.3]]]])
    return PositionEffects(
        **{
            "form": "state",
            "lens": "logit_lens",
            "tokens": (" opera", " is"),
            "roles": ("cue", "answer"),
            "words": ("Choir", "fish"),
            "word_tokens": (" choir", " fish"),
            "states": np.array([0, 1]),
            "reads": np.array([2]),
            "effects": effects,
            "control": np.full((1, 2, 2, 2), 0.0625),
            "p": q / 2,
            "q": q,
            "differing": np.array([[8, 0], [8, 8]]),
            "draws": 8,
            "notes": (),
            "provenance": Provenance(),
            **fields,
        }
    )


def semantic_map(**fields: Any) -> SemanticMap:
    """Two blocks; edges: choir -> instrument after block 1, fish -> choir from the embedding on.

    Blue is a node of the embedding alone. Of fish -> choir the first hop is not significant, so
    that it is an edge to the output only.
    """
    effects = np.zeros((2, 2, 4, 4))
    q = np.full((2, 2, 4, 4), 0.5)
    effects[0, 0, 2, 0], q[0, 0, 2, 0] = 0.5, 0.001  # choir -> instrument, emb to 1
    effects[1, 0, 2, 0], q[1, 0, 2, 0] = 0.25, 0.002  # ... and to the output
    effects[0, 0, 1, 2], q[0, 0, 1, 2] = 0.1, 0.3
    effects[1, 0, 1, 2], q[1, 0, 1, 2] = -1.0, 0.01  # fish -> choir, emb to the output
    effects[0, 1, 2, 0], q[0, 1, 2, 0] = 0.125, 0.04  # choir -> instrument, 1 to 2
    effects[:, 1, 1, 0] = 0.75  # large, but nothing beside its controls
    node = np.ones((3, 4), dtype=bool)
    node[1:, 3] = False
    untested = np.zeros((2, 2, 4, 4), dtype=bool)
    untested[:, :, range(4), range(4)] = True
    untested[:, :, :, 3] = True
    untested[:, 1, 3, :] = True
    effects[untested], q[untested] = NAN, NAN
    return SemanticMap(
        **{
            "lens": "tuned_lens",
            "words": WORDS,
            "side": ("contextual", "associative", "contextual", "other"),
            "given": np.array([True, True, True, False]),
            "answer": np.array([True, True, False, False]),
            "score": np.log(PROB),
            "node": node,
            "states": np.array([0, 1]),
            "hops": ("+1", "output"),
            "hop_states": np.array([[1, 2], [2, 2]]),
            "effects": effects,
            "control": np.where(untested, NAN, 0.03125),
            "p": q / 4,
            "q": q,
            "moved": np.array([[0.5, -0.5, 2.0, 1.0], [0.25, 0.125, 1.0, NAN]]),
            "donor": "neutral",
            "controls": 20,
            "provenance": Provenance(),
            **fields,
        }
    )


def named(fig: Any, name: str) -> Any:
    (found,) = [trace for trace in fig.data if trace.name == name]
    return found


def arrows(fig: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for trace in fig.data:
        if trace.customdata is not None and trace.mode == "lines+markers":
            found.setdefault(trace.name, []).append(trace)
    return found


def said(fig: Any) -> str:
    return " ".join(note.text.replace("<br>", " ") for note in fig.layout.annotations)


def node_at(fig: Any, side: str, x: float, y: float) -> str:
    trace = named(fig, side)
    (hover,) = [
        text
        for a, b, text in zip(trace.x, trace.y, trace.hovertext, strict=True)
        if (a, b) == (x, y)
    ]
    return str(hover)


# -- one state -----------------------------------------------------------------------------------


def test_one_state_draws_its_edges_and_no_other() -> None:
    fig = plot.semantic_map(semantic_map(), 0)
    found = arrows(fig)
    assert set(found) == {"choir → instrument", "fish → choir"}
    (raises,), (lowers,) = found["choir → instrument"], found["fish → choir"]
    assert (raises.customdata[0], lowers.customdata[0]) == (0.5, -1.0)
    assert (raises.line.color, raises.line.dash) == (RAISES, "solid")
    assert (lowers.line.color, lowers.line.dash) == (LOWERS, "9px,4px")
    # widths are linear in the effect, from 1 to 7
    assert (raises.line.width, lowers.line.width) == (4.0, 7.0)
    assert "2 of 9 effects have q under 0.05" in said(fig)


def test_an_arrow_goes_from_its_cause_to_its_effect() -> None:
    fig = plot.semantic_map(semantic_map(), 0)
    contextual, associative = named(fig, "contextual"), named(fig, "associative")
    where = dict(zip(contextual.text, zip(contextual.x, contextual.y, strict=True), strict=True))
    (lowers,) = arrows(fig)["fish → choir"]
    assert (lowers.x[0], lowers.y[0]) == (associative.x[0], associative.y[0])
    assert (lowers.x[-1], lowers.y[-1]) == where["choir"]
    assert lowers.marker.symbol == "arrow"
    assert lowers.marker.size[-1] > 0
    assert set(lowers.marker.size[:-1]) == {0.0}
    # contextual left, associative right, others between
    assert (set(contextual.x), set(associative.x), set(named(fig, "other").x)) == ({0}, {2}, {1})


def test_sides_differ_by_colour_and_symbol_and_size_is_probability() -> None:
    fig = plot.semantic_map(semantic_map(), 0)
    symbols = {side: named(fig, side).marker.symbol[0] for side in SIDE_COLOURS}
    assert symbols == {"contextual": "circle", "associative": "diamond", "other": "square"}
    assert len({named(fig, side).marker.color for side in SIDE_COLOURS}) == 3
    size = dict(
        zip(named(fig, "contextual").text, named(fig, "contextual").marker.size, strict=True)
    )
    # area beyond the smallest goes with the probability
    assert ((size["choir"] - 9) / (size["instrument"] - 9)) ** 2 == pytest.approx(3.0)


def test_hovering_says_every_hop_with_its_control_and_q() -> None:
    fig = plot.semantic_map(semantic_map(), 0)
    (lowers,) = arrows(fig)["fish → choir"]
    for part in ("fish → choir", "moved at the embedding",
                 "after block 1: +0.100 logits, control +0.031, q 0.300",
                 "after block 2: −1.000 logits, control +0.031, q 0.010"):  # fmt: skip
        assert part in lowers.hovertext
    contextual = named(fig, "contextual")
    hover = contextual.hovertext[contextual.text.index("choir")]
    assert "choir</b> (contextual, given), embedding" in hover
    assert "probability 0.30 (tuned_lens)" in hover
    assert "moved by 2.000" in hover


def test_the_rate_is_the_maps_or_the_one_given() -> None:
    assert set(arrows(plot.semantic_map(semantic_map(), 0, q=0.005))) == {"choir → instrument"}
    wide = arrows(plot.semantic_map(semantic_map(), 0, q=0.4))
    (fish,) = wide["fish → choir"]
    assert fish.customdata[0] == 0.1  # now the first hop is kept
    assert not arrows(plot.semantic_map(semantic_map(rate=0.0005), 0))


def test_without_an_edge_the_figure_says_so_and_shows_others_only_if_asked() -> None:
    none = semantic_map(rate=0.0001)
    fig = plot.semantic_map(none, 0)
    assert not arrows(fig)
    assert "no arrow: none of 9 effects has q under 0" in said(fig)
    assert "not significant" not in {trace.name for trace in fig.data}
    asked = plot.semantic_map(none, 0, strongest=1)
    ((name, (weak,)),) = arrows(asked).items()
    assert (name, weak.customdata[0], weak.line.dash) == ("fish → choir", -1.0, "2px,5px")
    assert "control directions do as much" in weak.hovertext
    assert "dotted: the 1 largest others, not significant" in said(asked)
    assert named(asked, "not significant").line.dash == "2px,5px"


def test_the_last_state_has_concepts_and_no_arrow() -> None:
    fig = plot.semantic_map(semantic_map(), 2)
    assert not arrows(fig)
    assert "no concept was moved here" in said(fig)
    assert set(named(fig, "contextual").text) == {"instrument", "choir"}


def test_few_words_and_few_arrows_if_asked() -> None:
    fig = plot.semantic_map(semantic_map(), 0, k=1, most=1)
    assert set(arrows(fig)) == {"fish → choir"}
    assert "drawn: the 1 largest" in said(fig)
    assert "the 2 likeliest of 4" in said(fig)  # both ends of the arrow stay


def test_a_target_that_is_no_node_here_is_open() -> None:
    node = np.ones((3, 4), dtype=bool)
    node[0, 0] = False
    contextual = named(plot.semantic_map(semantic_map(node=node), 0), "contextual")
    symbols = dict(zip(contextual.text, contextual.marker.symbol, strict=True))
    assert symbols == {"instrument": "circle-open", "choir": "circle"}


@pytest.mark.parametrize("arguments", [{"state": 3}, {"state": -1}, {"q": 0.0}, {"q": 1.5}])
def test_a_state_or_rate_that_is_not_there_is_an_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        plot.semantic_map(semantic_map(), **arguments)


# -- through the layers --------------------------------------------------------------------------


def test_layers_are_columns_and_arrows_join_states() -> None:
    fig = plot.semantic_map(semantic_map())
    row = dict(zip(fig.layout.yaxis.ticktext, fig.layout.yaxis.tickvals, strict=True))
    assert set(row) == set(WORDS)
    found = arrows(fig)
    ends = {
        (name, trace.x[0], trace.x[-1], trace.customdata[0])
        for name, traces in found.items()
        for trace in traces
    }
    assert ends == {
        ("choir → instrument", 0, 1, 0.5),
        ("choir → instrument", 1, 2, 0.125),
        ("fish → choir", 0, 2, -1.0),
    }
    (lowers,) = found["fish → choir"]
    assert (lowers.y[0], lowers.y[-1]) == (row["fish"], row["choir"])
    assert "moved by 1.000" in node_at(fig, "contextual", 1, row["choir"])
    assert list(named(fig, "other").x) == [0]  # blue is a node of the embedding alone
    # contextual above, others between, associative below
    assert row["choir"] < row["blue"] < row["fish"]


def test_the_slider_shows_what_was_moved_at_each_state() -> None:
    fig = plot.semantic_map(semantic_map(positions=places()))
    (slider,) = fig.layout.sliders
    assert [step.label for step in slider.steps] == ["all", "emb", "1"]
    for step, state in zip(slider.steps[1:], (0, 1), strict=True):
        shown = step.args[0]["visible"]
        assert len(shown) == len(fig.data)
        for trace, visible in zip(fig.data, shown, strict=True):
            if trace.customdata is not None and trace.mode == "lines+markers":
                assert visible == (trace.x[0] == state)
            else:
                assert visible  # nodes and the legend stay
    assert slider.steps[0].args[0]["visible"] == [trace.visible is not False for trace in fig.data]


def test_the_prompts_places_are_a_second_layer() -> None:
    found = semantic_map(positions=places())
    fig = plot.semantic_map(found)
    row = dict(zip(fig.layout.yaxis.ticktext, fig.layout.yaxis.tickvals, strict=True))
    assert "opera · cue" in row
    assert "is · answer" not in row  # its effects do not stand out
    edges = arrows(fig)
    first, later = edges["opera → Choir"]  # the one of state 1 is shown by the slider alone
    assert {(a.x[0], a.x[-1], a.customdata[0], a.visible) for a in (first, later)} == {
        (0, 2, 1.5, True),
        (1, 2, 0.75, False),
    }
    (to_fish,) = edges["opera → fish"]
    assert (to_fish.y[0], to_fish.y[-1]) == (row["opera · cue"], row["fish"])
    assert (to_fish.line.color, to_fish.customdata[0]) == (LOWERS, -0.25)
    assert "cue, position 0" in to_fish.hovertext
    assert "−0.250 logits, one draw for another 0.062, q 0.020" in to_fish.hovertext
    assert "their 2 largest effects with q under 0.05" in said(fig)
    assert "brought by opera (cue), at the embedding: +1.500, q 0.010" in node_at(
        fig, "contextual", 2, row["choir"]
    )
    assert "brought by" not in node_at(fig, "contextual", 2, row["instrument"])


def test_places_without_an_effect_are_said_so() -> None:
    none = places(q=np.full((1, 2, 2, 2), 0.9), p=np.full((1, 2, 2, 2), 0.9))
    fig = plot.semantic_map(semantic_map(positions=none))
    assert "no word of the prompt has an effect with q under 0.05" in said(fig)
    assert set(arrows(fig)) == {"choir → instrument", "fish → choir"}


# -- rivers --------------------------------------------------------------------------------------


def test_rivers_are_ranks_or_probabilities() -> None:
    found = semantic_map()
    fig = plot.concept_rivers(found)
    assert list(named(fig, "instrument").y) == [4, 1, 2]
    assert list(named(fig, "fish").y) == [3, 2, 1]
    assert list(named(fig, "blue").y) == [1, 4, 4]
    by_prob = plot.concept_rivers(found, "prob")
    np.testing.assert_allclose(10 ** np.array(named(by_prob, "choir").y), PROB[:, 2])
    np.testing.assert_allclose(np.array(named(by_prob, "fish").customdata), PROB[:, 1])
    assert list(named(fig, "blue").marker.symbol) == ["square", "square-open", "square-open"]
    assert (named(fig, "fish").line.width, named(fig, "choir").line.width) == (4, 1.5)
    assert "probability 0.30 (tuned_lens)" in named(fig, "choir").hovertext[0]
    assert "rank 2 of the map’s 4 words" in named(fig, "choir").hovertext[0]


def test_few_rivers_keep_the_answers_and_rank_among_those_drawn() -> None:
    fig = plot.concept_rivers(semantic_map(), k=2)
    drawn = [trace.name for trace in fig.data if trace.customdata is not None]
    assert set(drawn) == {"instrument", "fish"}
    assert list(named(fig, "fish").y) == [1, 2, 1]
    assert "rank among these 2 of 4 words" in said(fig)
    with pytest.raises(InputError):
        plot.concept_rivers(semantic_map(), "logit")  # type: ignore[arg-type]


def test_names_at_the_end_stand_apart() -> None:
    score = np.log(np.full((3, 4), 0.25) + np.arange(4) * 1e-6)
    fig = plot.concept_rivers(semantic_map(score=score), "prob")
    names = [note for note in fig.layout.annotations if note.xref == "x domain"]
    assert {note.text for note in names} == set(WORDS)
    low, high = fig.layout.yaxis.range
    share = fig.layout.yaxis.domain[1] - fig.layout.yaxis.domain[0]
    pixels = np.sort([note.y for note in names]) / (high - low) * 380
    assert share > 0.5
    assert np.diff(pixels).min() > 14.9


# -- importance ----------------------------------------------------------------------------------


def importance(**fields: Any) -> ConceptImportance:
    """Two states, roles cue and answer; only the cue at the embedding stands out."""
    differing = np.array([[True, False], [True, True]])
    p = np.where(differing, 0.2, NAN)
    p[0, 0] = 0.001
    mean = np.array([[2.0, 0.0], [0.5, -0.25]])
    control = np.array([[0.5, 0.0], [0.25, 0.25]])
    excess = mean - control
    return ConceptImportance(
        **{
            "words": ("guitar", "song"),
            "roles": ("cue", "answer"),
            "positions": ((1,), (2,)),
            "contrast": -1.25,
            "components": 1,
            "rank": np.array([1, 1]),
            "variance": np.ones((2, 1)),
            "sentences": np.array([50, 50]),
            "importance": np.stack([mean - 0.125, mean + 0.125]),
            "control": np.stack([control] * 3),
            "low": np.where(differing, excess - 0.5, NAN),
            "high": np.where(differing, excess + 0.75, NAN),
            "p": p,
            "q": 2 * p,
            "removed": np.where(differing, 0.25, NAN),
            "differing": differing,
            "published": np.array([8.5]),
            "reason": "",
            "notes": (),
            "provenance": Provenance(),
            **fields,
        }
    )


def test_importance_fills_what_stands_out_and_keeps_every_excess() -> None:
    owed = importance()
    fig = plot.concept_importance(owed)
    cells = named(fig, "cells")
    np.testing.assert_array_equal(np.array(cells.customdata), owed.excess.T)
    filled = ~np.isnan(np.array(cells.z, dtype=float))
    np.testing.assert_array_equal(filled, [[True, False], [False, False]])
    assert cells.z[0][0] == 1.5
    assert len(named(fig, "nothing").x) == 3
    assert "1 of 3 cells with q under 0.05" in said(fig)
    for part in ("importance 2.000, random subspaces 0.500", "excess 1.500 (95 %: 1.000 to 2.250)",
                 "q 0.002 (p 0.001)", "25 % of the difference"):  # fmt: skip
        assert part in cells.hovertext[0][0]
    hover = cells.hovertext[1][0].replace("<br>", " ")
    assert "every draw is the same as the prompt" in hover
    assert np.isnan(np.array(plot.concept_importance(owed, q=0.001).data[0].z, dtype=float)).all()


def test_importance_curves_have_the_intervals_and_the_published_form_is_dashed() -> None:
    owed = importance()
    fig = plot.concept_importance(owed)
    cue = named(fig, "excess, cue")
    np.testing.assert_array_equal(cue.y, owed.excess[:, 0])
    np.testing.assert_allclose(cue.error_y.array, [0.75, 0.75])
    np.testing.assert_allclose(cue.error_y.arrayminus, [0.5, 0.5])
    published = named(fig, "importance_published")
    assert (list(published.x), list(published.y)) == ([1], [8.5])
    assert (published.line.dash, published.marker.symbol) == ("dash", "circle-open")


def test_undefined_importance_says_why() -> None:
    none = np.full((2, 2), NAN)
    fig = plot.concept_importance(
        importance(reason="the case has no cue", importance=np.full((2, 2, 2), NAN),
                   control=np.full((3, 2, 2), NAN), p=none, q=none, low=none, high=none)
    )  # fmt: skip
    assert "undefined: the case has no cue" in said(fig)
    assert len(named(fig, "undefined").x) == 4


# -- published -----------------------------------------------------------------------------------


def published(**fields: Any) -> PublishedMap:
    return PublishedMap(
        **{
            "tokens": ("opera", "bass", "is"),
            "states": np.array([1, 2]),
            "words": ("fish", "choir", "fish", "instrument"),
            "node_states": np.array([1, 1, 2, 2]),
            "scores": np.array([4.0, 2.0, 5.0, 3.0]),
            "positions": np.array([0, 1, 1, 0]),
            "sources": np.array([0, 2, 3]),
            "targets": np.array([1, 3, 2]),
            "omega": np.array([0.25, -0.5, 0.125]),
            "notes": (),
            "provenance": Provenance(),
            **fields,
        }
    )


def test_the_published_map_is_dashed_open_and_has_its_omegas() -> None:
    fig = plot.published_map(published(), beside=semantic_map())
    found = arrows(fig)
    assert {name: one.customdata[0] for name, (one,) in found.items()} == {
        "fish → instrument": -0.5,
        "instrument → fish": 0.125,
    }
    assert all(trace.line.dash != "solid" for (trace,) in found.values())
    fish, instrument = named(fig, "associative"), named(fig, "contextual")
    (down,) = found["fish → instrument"]
    assert (down.x[0], down.y[0]) == (fish.x[0], fish.y[0])
    assert (down.x[-1], down.y[-1]) == (instrument.x[0], instrument.y[0])
    assert list(named(fig, "associative").marker.symbol) == ["diamond-open"]
    assert "Published map, after block 2" in said(fig)
    assert "2 Ω edges by 2 tokens" in said(fig)
    assert "“bass” less that with a full stop" in found["fish → instrument"][0].hovertext
    assert "summed logit 5.00" in named(fig, "associative").hovertext[0]
    assert set(arrows(plot.published_map(published(), 1))) == {"fish → choir"}
    with pytest.raises(InputError):
        plot.published_map(published(), 3)


# -- layout --------------------------------------------------------------------------------------


def test_a_ladder_is_drawn_without_crossings() -> None:
    sides = ["contextual"] * 4 + ["associative"] * 4
    links = [(0, 7, 1.0), (1, 6, 0.5), (2, 5, 0.25), (3, 4, 2.0)]
    column = columns(sides)
    assert crossings(column, np.array([0, 1, 2, 3] * 2, dtype=float), links) == 6
    assert crossings(column, rows(column, links), links) == 0


def test_no_two_nodes_stand_at_one_place() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 5, 30):
        sides = rng.choice(["contextual", "associative", "other"], n).tolist()
        column = columns(sides)
        links = [(int(a), int(b), 1.0) for a, b in rng.integers(0, n, (3 * n, 2)) if a != b]
        row = rows(column, links)
        for x in set(column):
            assert np.diff(np.sort(row[column == x])).min(initial=9.0) >= 1 - 1e-9
        inner, outer = (column > 0) & (column < 2), (column == 0) | (column == 2)
        # a level line from left to right lies on no node
        assert not set(row[inner] % 1) & set(row[outer] % 1)


@pytest.mark.parametrize(
    ("wanted", "least", "expected"),
    [
        ([0.0, 5.0], 1.0, [0.0, 5.0]),
        ([0.0, 0.0], 1.0, [-0.5, 0.5]),
        ([3.0, 0.0, 0.0, 0.0], 1.0, [3.0, -1.0, 0.0, 1.0]),
        ([1.0, 0.0, 0.0, 0.0], 1.0, [1.75, -1.25, -0.25, 0.75]),
        ([], 1.0, []),
    ],
)
def test_labels_are_moved_apart_as_little_as_possible(
    wanted: list[float], least: float, expected: list[float]
) -> None:
    np.testing.assert_allclose(spread(np.array(wanted), least), expected)


# -- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", ["state", "layers", "rivers", "published", "importance"])
def test_hostile_text_stays_text(figure: str) -> None:
    words = (WORDS[0], WORDS[1], HOSTILE, WORDS[3])
    hostile = semantic_map(
        words=words, positions=places(tokens=(HOSTILE, "is"), roles=(HOSTILE, "answer"))
    )
    figures = {
        "state": lambda: plot.semantic_map(hostile, 0),
        "layers": lambda: plot.semantic_map(hostile),
        "rivers": lambda: plot.concept_rivers(hostile),
        "published": lambda: plot.published_map(
            published(words=("fish", HOSTILE, HOSTILE, "x"), tokens=(HOSTILE, HOSTILE, "is"))
        ),
        "importance": lambda: plot.concept_importance(importance(words=(HOSTILE, "a"))),
    }
    text = json.dumps(
        figures[figure]().to_plotly_json(),
        default=lambda value: np.asarray(value).tolist(),
        ensure_ascii=False,
    )
    for forbidden in ("<script", "$x", "\\u001b", "\u202e"):
        assert forbidden not in text
