"""Figures of patching: the exact numbers of the result, its floors, its gaps and their reasons."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dst import plot
from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.patch_results import Controls, PatchEffects, PatchGrid
from dst.core.results import Provenance
from dst.core.statistics_results import EffectMap
from dst.plot.grids import BAR, rows_height
from dst.plot.palette import OTHER
from dst.plot.theme import AXIS

NAN = float("nan")
HOSTILE = "<script>alert(1)</script> & $x$ \x1b[31m\u202e"
TOKENS = ("<bos>", "anna", "at", "lake", "of")
ROLES = ("bos", "rest", "cue", "cue", "answer")
MISSING = "the other run has no such position"


def controls(**fields: Any) -> Controls:
    """The floor of LD is 1: every random donor's effect has that size."""
    return Controls(
        **{
            "self_patch_error": 2e-7,
            "donor_error": NAN,
            "donor_reason": "the donor has another length",
            "random_donor": np.array([[1.0, -1.0], [0.25, 0.25]]),
            "random_donor_is": "another case's run",
            "random_direction": np.array([[0.5, 0.5], [0.125, 0.125]]),
            "random_layers": np.array([2, 3]),
            "random_columns": np.array([0, 1]),
            **fields,
        }
    )


def grid(
    tokens: tuple[str, ...] = TOKENS,
    roles: tuple[str, ...] = ROLES,
    *,
    missing: tuple[int, ...] = (1,),
    layers: tuple[int, ...] = (2, 3, 7),
    **fields: Any,
) -> PatchGrid:
    """Two draws of LD and kl, every number different; the columns in ``missing`` are NaN."""
    n, shape = len(tokens), (2, 2, len(layers), len(tokens))
    values = 4.0 * np.random.default_rng(5).normal(size=shape)
    values[:, :, 0, 0] = [[-0.5, 0.0], [0.125, 0.125]]  # an effect of LD and kl under both floors
    values[:, :, 0, 2] = [[0.25, 0.75], [0.25, 0.25]]  # and one that is as large as both
    values[..., list(missing)] = NAN
    whole = (2, len(layers), n)
    return PatchGrid(
        **{
            "technique": "activation patching",
            "direction": "noising",
            "source": "swap",
            "site": "resid_pre",
            "window": 1,
            "metrics": ("LD", "kl"),
            "layers": np.array(layers),
            "column_kind": "position",
            "columns": tokens,
            "column_positions": tuple((i,) for i in range(n)),
            "column_heads": (-1,) * n,
            "values": values,
            "base": np.array([[-0.75, -0.25], [0.0, 0.0]]),
            "donor": np.array([[3.5, 2.5], [1.5, 0.5]]),
            "flips": np.arange(np.prod(whole)).reshape(whole) % 3 == 0,
            "fired": np.ones(whole, dtype=int),
            "delta_norm": np.full(whole, 1.25),
            "coverage": np.array([0.0 if i in missing else 1.0 for i in range(n)]),
            "reasons": tuple(MISSING if i in missing else "" for i in range(n)),
            "tokens": tokens,
            "roles": roles,
            "case": Case(" ".join(tokens[1:]), contextual="x", associative="y"),
            "controls": controls(),
            "notes": ("drawn by hand",),
            "provenance": Provenance(),
            **fields,
        }
    )


def head_grid(*, groups: tuple[str, ...] = (), heads: tuple[int, ...] = (0, 1, 2)) -> PatchGrid:
    """Heads alone, or heads by span, a column for each."""
    spans: list[tuple[int, ...]] = [(i,) for i in range(len(groups))] or [(0, 1, 2, 3, 4)]
    pairs = [(head, span) for head in heads for span in range(len(spans))]
    names = tuple(f"head {h}" + (f": {groups[s]}" if groups else "") for h, s in pairs)
    found = grid(names, ("rest",) * len(names), missing=())
    return found.replace(
        column_kind="head x span" if groups else "head",
        column_positions=tuple(spans[s] for _, s in pairs),
        column_heads=tuple(h for h, _ in pairs),
        tokens=TOKENS,
        roles=ROLES,
        site="z",
    )


def named(fig: Any, name: str) -> Any:
    (found,) = [trace for trace in fig.data if trace.name == name]
    return found


def places(fig: Any, name: str) -> set[tuple[float, float]]:
    """Layer column and row of every marker of a trace."""
    trace = named(fig, name)
    return set(zip(map(float, trace.x), map(float, trace.y), strict=True))


