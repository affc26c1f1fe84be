"""Figures of paths and estimates: which edges are drawn, and what an estimate is held against."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dst import plot
from dst.core.path_results import Agreement, AttributionPatch, EdgeScores, PathEffects
from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL

NAN = float("nan")
HOSTILE = "<script>alert(1)</script> & $x$ \x1b[31m"
SENDERS = ("embedding", "head 0.1", "mlp 0")
RECEIVERS = ("q 1.0", "mlp 1", "logits")


def path_effects(**fields: Any) -> PathEffects:
    """Over their receiver's floor: embedding -> q 1.0, head 0.1 -> logits, mlp 0 -> mlp 1."""
    return PathEffects(
        **{
            "senders": SENDERS,
            "receivers": RECEIVERS,
            "effect": np.array([[2.0, 0.25, -0.5], [NAN, 0.0, -1.0], [0.1, 0.5, NAN]]),
            "node": np.array([1.5, -1.25, 0.0]),
            "fired": np.array([[3, 2, 1], [0, 1, 1], [1, 4, 0]]),
            "delta_norm": np.array([[0.5, 0.25, 1], [0, 1, 2], [1, 3, 0]], dtype=float),
            "floor": np.array([0.2, 0.25, 0.75]),
            "base": -0.75,
            "donor": 2.0,
            "self_patch_error": 0.0,
            "sum_error": 3e-7,
            "donor_error": 1e-6,
            "notes": ("drawn by hand",),
            **fields,
        }
    )


def agreement(**fields: Any) -> Agreement:
    return Agreement(
        **{
            "estimate": "eap_ig",
            "n": 4,
            "n_all": 7,
            "chosen": "a random sample of 4 of 7 edges",
            "spearman": 0.5,
            "top_k": 2,
            "top_overlap": 1.0,
            "sign_agreement": 0.75,
            "floor": 0.3,
            "mean_error": 0.125,
            "worst": ("head 0.1 -> logits", "embedding -> q 1.0", "mlp 0 -> mlp 1"),
            "worst_estimate": np.array([1.0, 1.5, 0.25]),
            "worst_exact": np.array([-1.0, 2.0, 0.5]),
            **fields,
        }
    )


def edge_scores(**fields: Any) -> EdgeScores:
    """Of seven edges four were run; one of those is under the size that has a sign."""
    return EdgeScores(
        **{
            "method": "eap_ig",
            "steps": 5,
            "senders": SENDERS,
            "receivers": RECEIVERS,
            "score": np.array([[1.5, 0.3, -3.0], [NAN, 0.1, 1.0], [0.0, 0.25, NAN]]),
            "node": np.array([1.0, -1.0, 0.5]),
            "exact": np.array([[2.0, 0.2, NAN], [NAN, NAN, -1.0], [NAN, 0.5, NAN]]),
            "node_exact": np.array([1.5, -1.25, NAN]),
            "agreement": agreement(),
            "node_agreement": agreement(
                n=2,
                n_all=3,
                chosen="two nodes",
                spearman=NAN,
                worst=("embedding",),
                worst_estimate=np.array([1.0]),
                worst_exact=np.array([1.5]),
                reason="fewer than 3 cells differ",
            ),
            "base": -0.75,
            "donor": 2.0,
            "closure_error": NAN,
            "completeness_error": -0.01,
            **fields,
        }
    )


def attribution_patch(**fields: Any) -> AttributionPatch:
    """Two layers, two columns; at one cell donor and base agree, one was not in the sample."""
    signed = agreement(
        estimate="atp", n=2, n_all=4, chosen="a sample", worst=("layer 0, cue",),
        worst_estimate=np.array([0.5]), worst_exact=np.array([-2.0]),
    )  # fmt: skip
    size = replace(
        signed,
        estimate="graddrop",
        sign_agreement=NAN,
        reason="the estimate has no sign",
        worst_estimate=np.array([1.5]),
    )
    return AttributionPatch(
        **{
            "site": "resid_pre",
            "by": "role",
            "columns": ("cue", "answer"),
            "positions": ((1, 2), (3,)),
            "estimates": ("atp", "graddrop"),
            "value": np.array([[[0.5, 0.0], [0.75, 1.0]], [[1.5, 0.0], [0.5, 1.25]]]),
            "exact": np.array([[-2.0, NAN], [NAN, 1.5]]),
            "agreement": (signed, size),
            "base": -0.75,
            "donor": 2.0,
            "fired": np.array([[2, 0], [2, 1]]),
            "delta_norm": np.array([[1.0, 0.0], [1.0, 2.0]]),
            "self_patch_error": 0.0,
            "donor_error": NAN,
            "slope_error": 2e-4,
            **fields,
        }
    )


def named(fig: Any, name: str) -> Any:
    (found,) = [trace for trace in fig.data if trace.name == name]
    return found


def edges(fig: Any) -> dict[str, float]:
    """Every drawn edge with its effect."""
    return {t.name: t.customdata[0] for t in fig.data if " → " in t.name}


