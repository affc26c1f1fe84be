"""Text is shown, never obeyed: escapes, tags, directions, and numbers in words."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dst import plot
from dst.plot.text import label, number, probability, short, state_name, visible, word
from tests.report.example import make_report


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – text", "plain – text"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("\ud800", "\\ud800"),
        ("नमस्ते क्\u200dष 👩\u200d🔬", "नमस्ते क्\u200dष 👩\u200d🔬"),
    ],
)
def test_characters_that_act_are_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_line_break_can_be_kept() -> None:
    assert visible("a\nb\x00", keep="\n") == "a\nb\\x00"


@given(st.text())
def test_visible_text_can_be_printed_and_encoded(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)
    assert visible(shown) == shown


@given(st.text())
def test_a_label_holds_no_tag_and_no_formula(text: str) -> None:
    shown = label(text)
    assert not set("<>$") & set(shown)


def test_white_space_alone_is_a_visible_word() -> None:
    assert word("  ") == "␣"
    assert word(" bass") == "bass"
    assert word("\n") == "\\n"


def test_a_long_word_is_cut() -> None:
    assert short(" instrument") == "instrument"
    assert short("abcdefghijkl") == "abcdefghijkl"
    assert short("abcdefghijklm") == "abcdefghijk…"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.005, "1.00"), (-2.314, "−2.31"), (-0.001, "0.00"), (float("nan"), "NaN")],
)
def test_numbers(value: float, shown: str) -> None:
    assert number(value) == shown


def test_infinite_numbers() -> None:
    assert (number(float("inf")), number(float("-inf"))) == ("∞", "−∞")


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0.00"), (0.004, "<0.01"), (0.005, "0.01"), (1.0, "1.00")]
)
def test_a_small_probability_is_not_shown_as_none(value: float, shown: str) -> None:
    assert probability(value) == shown


def test_states_in_words() -> None:
    assert state_name(0) == "embedding"
    assert state_name(3.0) == "after block 3"
    assert state_name(3, 12) == "after block 3 of 12"


# ------------------------------------------------------------------------------ the prompt


class Spans(HTMLParser):
    """The text of every element with a role, and every tag that was met."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.roles: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self.text = ""
        self._role: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "span":
            self._role = dict(attrs).get("data-role")

    def handle_endtag(self, tag: str) -> None:
        if tag == "span":
            self._role = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._role:
            self.roles.append((data, self._role))


def test_every_token_of_the_prompt_has_its_role() -> None:
    trace = make_report().trace
    seen = Spans(plot.prompt(trace)._repr_html_())
    assert seen.roles == list(zip(trace.tokens, trace.roles, strict=True))
    assert "carries the association" in seen.text
    assert "distractor" not in seen.text  # the legend names the roles that are there


def test_tokens_with_leading_spaces_are_joined_as_they_are() -> None:
    report = make_report(
        prompt="The concert bass is a", tokens=["The", " concert", " ba", "ss", " is", " a"]
    )
    assert Spans(str(plot.prompt(report.trace))).text.startswith("The concert bass is a")
    report = make_report(prompt="The concert bass is a")
    assert Spans(str(plot.prompt(report.trace))).text.startswith("The concert bass is a")


def test_a_prompt_cannot_add_tags_or_attributes() -> None:
    bad = ['<script>alert("1")</script>', "&amp;", "\"'onmouseover=x", "a\nb", "\x1b[31m"]
    report = make_report(prompt=" ".join(["bass concert", *bad]), tokens=["bass", "concert", *bad])
    report = report.replace(
        trace=report.trace.replace(roles=('x" onclick="y', *report.trace.roles[1:]))
    )
    seen = Spans(plot.prompt(report.trace).html)
    assert seen.tags == {"div", "p", "span", "br"}
    for text in bad[:3]:
        assert text in seen.text
    assert "a\\n" in seen.text
    assert "\\x1b[31m" in seen.text
    assert seen.roles[0] == ("bass", 'x" onclick="y')