def cells_of(mask: np.ndarray) -> set[tuple[float, float]]:
    """The same of a mask [layer column]."""
    return {(float(i), float(j)) for i, j in np.argwhere(mask)}


def heading(fig: Any, at: int = 0) -> str:
    return str(fig.layout.annotations[at].text).replace("<br>", " ")


def written(fig: Any) -> str:
    return json.dumps(fig.to_plotly_json(), default=lambda value: value.tolist())


# ---------------------------------------------------------------------------------- patch grid


@pytest.mark.parametrize(("metric", "floor"), [("LD", 1.0), ("kl", 0.25)])
def test_only_what_exceeds_the_floor_is_filled_and_every_number_is_kept(
    metric: str, floor: float
) -> None:
    found = grid()
    fig = plot.patch_grid(found, metric)
    index = found.metrics.index(metric)
    by_hand = (found.values[index] - found.base[index][:, None, None]).mean(axis=0)
    cells = named(fig, "cells")
    np.testing.assert_allclose(np.asarray(cells.customdata, dtype=float), by_hand.T)
    under = np.abs(by_hand) <= floor
    assert under.any()
    assert (~under).any()
    shown = np.where(under, NAN, by_hand).T
    np.testing.assert_allclose(np.asarray(cells.z, dtype=float), shown)
    assert places(fig, "nothing") == cells_of(under)
    assert places(fig, "undefined") == {(0, 1), (1, 1), (2, 1)}
    assert f"/ under the floor: {floor:.2f}" in heading(fig)
    # A stroke and a cross differ from a filled cell without colour.
    assert named(fig, "nothing").marker.symbol == "line-ne"
    assert named(fig, "undefined").marker.symbol == "x-thin"
    assert named(fig, "nothing").marker.line.color == OTHER


def test_an_undefined_cell_says_why_and_a_defined_one_its_numbers() -> None:
    found = grid()
    hover = named(plot.patch_grid(found), "cells").hovertext
    for layer, number in enumerate((2, 3, 7)):
        place, *reason = hover[1][layer].split("<br>")
        assert place == f"<b>anna (rest, position 1)</b>, layer {number}"
        assert " ".join(reason) == f"undefined: {MISSING}"
    effect, value = found.effect("LD")[2, 3], found.value("LD")[2, 3]
    recovery = effect / 3.5  # the donors' mean LD is 3, the base runs' -0.5
    lines = [
        "<b>lake (cue, position 3)</b>, layer 7",
        f"effect on LD {effect:.3f} logits",
        f"patched {value:.3f}",
        "floor 1.000",
        f"recovery {recovery:.2f}",
        f"LD changes its sign in {100 * found.flip[2, 3]:.0f} % of draws",
        "2 places changed, by a norm of 1.25",
    ]
    assert hover[3][2].split("<br>") == [line.replace("-", "−") for line in lines]


def test_the_heading_says_both_runs_and_its_hover_the_controls() -> None:
    fig = plot.patch_grid(grid(window=3))
    said = heading(fig)
    assert "Activation patching, noising" in said
    assert "resid_pre, 3 layers at a time: effect on LD, mean of 2 draws" in said
    assert "LD: base −0.50, donor (swap) 3.00 logits" in said
    assert "× undefined" in said
    hover = fig.layout.annotations[0].hovertext.replace("<br>", " ")
    for part in (
        "own states put back: error 2e−07",
        "everything patched: the donor has another length",
        "random donor (another case's run): 95 % of effects under 1.00",
        "random direction: 95 % of effects under 0.50",
        "drawn by hand",
    ):
        assert part in hover
    none = plot.patch_grid(grid(donor=np.full((2, 2), NAN), source="mean", direction=""))
    assert "no donor run (mean)" in heading(none)
    assert "Activation patching LD" not in heading(none)


def test_tokens_are_named_with_their_roles_from_top_to_bottom() -> None:
    axis = plot.patch_grid(grid()).layout.yaxis
    assert list(axis.ticktext) == [
        "&lt;bos&gt;", "anna", "at · cue", "lake · cue", "of · answer",
    ]  # fmt: skip
    assert axis.range[0] > axis.range[1]
    layers = plot.patch_grid(grid()).layout.xaxis
    assert (list(layers.tickvals), list(layers.ticktext)) == ([0, 1, 2], ["2", "3", "7"])
    roles = grid(column_kind="role", columns=("bos", "a", "b", "c", "subject_1"))
    assert list(plot.patch_grid(roles).layout.yaxis.ticktext)[-1] == "subject_1"


