"""The report in the terminal: short, in columns, and safe to print."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dst.core.results import Coherence, Mark, Markers, Report, Score
from dst.report import render_text
from dst.report.lines import cells, cut
from tests.report.example import NAN, make_report

SGR = re.compile(r"\x1b\[[0-9;]*m")


def plain(report: Report, width: int = 80, ascii_only: bool = False) -> str:
    return render_text(report, colour=False, width=width, ascii_only=ascii_only)


def test_the_whole_text_of_a_small_model() -> None:
    assert plain(make_report()) == (
        "The model answers 'fish' where the context says 'instrument' (LD -2.31 logits).\n"
        "\n"
        "  anna is at the [concert] . anna sees a <bass> . the door is open . what is the\n"
        "  <bass> ? the <bass> is a → fish\n"
        "  <subject> [cue]   p 0.84   LD −2.31 logits   p(A+)+p(A-) 0.92\n"
        "\n"
        "state            says     p           associative contextual                 LD\n"
        "embedding        the   0.01                      │                         0.00\n"
        "after block 1    a     0.06                      │█████████████            1.45\n"
        "after block 2    bass  0.18                      │████████▌                0.92\n"
        "after block 3    lake  0.36               ███████│                        −0.77\n"
        "after block 4    fish  0.84 █████████████████████│                        −2.31\n"
        "\n"
        "score             total  by state\n"
        "dss_published      0.47  ·▅▅▄▄  share\n"
        "dss_corrected      0.20  ·▆▅▄▂  share\n"
        "cas_published      0.54  ▅▅▅▄▅  share\n"
        "cas_corrected     −0.18  ▇▅▄▂▁\n"
        "margin            −2.31  ▅▇▆▃▁  logits\n"
        "\n"
        "definition                            marks, at state 0..4\n"
        "published (guide) on dss_published    onset 1, commitment 4; no inversion (dss_…\n"
        "published (v3 code) on cas_published  onset 1\n"
        "ours, on the lens margin              inversion 3 (2.4 to 3.4), commitment 3\n"
        "\n"
        "After block 1 the residual leaned to 'instrument'; from block 3 on it says\n"
        "'fish'.\n"
        "note: The associative answer 'fish' was inferred: it is the likeliest word.\n"
        "note: The form 'Fish' was dropped: it is no token of this vocabulary.\n"
    )


@pytest.mark.parametrize("width", [72, 80, 110])
@pytest.mark.parametrize("n_layers", [1, 4, 12, 80])
def test_no_line_is_wider_than_the_terminal(width: int, n_layers: int) -> None:
    lines = plain(make_report(n_layers=n_layers), width).splitlines()
    assert max(map(cells, lines)) <= width
    assert len(lines) <= 38


def test_colour_adds_nothing_but_colour() -> None:
    report = make_report()
    painted = render_text(report, colour=True, width=80)
    assert SGR.search(painted)
    # Spaces at a line's end may stand before a colour's end.
    stripped = [line.rstrip() for line in SGR.sub("", painted).splitlines()]
    assert stripped == plain(report).splitlines()
    for line in painted.splitlines():
        codes = SGR.findall(line)
        assert codes[1::2] == ["\x1b[0m"] * (len(codes) // 2)


@given(st.text(min_size=1).filter(lambda text: text.strip() != ""))
@settings(max_examples=60, deadline=None)
def test_no_text_of_prompt_or_model_reaches_the_terminal_as_a_control(text: str) -> None:
    report = make_report(vocabulary=[text + str(i) for i in range(10)])
    trace = report.trace.replace(tokens=(text, *report.trace.tokens[1:]))
    report = report.replace(trace=trace, answer=text, verdict=(text, text), notes=(text,))
    shown = plain(report)
    shown.encode("utf-8")
    assert not any((ord(char) < 32 and char != "\n") or 127 <= ord(char) < 160 for char in shown)
    assert "\u202e" not in shown


def test_an_escape_sequence_is_shown() -> None:
    report = make_report().replace(answer="\x1b]0;owned\x07", notes=("\x1b[2J",))
    assert "→ \\x1b]0;owned\\x07" in plain(report)
    assert "note: \\x1b[2J" in plain(report)


def test_ascii_keeps_the_columns() -> None:
    report = make_report().replace(answer="ﬁsh 魚")
    text, ascii_text = plain(make_report()), plain(make_report(), ascii_only=True)
    assert ascii_text.isascii()
    assert [len(a) for a in text.splitlines()] == [len(b) for b in ascii_text.splitlines()]
    assert "#######|" in ascii_text
    assert "LD -2.31 logits" in ascii_text
    assert "\\ufb01sh \\u9b5a" in plain(report, ascii_only=True)


def test_bars_point_to_their_side_and_scale_with_the_largest_margin() -> None:
    report = make_report()
    report = report.replace(lens=report.lens.replace(margin=np.array([0.0, 1.0, NAN, -2.0, -4.0])))
    rows = [line for line in plain(report).splitlines() if "│" in line]
    halves = [row.split("│") for row in rows]
    left = [before.count("█") + before.count("▐") / 2 for before, _ in halves]
    right = [after.count("█") + after.count("▌") / 2 for _, after in halves]
    assert left == [0, 0, 0, 10.5, 21]
    assert right == [0, 5, 0, 0, 0]
    assert [row.split()[-1] for row in rows] == ["0.00", "1.00", "NaN", "−2.00", "−4.00"]


def test_sparks_follow_the_score_and_gaps_are_dots() -> None:
    report = make_report()
    scores = (
        Score("a", np.array([NAN, 0.0, 0.5, 1.0, 0.25]), 0.25, "share", ("none", "", "", "", "")),
        Score("b", np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), 2.0, "logits", ("",) * 5),
        Score("c", np.full(5, NAN), NAN, "share", ("no concept words",) * 5),
        Score("d", np.zeros(5), 0.0, "1", ("",) * 5),
        Score("e", np.full(5, NAN), NAN, "share", ("no concept words",) * 5),
        Score("f", np.array([1.0, 1, 1, 1, NAN]), NAN, "share", ("", "", "", "", "misled")),
    )
    text = plain(report.replace(coherence=Coherence(scores)))
    rows = {line[0]: line.split() for line in text.splitlines() if re.match(r"[abcdef]  ", line)}
    assert rows["a"][2] == "·▁▅█▃"
    assert rows["b"][2] == "▁▃▅▆█"
    assert rows["d"][1] == "0.00"
    assert rows["f"][1:] == ["NaN", "████·", "misled"]
    assert not {"c", "e"} & set(rows)
    assert "\nundefined: c, e (no concept words)\n" in text


def test_marks_stand_with_their_definition_and_absent_ones_with_their_reason() -> None:
    marks = (
        Mark("onset", "rule A", 2.0, 4),
        Mark("inversion", "rule A", NAN, 4, reason="never contextual"),
        Mark("commitment", "rule A", 3.0, 4, low=2.5, high=3.5),
        Mark("arrival", "rule B", NAN, 4, reason="under the floor"),
    )
    lines = plain(make_report().replace(markers=Markers(marks))).splitlines()
    start = lines.index("definition  marks, at state 0..4")
    assert lines[start + 1 : start + 3] == [
        "rule A      onset 2, commitment 3 (2.5 to 3.5); no inversion (never contextual)",
        "rule B      no arrival (under the floor)",
    ]


def test_a_report_without_scores_marks_or_verdict_is_told_by_its_outcome() -> None:
    report = make_report().replace(
        coherence=Coherence(()), markers=Markers(()), verdict=(), notes=(), outcome="neither"
    )
    text = plain(report)
    assert text.startswith("The greedy answer is neither")
    assert "score" not in text
    assert "mark" not in text


def test_a_hardly_given_answer_is_warned_of() -> None:
    report = make_report()
    tiny = np.full(5, 0.001)
    lens = report.lens.replace(contextual_prob=tiny, associative_prob=tiny)
    text = " ".join(plain(report.replace(lens=lens)).split())
    assert "together have probability 0.002, under 0.05: the answer is not given" in text
    assert "The model goes on: 'fish .'" in text
    assert "not given" not in plain(report)


def test_a_long_prompt_keeps_its_ends() -> None:
    tokens = ["bass", "concert", *(f"word{i}" for i in range(300)), "end"]
    lines = plain(make_report(prompt=" ".join(tokens))).splitlines()
    prompt = lines[2 : lines.index("") + 1 + lines[2:].index("")]
    assert prompt[0].startswith("  <bass> [concert] word0")
    assert re.fullmatch(r"  … \d+ more lines …", prompt[2])
    assert prompt[4].endswith("end → fish")
    assert len(prompt) == 6  # five lines of prompt, one of numbers


def test_subword_tokens_are_one_word_and_brackets_hold_the_mention() -> None:
    tokens = ["The", " concert", " hall", ":", " ba", "ss", " is", "\n", "a"]
    report = make_report(prompt="The concert hall: bass is\na", tokens=tokens)
    roles = ("rest", "cue", "cue", "rest", "subject_1", "subject_1", "rest", "rest", "answer")
    report = report.replace(trace=report.trace.replace(roles=roles))
    assert "  The [concert hall]: <bass> is a → fish" in plain(report).splitlines()


def test_a_word_longer_than_a_line_is_cut() -> None:
    tokens = ["bass ", "concert ", *["https://x/"] * 30, " a"]
    report = make_report(prompt="".join(tokens), tokens=tokens)
    lines = plain(report.replace(verdict=("x" * 9999,))).splitlines()
    assert max(map(cells, lines)) <= 80
    assert lines[0] == "x" * 79 + "…"
    assert lines[3].endswith("…")


@pytest.mark.parametrize(
    ("text", "room", "kept"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("魚魚", 3, "魚…"), ("魚魚", 4, "魚魚"), ("a", 0, "")],
)
def test_text_is_cut_to_columns(text: str, room: int, kept: str) -> None:
    assert cut(text, room) == kept
    assert cells(cut(text, room)) <= room


def test_wide_characters_take_two_columns() -> None:
    report = make_report(vocabulary=["魚の名前", *"abcdefghi"])
    rows = [line for line in plain(report).splitlines() if "│" in line]
    assert len({cells(row[: row.index("│")]) for row in rows}) == 1
