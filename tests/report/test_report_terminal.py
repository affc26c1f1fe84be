"""The report in the terminal: short, in columns, and safe to print."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dst.core.results import Coherence, Estimate, Mark, Markers, Report, Score
from dst.report import render_text
from dst.report.lines import cells, cut
from dst.report.rows import causes
from dst.studies.verdict import verdict
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
        "  <subject> [cue]   p 0.84   p(A+)+p(A-) 0.92\n"
        "\n"
        "state            says     p           associative contextual                 LD\n"
        "embedding        the   0.01                      │                         0.00\n"
        "after block 1    a     0.06                      │█████████████            1.45\n"
        "after block 2    bass  0.18                      │████████▌                0.92\n"
        "after block 3    lake  0.36               ███████│                        −0.77\n"
        "after block 4    fish  0.84 █████████████████████│                        −2.31\n"
        "\n"
        "LD −2.31 = base 0.50 ±0.10 + prior −4.00 ±0.50 + context 1.19 ±0.20 logits\n"
        "context      ▅▅▅▆▆  at the answer from state 3 (2.5 to 3), handed over 3\n"
        "association  ▅▁▁▁▁  at the answer from state 1 (1 to 1), handed over 1\n"
        "\n"
        "dss_corrected         0.20  ·▆▅▄▂  share\n"
        "cas_corrected        −0.18  ▇▅▄▂▁\n"
        "published scores  dss 0.47, cas 0.54\n"
        "causal commitment de-prime: 2 (1 to 2)\n"
        "lens marks        inversion 3 (2.4 to 3.4), commitment 3\n"
        "published marks   guide: onset 1, commitment 4; code: onset 1; no inversion\n"
        "\n"
        "The answer could be repaired up to state 1 of 4; after that 'fish' is committed.\n"
        "2 notes in the report\n"
    )


def test_without_the_two_pathways_ld_stands_with_the_answer_and_the_reason_below() -> None:
    why = "The two pathways were not measured: the case names no cue."
    report = make_report(flows=False).replace(notes=("a note", why, "another"))
    text = plain(report)
    assert "  <subject> [cue]   p 0.84   LD −2.31 logits   p(A+)+p(A-) 0.92\n" in text
    assert "prior" not in text
    assert "causal" not in text
    assert text.endswith(f"note: {why}\n2 more notes in the report\n")
    assert why not in plain(make_report().replace(notes=(why,)))  # where they were measured


@pytest.mark.parametrize("width", [72, 80, 110])
@pytest.mark.parametrize("n_layers", [1, 4, 12, 80])
def test_no_line_is_wider_than_the_terminal(width: int, n_layers: int) -> None:
    lines = plain(make_report(n_layers=n_layers), width).splitlines()
    assert max(map(cells, lines)) <= width
    assert len(lines) <= 34


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
    report = make_report().replace(answer="\x1b]0;owned\x07", verdict=("\x1b[1m", "\x1b[2J"))
    assert "→ \\x1b]0;owned\\x07" in plain(report)
    assert plain(report).startswith("\\x1b[1m\n")
    assert "\n\\x1b[2J\n" in plain(report)


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
        Score("f", np.array([1.0, 1, 1, 1, NAN]), NAN, "share", ("", "", "", "", "misled")),
    )
    text = plain(report.replace(coherence=Coherence(scores)))
    rows = {line[0]: line.split() for line in text.splitlines() if re.match(r"[abcdf]  ", line)}
    assert rows["a"][2] == "·▁▅█▃"
    assert rows["b"][2] == "▁▃▅▆█"
    assert rows["d"][1:] == ["0.00", "▅▅▅▅▅"]
    assert rows["f"][1:] == ["NaN", "████·", "misled"]
    assert "c" not in rows  # nowhere defined: its reason is on the page


def test_one_row_per_family_and_the_other_scores_in_lines() -> None:
    value, none = np.array([0.25, 0.5]), ("", "")
    half = Score("dss_in_transit", np.array([0.5, NAN]), NAN, "share", ("", "nothing has arrived"))
    scores = (
        Score("dss_causal", value, 0.5, "share", none),
        Score("dss_removal", value, 0.75, "share", none),
        half,
        Score("dss_published", value, 0.125, "share", none),
        Score("dss_attribution", value, 0.25, "share", none),
        Score("cas_published", value, 0.5, "share", none),
        Score("margin_causal", value, 1.5, "logits", none),
        Score("margin", value, 9.75, "logits", none),
    )
    lines = plain(make_report().replace(coherence=Coherence(scores))).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("dss_causal"))
    assert lines[start : start + 4] == [
        "dss_causal            0.50  ▃▅  share",
        "margin_causal         1.50  ▆█  logits",
        "other scores      dss_removal 0.75, dss_attribution 0.25",
        "published scores  dss 0.12, cas 0.50",
    ]
    assert "9.75" not in "\n".join(lines)  # the layers' strip is this curve


def test_marks_are_told_by_kind_the_causal_ones_first() -> None:
    marks = (
        Mark("onset", "published (guide) on dss_published", 2.0, 4),
        Mark("onset", "published (code) on cas_published", NAN, 4, reason="none"),
        Mark("inversion", "published (code) on cas_published", NAN, 4, reason="none"),
        Mark("commitment", "somebody's", 1.0, 4),
        Mark("onset", "lens (dst) on margin", NAN, 4, reason="needs correct runs"),
        Mark("inversion", "lens (dst) on margin", 2.0, 4),
        Mark("commitment", "lens (dst) on margin", 3.0, 4, low=2.5, high=3.5),
        Mark("commitment", "causal, de-prime", 3.0, 4, low=3.0, high=3.0),
        Mark("commitment", "causal, replace subject", 3.0, 4, low=3.0, high=3.0),
        Mark("commitment", "causal, remove cue", NAN, 4, reason="nothing to break: no success"),
    )
    lines = plain(make_report().replace(markers=Markers(marks))).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("causal commitment"))
    assert lines[start : start + 4] == [
        "causal commitment de-prime, replace subject: 3 (3 to 3)",
        "lens marks        inversion 2, commitment 3 (2.5 to 3.5); no onset",
        "published marks   guide: onset 2; no inversion",
        "other marks       somebody's: commitment 1",
    ]
    absent = tuple(mark for mark in marks if mark.reason)
    text = plain(make_report().replace(markers=Markers(absent)))
    assert "causal commitment none\n" in text
    flow = Mark("arrival", "contextual flow at answer", 2.0, 4)
    report = make_report().replace(markers=Markers((*marks[-3:], flow)), pathways=None)
    text = plain(report)  # two names: each says which it is
    assert "causal marks      de-prime, replace subject: commitment 3 (3 to 3);" in text
    assert "contextual flow at answer: arrival 2" in " ".join(text.split())


def test_a_long_list_of_marks_is_cut_to_two_lines() -> None:
    marks = tuple(Mark("commitment", f"causal, repair {i}", float(i % 4), 4) for i in range(40))
    lines = plain(make_report().replace(markers=Markers(marks))).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("causal commitment"))
    assert lines[start + 1].startswith(" " * 18)
    assert lines[start + 1].endswith(" …")
    assert lines[start + 2] == ""
    assert max(map(cells, lines)) <= 80


# ------------------------------------------------------------------------------ the pathways


def test_the_sum_has_the_half_width_of_each_interval() -> None:
    report = make_report()
    assert report.pathways is not None
    paths = report.pathways.replace(
        contrast=1.25,
        base=Estimate(-0.5, -0.75, -0.25, 4),
        prior=Estimate(-2.0, NAN, NAN, 1),
        total_effect=Estimate(3.75, 2.75, 4.75, 4),
    )
    line = "LD 1.25 = base −0.50 ±0.25 + prior −2.00 + context 3.75 ±1.00 logits"
    assert line in plain(report.replace(pathways=paths)).splitlines()


def test_the_flows_share_a_scale_that_holds_their_floors() -> None:
    report = make_report()
    assert report.pathways is not None
    table = np.zeros_like(report.pathways.contextual_insertion)
    table[:, :, -1] = [0.0, 0.0, 1.0, 2.0, 4.0]
    paths = report.pathways.replace(
        contextual_insertion=table, associative_insertion=-table / 2, contextual_floor=4.0
    )
    lines = plain(report.replace(pathways=paths)).splitlines()
    assert [line.split()[1] for line in lines if line.startswith(("context ", "assoc"))] == [
        "▅▅▅▆█",
        "▅▅▄▄▃",
    ]
    lines = plain(report.replace(pathways=paths.replace(contextual_floor=40.0))).splitlines()
    (context,) = [line.split()[1] for line in lines if line.startswith("context ")]
    assert context == "▅▅▅▅▅"  # within its floor a curve is flat


def test_a_flow_that_does_not_arrive_says_why() -> None:
    report = make_report()
    assert report.pathways is not None
    why = "the total is under the floor (0.10 < 0.20 logits)"
    marks = (Mark("arrival", "contextual flow at answer", NAN, 4, reason=why),)
    text = plain(report.replace(pathways=report.pathways.replace(marks=marks)), 110)
    assert f"context      ▅▅▅▆▆  not at the answer: {why}\n" in text


def test_sentences_of_the_verdict_on_numbers_already_shown_are_left_out() -> None:
    """On a planted failure: its own verdict, told by `explain`'s words."""
    report = make_report()
    claims = verdict(
        report.case, report.trace, report.lens, report.markers, report.outcome,
        report.pathways, report.repairs, report.attribution,
    )  # fmt: skip
    told = tuple(claim.says for claim in claims)
    shown_elsewhere = ("LD -2.31 = base", "flow is at the answer position", "the lens")
    for part in (*shown_elsewhere, "the context has"):
        assert any(part in sentence for sentence in told), part
    lines = " ".join(plain(report.replace(verdict=told, claims=claims)).split())
    assert "compete; the context has 23% of the evidence" in lines
    assert "repaired up to state 1 of 4 (commitment 1 to 2 over draws) by taking away what" in lines
    assert "The context is carried by 'concert' (cue, states 0 to 1)" in lines
    for part in shown_elsewhere:
        assert part not in lines
    # Sentences that no claim places are all told.
    assert causes(report.replace(verdict=("a", "LD is high."))) == ["LD is high."]


def test_a_report_without_scores_marks_or_verdict_is_told_by_its_outcome() -> None:
    report = make_report().replace(
        coherence=Coherence(()), markers=Markers(()), verdict=(), notes=(), outcome="neither"
    )
    text = plain(report)
    assert text.startswith("The greedy answer is neither")
    assert "scores" not in text
    assert "marks" not in text


def test_a_hardly_given_answer_is_warned_of() -> None:
    report = make_report()
    tiny = np.full(5, 0.001)
    lens = report.lens.replace(contextual_prob=tiny, associative_prob=tiny)
    text = " ".join(plain(report.replace(lens=lens)).split())
    assert "together have probability 0.002, under 0.05: the answer is not given" in text
    assert "The model goes on: 'fish .'" in text
    longer = report.replace(lens=lens, continuation="fish . anna sees")
    assert "The model goes on: 'fish . anna sees'" in " ".join(plain(longer).split())
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