def heading(fig: Any, at: int = 0) -> str:
    notes = [note for note in fig.layout.annotations if note.name != "worst"]
    return str(notes[at].text).replace("<br>", " ")


# --------------------------------------------------------------------------------------- paths


def test_only_edges_over_their_receivers_floor_are_drawn_with_their_effects() -> None:
    fig = plot.path_diagram(path_effects())
    assert edges(fig) == {
        "embedding → q 1.0": 2.0,
        "head 0.1 → logits": -1.0,
        "mlp 0 → mlp 1": 0.5,
    }
    said = heading(fig)
    assert "base LD −0.75, donor 2.00 logits" in said
    assert "7 edges run; drawn: all 3 over their receiver’s floor" in said


def test_width_is_size_and_sign_is_colour_and_dash() -> None:
    fig = plot.path_diagram(path_effects())
    lines = {name: named(fig, name).line for name in edges(fig)}
    widths = {name: line.width for name, line in lines.items()}
    # 1 pixel for nothing and 9 for the largest, in proportion between
    assert widths == {
        "embedding → q 1.0": 9.0,
        "head 0.1 → logits": 5.0,
        "mlp 0 → mlp 1": 3.0,
    }
    assert lines["embedding → q 1.0"].color == CONTEXTUAL
    assert lines["embedding → q 1.0"].dash == "solid"
    assert lines["head 0.1 → logits"].color == ASSOCIATIVE
    assert lines["head 0.1 → logits"].dash != "solid"


def test_edges_join_their_parts_which_stand_in_the_order_of_the_result() -> None:
    fig = plot.path_diagram(path_effects())
    parts = {
        side: dict(zip(named(fig, side).text, named(fig, side).y, strict=True))
        for side in ("senders", "receivers")
    }
    assert list(parts["senders"]) == list(SENDERS)
    assert list(parts["receivers"]) == list(RECEIVERS)
    assert sorted(parts["senders"].values()) == list(parts["senders"].values())
    assert set(named(fig, "senders").x) == {0.0}
    assert set(named(fig, "receivers").x) == {1.0}
    for name in edges(fig):
        sender, receiver = name.split(" → ")
        line = named(fig, name)
        ends = (line.x[0], line.y[0], line.x[-1], line.y[-1])
        assert ends == (0, parts["senders"][sender], 1, parts["receivers"][receiver])
    assert fig.layout.yaxis.range[0] > fig.layout.yaxis.range[1]


def test_at_most_k_edges_are_drawn_the_largest() -> None:
    fig = plot.path_diagram(path_effects(), k=2)
    assert edges(fig) == {"embedding → q 1.0": 2.0, "head 0.1 → logits": -1.0}
    assert "the 2 largest of 3" in heading(fig)
    assert list(named(fig, "senders").text) == ["embedding", "head 0.1"]


def test_no_edge_over_its_floor_is_said() -> None:
    fig = plot.path_diagram(path_effects(floor=np.array([5.0, 5.0, 5.0])))
    assert edges(fig) == {}
    assert "7 edges run; none is over their receiver’s floor" in heading(fig)


def test_hovering_gives_effect_floor_receipt_node_and_controls() -> None:
    fig = plot.path_diagram(path_effects())
    assert named(fig, "head 0.1 → logits").hovertext[0].split("<br>") == [
        "<b>head 0.1 → logits</b>",
        "effect on LD −1.000 logits",
        "floor 0.750",
        "1 positions changed",
        "changes what the receiver puts out by 2.00",
    ]
    assert "effect on LD −1.250 logits" in named(fig, "senders").hovertext[1]
    assert named(fig, "receivers").hovertext[2] == "<b>logits</b><br>floor 0.750 logits"
    hover = fig.layout.annotations[0].hovertext
    for part in ("own states sent: error 0", "relative error 3e−07", "drawn by hand"):
        assert part in hover.replace("<br>", " ")


def test_of_edge_attribution_only_what_was_run_is_drawn_by_its_exact_effect() -> None:
    fig = plot.path_diagram(edge_scores())
    # -3 is the largest estimate and was not run; 0.2 was run and is under 0.3.
    assert edges(fig) == {
        "embedding → q 1.0": 2.0,
        "head 0.1 → logits": -1.0,
        "mlp 0 → mlp 1": 0.5,
    }
    assert "4 of 7 edges run, the others are not shown" in heading(fig)
    assert "estimate (eap_ig) 1.000" in named(fig, "head 0.1 → logits").hovertext[0]
    assert named(fig, "senders").hovertext[2].endswith("estimate 0.500 logits<br>not run")
    hover = fig.layout.annotations[0].hovertext.replace("<br>", " ")
    assert "a sender's edges give its node: error not measured" in hover
    assert "the embedding gives all of LD: error −0.010" in hover


# ----------------------------------------------------------------------------------- estimates


