"""Figures of spans: the numbers of the result, in the place of their words, and nothing obeyed."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from dst import plot
from dst.core.case import Case
from dst.core.results import Estimate, Provenance
from dst.core.span_results import Span, Spans
from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL

NAN = float("nan")
HOSTILE = "<script>alert(1)</script>$x$\u202e"


def span(units: tuple[int, ...], n: float, k: float, words: tuple[str, ...], **fields: Any) -> Span:
    return Span(
        **{
            "words": tuple(words[i] for i in units),
            "units": units,
            "positions": tuple(i + 1 for i in units),
            "necessity": Estimate(n, n - 0.25, n + 0.5, 24),
            "kept": Estimate(k, k - 0.5, k + 0.25, 24),
            "sufficiency": Estimate(k / 4, k / 4 - 0.1, k / 4 + 0.1, 24),
            "joint": min(n, k),
            "necessity_by_fill": np.array([n, n]),
            "necessity_together": 0.75 if len(units) > 1 else 0.0,
            "kept_together": -0.5 if len(units) > 1 else 0.0,
            "control": 0.125,
            "n_controls": 7,
            "held_out": True,
            **fields,
        }
    )


def spans(toward: str = "associative", words: tuple[str, ...] = ("anna", "lake", "bass"),
          **fields: Any) -> Spans:  # fmt: skip
    effects = ((0.5, 0.25), (-1.5, -1.0), (3.0, 2.0))
    singles = tuple(span((i,), *effects[i], words) for i in range(3))
    return Spans(
        **{
            "case": Case(prompt=" ".join(words), contextual="a", associative="b"),
            "tokens": ("<bos>", *words, "is"),
            "outcome": "hallucination",
            "toward": toward,
            "contrast": -2.5,
            "y": 2.5,
            "resampled": Estimate(-1.5, -2.0, -1.0, 24),
            "words": words,
            "word_positions": ((1,), (2,), (3,)),
            "singles": singles,
            "found": (span((0, 2), 4.0, 3.5, words), singles[2]),
            "main_effect": np.zeros(3),
            "interaction": np.full((3, 3), NAN),
            "fills": ("neutral", "random"),
            "search_fills": ("cup",),
            "scoring_fills": ("hat",),
            "draws": 24,
            "budget": 4000,
            "forward_passes": 1234,
            "changed_tokens": 5000,
            "complete": True,
            "left_out": ("'of': the answer is read after it",),
            "notes": (),
            "provenance": Provenance(),
            **fields,
        }
    )


def test_bars_are_the_numbers_with_their_intervals() -> None:
    fig = plot.spans(spans())
    necessity, kept, single_n, single_k = fig.data
    assert list(necessity.x) == [4.0, 3.0]
    assert list(kept.x) == [3.5, 2.0]
    assert list(single_n.x) == [0.5, -1.5, 3.0]
    assert list(single_k.x) == [0.25, -1.0, 2.0]
    assert list(necessity.error_x.array) == [0.5, 0.5]
    assert list(necessity.error_x.arrayminus) == [0.25, 0.25]
    assert list(fig.layout.yaxis.ticktext) == ["anna … bass", "bass"]
    assert list(fig.layout.yaxis2.ticktext) == ["anna", "lake", "bass"]
    assert "necessity 4.00 (3.75 to 4.50) logits" in necessity.hovertext[0]
    assert "beyond its words: necessity 0.75, kept −0.50" in necessity.hovertext[0]
    assert "as good among 7 random: 0.12" in necessity.hovertext[0]
    low, high = fig.layout.xaxis.range
    assert low < -1.75
    assert high > 4.5
    assert [shape.x0 for shape in fig.layout.shapes] == [0, 2.5, 0, 2.5]
    json.loads(fig.to_json())


@pytest.mark.parametrize(
    ("toward", "for_it", "against"),
    [("associative", ASSOCIATIVE, CONTEXTUAL), ("contextual", CONTEXTUAL, ASSOCIATIVE)],
)
def test_colour_is_the_side_and_the_pattern_tells_the_two_apart(
    toward: str, for_it: str, against: str
) -> None:
    fig = plot.spans(spans(toward))
    assert list(fig.data[2].marker.color) == [for_it, against, for_it]
    assert fig.data[2].marker.pattern.shape is None
    assert fig.data[3].marker.pattern.shape == "/"


def test_fewer_can_be_shown_and_none_is_said() -> None:
    assert len(plot.spans(spans(), n=1).data[0].x) == 1
    fig = plot.spans(spans(found=()))
    assert "none: no word is both" in fig.layout.annotations[0].text
    assert "no word is both necessary and sufficient" in str(plot.span_prompt(spans(found=())))


def test_what_is_not_measured_is_a_gap_with_its_reason() -> None:
    words = ("anna", "lake", "bass")
    unknown = Estimate(NAN, NAN, NAN, 0)
    blank = span((0,), NAN, NAN, words, necessity=unknown, kept=unknown, sufficiency=unknown,
                 reason="it was not measured before the work stopped")  # fmt: skip
    found = spans(singles=(blank, blank, blank), found=(), complete=False, notes=("stopped",))
    fig = plot.spans(found)
    assert np.isnan(fig.data[2].x).all()
    assert "it was not measured" in fig.data[2].hovertext[0]
    assert "stopped" in fig.layout.annotations[0].hovertext


class Marked(HTMLParser):
    """Every marked token with its span's number, and the tags that were met."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.marked: list[tuple[str, str | None]] = []
        self.tags: set[str] = set()
        self._span: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._span = dict(attrs).get("data-span")

    def handle_data(self, data: str) -> None:
        if self._span:
            self.marked.append((data, self._span))
            self._span = None


def test_words_are_marked_where_they_stand() -> None:
    view = plot.span_prompt(spans())
    assert Marked(view._repr_html_()).marked == [("anna", "1"), ("bass", "1")]  # the better span
    only = spans(found=spans().found[1:])
    assert Marked(str(plot.span_prompt(only))).marked == [("bass", "1")]
    assert "necessity 4.00 (3.75 to 4.50)" in view.html


def test_a_prompt_cannot_add_tags() -> None:
    found = spans(words=(HOSTILE, "lake", "bass"))
    view = plot.span_prompt(found)
    assert Marked(view.html).tags == {"div", "p", "span", "br"}
    assert "\u202e" not in view.html
    fig = plot.spans(found)
    assert not any(set("<>$") & {*text} for text in fig.layout.yaxis2.ticktext)
    assert "<script" not in fig.to_json()
