"""Figures of drift and Patchscopes: the exact numbers, what is undefined, what is claimed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dst import plot
from dst.core.case import Case
from dst.core.drift_results import Drift
from dst.core.patchscope_results import Patchscope, PatchscopeAgreement
from dst.core.results import Mark, Provenance

NAN = float("nan")
HOSTILE = "<script>alert(1)</script> & $x$ \x1b[31m\u202e"
TOKENS = ("<bos>", "lake", "saw", "bass", "is")
ROLES = ("bos", "cue", "relay", "subject_1", "answer")
REASONS = ("read the same words", "the twin has another word here", "", "", "")


def drift(**fields: Any) -> Drift:
    """Three states; z is defined at three positions and exceeds 4 at two cells."""
    z = np.full((2, 3, 5), NAN)
    z[:, :, 2:] = [[0.0, 0.0, 0.0], [1.0, 5.0, 2.0], [-2.0, 4.0, 20000.0]]
    away = np.arange(30.0).reshape(2, 3, 5) / 100
    marks = tuple(
        Mark("onset", f"{name} drift", 1.0, 2, thresholds={"z": 4.0}) for name in ("a", "b")
    )
    return Drift(
        **{
            "against": "swap",
            "null": "neutral",
            "measures": ("centred", "whitened"),
            "drift": away,
            "low": away - 0.001,
            "high": away + 0.001,
            "z": z,
            "reasons": REASONS,
            "role_drift": away,
            "role_z": z,
            "role_reasons": REASONS,
            "critical": np.array([4.0, 4.0]),
            "role_critical": np.array([3.0, 3.0]),
            "onsets": marks,
            "role_onsets": marks * 5,
            "published": np.array([0.125, 0.25, 0.0625]),
            "coverage": 0.8,
            "same_word": np.array([True, False, True, True, True]),
            "tokens": TOKENS,
            "twin_tokens": ("<bos>", "concert", "saw", "bass", "is"),
            "token_roles": ROLES,
            "roles": ROLES,
            "role_positions": tuple((i,) for i in range(5)),
            "n_twins": 3,
            "n_null": 8,
            "n_reference": 100,
            "shrinkage": np.array([0.1, 0.1, 0.1]),
            "case": Case("lake saw bass is", contextual="x", associative="y"),
            "notes": (),
            "provenance": Provenance(),
            **fields,
        }
    )


def scope(**fields: Any) -> Patchscope:
    claimed = np.zeros((3, 2, 2), dtype=bool)
    claimed[1, 0, 1] = True
    log_prob = -np.arange(1.0, 13).reshape(3, 2, 2) / 8
    return Patchscope(
        **{
            "states": np.array([0, 1, 2]),
            "target_states": np.array([0, 2, 4]),
            "positions": (3, 4),
            "tokens": ("bass", "is"),
            "source": TOKENS,
            "target_prompt": "cat -> cat; ?",
            "target_tokens": ("cat", "->", "cat;", "?"),
            "target_position": 3,
            "target_model": "other",
            "mapping": "identity",
            "ids": np.arange(12).reshape(3, 2, 2),
            "words": (("a lake", "b c"), ("fish d", "e f"), ("g h", "")),
            "log_prob": log_prob,
            "plain_log_prob": np.full((3, 2), -3.0),
            "plain_ids": np.array([90, 91]),
            "plain_words": "the end",
            "other_ids": np.array([[80, 81]] * 3),
            "other_words": ("o p", "q r", "s t"),
            "other_log_prob": np.full((3, 2), -2.0),
            "other_source": "the [bank]",
            "claimed": claimed,
            "fired": np.full((3, 2), 2),
            "delta_norm": np.full((3, 2), 1.5),
            "notes": (),
            "provenance": Provenance(),
            **fields,
        }
    )


def named(fig: Any, name: str) -> Any:
    (found,) = [trace for trace in fig.data if trace.name == name]
    return found


def said(fig: Any) -> str:
    return " ".join(note.text.replace("<br>", " ") for note in fig.layout.annotations)


def test_the_map_holds_every_z_and_fills_what_exceeds_the_critical() -> None:
    found = drift()
    fig = plot.drift(found)
    cells = named(fig, "cells")
    np.testing.assert_array_equal(np.array(cells.customdata), found.z_of("whitened").T)
    filled = ~np.isnan(np.array(cells.z, dtype=float))
    np.testing.assert_array_equal(filled, found.z_of("whitened").T > 4)
    strokes, crosses = named(fig, "nothing"), named(fig, "undefined")
    assert len(strokes.x) == 7
    assert set(crosses.y) == {0, 1}
    assert cells.text[4][2] == "≫"
    assert fig.layout.coloraxis.cmax == 12  # three times the critical z, not 20,000
    (line,) = [shape for shape in fig.layout.shapes if shape.name == "onset"]
    assert line.x0 == 0.5
    assert list(fig.layout.yaxis.ticktext) == [
        "&lt;bos&gt;", "lake · cue", "saw · relay", "bass · subject_1", "is · answer",
    ]  # fmt: skip


def test_hovering_says_the_numbers_or_why_there_are_none() -> None:
    fig = plot.drift(drift(), "centred")
    hover = named(fig, "cells").hovertext
    for part in ("bass", "subject_1", "after block 1", "1 − cos 0.0800", "0.0790 to 0.0810",
                 "z 5.00", "critical z 4.00"):  # fmt: skip
        assert part in hover[3][1]
    assert "no z: the twin has another word here" in hover[1][1]
    assert "in the twin: concert" in hover[1][1]
    one = drift(n_twins=1, low=np.full((2, 3, 5), NAN), high=np.full((2, 3, 5), NAN))
    assert "one twin" in named(plot.drift(one), "cells").hovertext[3][1]


def test_the_curves_are_the_answers_drift_and_the_published_form() -> None:
    found = drift()
    fig = plot.drift(found)
    np.testing.assert_array_equal(named(fig, "centred").y, found.role_drift[0, :, 4])
    np.testing.assert_array_equal(named(fig, "whitened").y, found.role_drift[1, :, 4])
    published = named(fig, "drift_published")
    np.testing.assert_array_equal(published.y, found.published)
    assert (published.line.dash, published.marker.symbol) == ("dash", "circle-open")
    assert "80 % of the positions" in said(fig)
    assert "onset: after block 1 of 2" in said(fig)


def test_without_a_null_the_heading_says_why() -> None:
    reason = "No null: the case has no cue"
    mark = Mark("onset", "drift", NAN, 2, reason)
    none = np.full((2, 3, 5), NAN)
    fig = plot.drift(
        drift(
            null="", n_null=0, z=none, role_z=none, reasons=(reason,) * 5,
            role_reasons=(reason,) * 5, critical=np.array([NAN, NAN]),
            onsets=(mark, mark), role_onsets=(mark, mark) * 5,
        )
    )  # fmt: skip
    assert "no critical z: No null: the case has no cue" in said(fig)
    assert not [shape for shape in fig.layout.shapes if shape.name == "onset"]
    assert np.isnan(np.array(named(fig, "cells").z, dtype=float)).all()


def test_the_table_holds_the_words_and_their_probabilities() -> None:
    found = scope()
    fig = plot.patchscope(found)
    table = named(fig, "words")
    z = np.array(table.z, dtype=float)
    np.testing.assert_array_equal(z[:, :2], found.first_prob)
    np.testing.assert_allclose(z[:, 2], np.exp(-2.0))
    assert table.text[1][0] == "● fish d"
    assert table.text[0][0] == "a lake"
    assert table.text[2][2] == "s t"
    assert list(fig.layout.xaxis.ticktext) == ["bass", "is", "other prompt"]
    assert list(fig.layout.yaxis.ticktext) == ["emb", "1 → 2", "2 → 4"]
    for part in ("position 3", "after block 1", "put in at after block 2", "2.38 nats by the patch",
                 "1 tokens in neither control", "norm of 1.50"):  # fmt: skip
        assert part in table.hovertext[1][0], table.hovertext[1][0]
    assert "nothing beyond the controls" in table.hovertext[0][0]
    assert "without a patch it says: the end" in said(fig)
    assert "the [bank]" in said(fig)


def test_without_another_prompt_there_is_no_control_column() -> None:
    none = scope(
        other_ids=np.empty((0, 2), dtype=int), other_words=(), other_source="",
        other_log_prob=np.empty((0, 2)),
    )  # fmt: skip
    table = named(plot.patchscope(none), "words")
    assert np.array(table.z).shape == (3, 2)


def test_agreement_shows_precision_surprisal_lens_and_chance() -> None:
    agrees = np.array([[False, True], [True, True]])
    found = PatchscopeAgreement(
        states=np.array([0, 1]),
        target_states=np.array([0, 1]),
        texts=("a", "b"),
        own=("x", "y"),
        agrees=agrees,
        surprisal=np.array([[3.0, 1.0], [1.0, 0.5]]),
        plain_agrees=np.array([False, True]),
        plain_surprisal=np.array([6.0, 2.0]),
        lens_agrees=~agrees,
        lens_surprisal=np.array([[4.0, 2.0], [2.0, 1.0]]),
        precision_low=np.array([0.1, 0.3]),
        precision_high=np.array([0.9, 1.0]),
        target_prompt="p",
        target_model="m",
        notes=(),
        provenance=Provenance(),
    )
    fig = plot.patchscope_agreement(found)
    np.testing.assert_array_equal(named(fig, "precision, patchscope").y, [0.5, 1.0])
    np.testing.assert_array_equal(named(fig, "precision, logit lens").y, [0.5, 0.0])
    np.testing.assert_array_equal(named(fig, "surprisal, patchscope").y, [2.0, 0.75])
    np.testing.assert_allclose(named(fig, "precision, patchscope").error_y.array, [0.4, 0.0])
    lines = {shape.name: shape.y0 for shape in fig.layout.shapes}
    assert lines == {"precision without a patch": 0.5, "surprisal without a patch": 4.0}


@pytest.mark.parametrize("place", ["tokens", "twin", "prompt", "words"])
def test_hostile_text_stays_text(place: str) -> None:
    hostile = (TOKENS[0], HOSTILE, *TOKENS[2:])
    figures = {
        "tokens": lambda: plot.drift(drift(tokens=hostile)),
        "twin": lambda: plot.drift(drift(twin_tokens=hostile)),
        "prompt": lambda: plot.patchscope(scope(target_prompt=HOSTILE, other_source=HOSTILE)),
        "words": lambda: plot.patchscope(
            scope(tokens=(HOSTILE, "is"), words=((HOSTILE, "b"), ("c", "d"), ("e", "f")))
        ),
    }
    text = json.dumps(
        figures[place]().to_plotly_json(),
        default=lambda value: np.asarray(value).tolist(),
        ensure_ascii=False,
    )
    for forbidden in ("<script", "$x", "\\u001b", "\u202e"):
        assert forbidden not in text