def test_points_are_the_cells_that_were_run_beside_the_identity() -> None:
    fig = plot.estimate_check(attribution_patch())
    points = named(fig, "atp")
    assert list(zip(points.x, points.y, strict=True)) == [(-2.0, 0.5), (1.5, 1.0)]
    assert points.hovertext[0].split("<br>") == [
        "<b>layer 0, cue</b>",
        "atp 0.500 logits",
        "exact effect −2.000 logits",
    ]
    line, *_ = [s for s in fig.layout.shapes if s.name == "identity"]
    assert (line.x0, line.x1) == (line.y0, line.y1)
    assert line.x0 < -2.0
    assert line.x1 > 1.5
    band, *_ = [s for s in fig.layout.shapes if s.name == "floor"]
    assert (band.x0, band.x1) == (-0.3, 0.3)


def test_cells_that_were_not_run_are_crosses_with_their_reason() -> None:
    fig = plot.estimate_check(attribution_patch())
    signed, _ = [trace for trace in fig.data if trace.name == "not run"]
    assert list(signed.y) == [0.0, 0.75]
    assert signed.hovertext[0].endswith("exact effect not run: donor and base agree here")
    assert signed.hovertext[1].endswith("exact effect not run: a sample")
    assert signed.marker.symbol == "x-thin"


def test_an_estimate_without_a_sign_stands_against_the_size() -> None:
    fig = plot.estimate_check(attribution_patch())
    points = named(fig, "graddrop")
    assert list(zip(points.x, points.y, strict=True)) == [(2.0, 1.5), (1.5, 1.25)]
    assert fig.layout.xaxis2.title.text == "size of the exact effect (logits)"
    assert "exact effect −2.000 logits" in points.hovertext[0]
    assert points.marker.symbol != named(fig, "atp").marker.symbol
    worst = [note for note in fig.layout.annotations if note.name == "worst"]
    assert [(note.text, note.x, note.y) for note in worst] == [
        ("layer 0, cue", -2.0, 0.5),
        ("layer 0, cue", 2.0, 1.5),
    ]


def test_the_headings_hold_the_agreement_of_the_result() -> None:
    fig = plot.estimate_check(attribution_patch())
    said = heading(fig)
    for part in (
        "atp against exact patching",
        "2 of 4 cells run: a sample",
        "Spearman 0.50, top-2 overlap 1.00, same sign 0.75, mean error 0.125 logits",
    ):
        assert part in said
    assert "same sign NaN" in heading(fig, 1)
    assert "NaN: the estimate has no sign" in heading(fig, 1)
    hover = fig.layout.annotations[0].hovertext.replace("<br>", " ")
    assert "against the slope of edited runs: error 2e−04" in hover
    assert "everything patched: error not measured" in hover


def test_edges_and_nodes_have_a_panel_each() -> None:
    fig = plot.estimate_check(edge_scores())
    of_edges, of_nodes = [trace for trace in fig.data if trace.name == "eap_ig"]
    assert sorted(zip(of_edges.x, of_edges.y, strict=True)) == [
        (-1.0, 1.0), (0.2, 0.3), (0.5, 0.25), (2.0, 1.5),
    ]  # fmt: skip
    assert list(zip(of_nodes.x, of_nodes.y, strict=True)) == [(1.5, 1.0), (-1.25, -1.0)]
    not_run, _ = [trace for trace in fig.data if trace.name == "not run"]
    assert sorted(not_run.y) == [-3.0, 0.0, 0.1]
    assert all("a random sample of 4 of 7 edges" in text for text in not_run.hovertext)
    worst = [note.text for note in fig.layout.annotations if note.name == "worst"]
    assert worst == ["head 0.1 -&gt; logits", "embedding -&gt; q 1.0", "embedding"]
    assert "NaN: fewer than 3 cells differ" in heading(fig, 1)
    assert fig.layout.yaxis2.domain[1] < fig.layout.yaxis.domain[0]


# ---------------------------------------------------------------------------------------- all


@pytest.mark.parametrize(
    ("make", "draw"),
    [
        (path_effects, plot.path_diagram),
        (edge_scores, plot.path_diagram),
        (edge_scores, plot.estimate_check),
        (attribution_patch, plot.estimate_check),
    ],
)
def test_nothing_of_the_result_is_changed(make: Any, draw: Any) -> None:
    found = make()
    before = json.dumps(found.to_records(), default=str)
    for trace in draw(found).data:
        np.asarray(trace.y).fill(99.0)
    assert json.dumps(found.to_records(), default=str) == before


def test_names_cannot_add_tags_or_formulas() -> None:
    senders = (HOSTILE, *SENDERS[1:])
    quality = agreement(worst=(HOSTILE,), worst_estimate=np.ones(1), worst_exact=np.ones(1))
    for fig in (
        plot.path_diagram(path_effects(senders=senders, notes=(HOSTILE,))),
        plot.path_diagram(edge_scores(senders=senders)),
        plot.estimate_check(edge_scores(senders=senders, agreement=quality)),
        plot.estimate_check(attribution_patch(columns=(HOSTILE, "answer"))),
    ):
        text = json.dumps(fig.to_plotly_json(), default=lambda value: value.tolist())
        assert "<script>" not in text
        assert "&lt;" in text
        assert "$" not in text
        assert "\\u001b" not in text