@pytest.mark.parametrize("n", [20, 60, 250])
def test_long_prompts_keep_rows_that_can_be_read(n: int) -> None:
    tokens = tuple(f"word{i}" for i in range(n))
    fig = plot.patch_grid(grid(tokens, ("rest",) * n, missing=()))
    axis = fig.layout.yaxis
    apart = (axis.tickvals[1] - axis.tickvals[0]) * rows_height(n) / n
    assert apart >= 14  # pixels from name to name
    assert (len(axis.tickvals) == n) == (n <= 60)
    assert list(axis.ticktext) == [tokens[i] for i in axis.tickvals]
    assert fig.layout.height < 1400
    share = axis.domain[1] - axis.domain[0]
    inner = fig.layout.height - AXIS - BAR  # what is left to the map and its heading
    assert share * inner == pytest.approx(rows_height(n), rel=1e-3)


def test_recovery_is_that_of_the_grid_or_undefined_with_its_reason() -> None:
    found = grid()
    cells = named(plot.patch_grid(found, show="recovery"), "cells")
    np.testing.assert_allclose(np.asarray(cells.customdata, dtype=float), found.recovery.T)
    np.testing.assert_allclose(found.recovery, found.effect("LD") / 3.5)
    close = found.replace(donor=found.base + 0.5)
    fig = plot.patch_grid(close, show="recovery")
    assert np.isnan(np.asarray(named(fig, "cells").z, dtype=float)).all()
    assert len(places(fig, "undefined")) == close.recovery.size
    assert not [trace for trace in fig.data if trace.name == "nothing"]
    assert "× undefined: LD of donor and base differ by 0.50" in heading(fig)
    for row in named(fig, "cells").hovertext:
        assert all("undefined: " in cell for cell in row)


def test_without_random_controls_nothing_is_called_nothing() -> None:
    none = np.empty(0, dtype=int)
    empty = controls(
        random_donor=np.empty((2, 0)),
        random_direction=np.empty((2, 0)),
        random_layers=none,
        random_columns=none,
    )
    found = grid(controls=empty)
    fig = plot.patch_grid(found)
    np.testing.assert_allclose(np.asarray(named(fig, "cells").z, dtype=float), found.effect().T)
    assert "no floor: no random change was run" in heading(fig)
    assert "floor" not in named(fig, "cells").hovertext[2][0]
    assert "random direction: not run" in fig.layout.annotations[0].hovertext


def test_colours_are_around_zero_and_of_the_template() -> None:
    found = grid()
    axis = plot.patch_grid(found).layout.coloraxis
    assert axis.autocolorscale is True
    assert axis.cmax == -axis.cmin == np.nanmax(np.abs(found.effect()))
    assert axis.colorbar.title.text == "effect on LD in logits: toward A− | toward A+"
    assert plot.patch_grid(found, "kl").layout.coloraxis.colorbar.title.text == (
        "effect on kl in nats: less | more"
    )


def test_numbers_stand_in_filled_cells_while_there_is_room() -> None:
    found = grid()
    cells = named(plot.patch_grid(found), "cells")
    effect = found.effect()
    for j, row in enumerate(cells.text):
        for i, text in enumerate(row):
            over = abs(effect[i, j]) > 1
            assert text == (f"{effect[i, j]:.1f}".replace("-", "−") if over else "")
    assert cells.texttemplate == "%{text}"
    deep = plot.patch_grid(grid(layers=tuple(range(30))))
    assert named(deep, "cells").texttemplate == ""
    assert len(deep.layout.xaxis.tickvals) <= 13


def test_a_metric_that_was_not_measured_is_named() -> None:
    with pytest.raises(KeyError, match="the metrics here are LD, kl"):
        plot.patch_grid(grid(), "prob")


# -------------------------------------------------------------------------------- heads, layers


def test_heads_stand_in_rows_with_the_numbers_of_the_grid() -> None:
    found = head_grid()
    fig = plot.head_grid(found)
    np.testing.assert_allclose(
        np.asarray(named(fig, "cells").customdata, dtype=float), found.effect().T
    )
    assert list(fig.layout.yaxis.ticktext) == ["head 0", "head 1", "head 2"]
    assert places(fig, "nothing") == cells_of(np.abs(found.effect()) <= 1)
    assert "z: effect on LD" in heading(fig)
    assert named(fig, "cells").hovertext[1][2].startswith("<b>head 1</b>, layer 7<br>effect on LD")


def test_heads_by_span_have_a_panel_per_span_on_one_scale() -> None:
    found = head_grid(groups=("subject", "-1"))
    fig = plot.head_grid(found)
    panels = [trace for trace in fig.data if trace.name == "cells"]
    for s, panel in enumerate(panels):
        np.testing.assert_allclose(
            np.asarray(panel.customdata, dtype=float), found.effect()[:, s::2].T
        )
    assert len(panels) == 2
    assert fig.layout.yaxis2.domain[1] < fig.layout.yaxis.domain[0]
    assert heading(fig).endswith("<b>subject</b>")
    assert heading(fig, 1) == "<b>-1</b>"
    assert fig.layout.coloraxis.cmax == np.abs(found.effect()).max()
    assert fig.layout.xaxis.anchor == "y2"


def test_a_grid_without_heads_is_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match="A column of this grid is a position; expected a head"):
        plot.head_grid(grid())


# ----------------------------------------------------------------------------------- effect map


def effects(**fields: Any) -> PatchEffects:
    """Two layers, three roles; one cell is a discovery, one has no interval, one no mean."""
    mean = np.array([[-2.0, 0.5, 0.25], [0.125, NAN, 1.5]])
    known = np.array([[True, True, False], [True, False, True]])
    statistics = EffectMap(
        axes=("layer", "column"),
        mean=mean,
        control=np.where(known, 0.0625, NAN),
        low=np.where(known, mean - 0.25, NAN),
        high=np.where(known, mean + 0.5, NAN),
        p=np.where(known, [[0.001, 0.04, 0], [0.5, 0, 0.03]], NAN),
        q=np.where(known, [[0.004, 0.0501, 0], [0.5, 0, 0.05]], NAN),
        n=np.array([[9, 9, 1], [9, 0, 9]]),
        n_clusters=np.array([[4, 4, 1], [4, 0, 4]]),
        reasons=np.array([["", "", "one cluster"], ["", "no case has it", ""]]),
        level=0.95,
        method="by hand",
        seed=0,
    )
    return PatchEffects(
        **{
            "technique": "activation patching",
            "direction": "noising",
            "source": "swap",
            "site": "resid_pre",
            "window": 1,
            "metric": "LD",
            "layers": np.array([4, 5]),
            "columns": ("cue", "relay", "answer"),
            "effects": np.zeros((3, 2, 3)),
            "random_effects": np.zeros((3, 2, 3)),
            "statistics": statistics,
            "case_ids": ("a", "b", "c"),
            "groups": ("one", "one", "two"),
            "failures": ("d: its prompt is empty",),
            "self_patch_error": 0.0,
            "donor_error": 3e-6,
            "random_donor_is": "the run of another case",
            "notes": (),
            "provenance": Provenance(),
            **fields,
        }
    )


def test_an_effect_map_holds_the_means_and_rings_the_discoveries() -> None:
    found = effects()
    fig = plot.effect_map(found)
    cells = named(fig, "cells")
    np.testing.assert_array_equal(np.asarray(cells.customdata, dtype=float), found.mean.T)
    np.testing.assert_array_equal(np.asarray(cells.z, dtype=float), found.mean.T)
    rings = {(round(x), y) for x, y in places(fig, "discoveries")}
    assert rings == {(0, 0), (1, 2)}  # q of .004 and .05
    assert {round(x) for x, _ in places(plot.effect_map(found, q=0.01), "discoveries")} == {0}
    assert places(fig, "undefined") == {(1, 1)}
    said = heading(fig)
    assert "resid_pre: effect on LD, donor: swap" in said
    assert "mean of 3 cases in 2 groups, 1 left out" in said
    assert "○ q ≤ 0.05: 2 of 6 cells" in said
    assert "2 cells without a q: one cluster; no case has it" in said
    hover = fig.layout.annotations[0].hovertext.replace("<br>", " ")
    assert "everything patched: error 3e−06" in hover
    assert "left out: d: its prompt is empty" in hover


def test_every_number_of_a_map_that_is_missing_says_why() -> None:
    hover = named(plot.effect_map(effects()), "cells").hovertext
    assert hover[0][0].split("<br>") == [
        "<b>cue</b>, layer 4",
        "mean effect −2.000 logits",
        "95% interval −2.25 to −1.50",
        "control 0.062",
        "p 0.001",
        "q 0.004",
        "9 cases in 4 groups",
    ]
    assert hover[2][0].split("<br>") == [
        "<b>answer</b>, layer 4",
        "mean effect 0.250 logits",
        "1 cases in 1 groups",
        "undefined: one cluster",
    ]
    assert hover[1][1].endswith("undefined: no case has it")


def test_a_discovery_that_does_less_than_its_control_is_a_square() -> None:
    found = effects()
    control = found.statistics.control.copy()
    control[0, 0] = 2.5  # the mean there is -2, its interval ends at -1.5: it goes the other way
    control[1, 2] = 1.75  # the mean there is 1.5
    fig = plot.effect_map(found.replace(statistics=found.statistics.replace(control=control)))
    assert {(round(x), y) for x, y in places(fig, "discoveries")} == {(0, 0)}
    assert {(round(x), y) for x, y in places(fig, "less than control")} == {(1, 2)}
    assert named(fig, "less than control").marker.symbol == "square"
    assert "○ q ≤ 0.05: 1 of 6 cells □ the same, but less than the control: 1" in heading(fig)
    low = found.statistics.low.copy()
    control[1, 2], low[1, 2] = -1.75, -0.25  # the other way, were it not for its interval
    wide = found.statistics.replace(control=control, low=low)
    assert len(places(plot.effect_map(found.replace(statistics=wide)), "less than control")) == 1
    none = np.full((2, 3), NAN)  # without a control p is against 0
    fig = plot.effect_map(found.replace(statistics=found.statistics.replace(control=none)))
    assert len(places(fig, "discoveries")) == 2


def test_a_map_without_any_q_says_so_and_has_no_rings() -> None:
    found = effects()
    none = np.full((2, 3), NAN)
    bare = found.statistics.replace(
        low=none, high=none, p=none, q=none, reasons=np.full((2, 3), "one cluster")
    )
    fig = plot.effect_map(found.replace(statistics=bare, groups=("one",) * 3))
    assert not [trace for trace in fig.data if trace.name == "discoveries"]
    assert "no cell has a q: one cluster" in heading(fig)
    assert "3 cases in one group" in heading(fig)


def test_a_bare_map_is_numbered_and_must_have_two_axes() -> None:
    found = effects().statistics
    fig = plot.effect_map(found)
    np.testing.assert_array_equal(
        np.asarray(named(fig, "cells").customdata, dtype=float), found.mean.T
    )
    assert list(fig.layout.yaxis.ticktext) == ["0", "1", "2"]
    assert "Mean effect in logits" in heading(fig)
    names = ("mean", "control", "low", "high", "p", "q", "n", "n_clusters", "reasons")
    flat = {name: getattr(found, name).ravel() for name in names}
    with pytest.raises(InputError, match="The map has 1 axes: layer; expected two"):
        plot.effect_map(found.replace(axes=("layer",), **flat))


# ---------------------------------------------------------------------------------------- all


def test_nothing_of_the_result_is_changed() -> None:
    drawn: tuple[tuple[Any, Any], ...] = (
        (grid(), plot.patch_grid),
        (head_grid(), plot.head_grid),
        (effects(), plot.effect_map),
    )
    for found, draw in drawn:
        before = json.dumps(found.to_records(), default=str)
        fig = draw(found)
        named(fig, "cells").customdata[0][0] = 99.0
        named(fig, "cells").z[0][0] = 99.0
        assert json.dumps(found.to_records(), default=str) == before


def test_names_cannot_add_tags_or_formulas() -> None:
    tokens = (HOSTILE, "a", "b", "c", "d")
    hostile = grid(tokens, (HOSTILE, *ROLES[1:]), notes=(HOSTILE,), source=HOSTILE)
    heads = head_grid(groups=(HOSTILE,))
    many = effects(columns=(HOSTILE, "b", "c"), failures=(HOSTILE,), source=HOSTILE)
    for fig in (plot.patch_grid(hostile), plot.head_grid(heads), plot.effect_map(many)):
        text = written(fig)
        assert "<script>" not in text
        assert "&lt;" in text
        assert "$" not in text
        assert "\\u001b" not in text
