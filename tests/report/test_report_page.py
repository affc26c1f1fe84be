"""The page: whole, offline, escaped, and with every number of the report."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dst.core.case import Case
from dst.core.claims import Claim
from dst.core.errors import ResultError
from dst.core.failure_results import FailureMode
from dst.core.results import Estimate, Report
from dst.plot.text import number
from dst.report import render_page, write_page
from dst.report.document import inert_json
from dst.report.failure_rows import rules_of
from dst.report.reproduce import command_line, python_lines
from tests.report.example import NAN, make_failure, make_report, make_suggestion

VOID = {"meta", "link", "br"}
HOSTILE = ["</script><script>alert(1)</script>", "<!--", "&amp;", "\x1b[31m", "\u202eevil", "$x$"]


class Document(HTMLParser):
    """A page taken apart: tags with attributes, text by element, and whether tags are closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def scripts(self, data: bool) -> list[str]:
        kinds = [attrs.get("type") for attrs in self.all("script")]
        return [
            text
            for kind, text in zip(kinds, self.texts["script"], strict=True)
            if (kind == "application/json") is data
        ]


def whole_report() -> Report:
    """A report with every section that one can have."""
    report = make_report()
    return report.replace(
        failure=make_failure(4, -2.31), suggestion=make_suggestion(report.case, -2.31)
    )


def hostile_failure(bad: str) -> FailureMode:
    mode = make_failure(4, -2.31)
    findings = tuple(replace(finding, name=bad, says=bad, rule=bad) for finding in mode.findings)
    evidence = mode.evidence.replace(notes=(bad,))
    return mode.replace(mode=bad, rule=bad, says=bad, findings=findings, evidence=evidence)


def hostile_report() -> Report:
    prompt = " ".join(["bass", "concert", *HOSTILE, "a"])
    words = [*HOSTILE, "x<y", 'q"uote', "it's", "\ud800"]
    report = make_report(prompt=prompt, vocabulary=words)
    bad = HOSTILE[0]
    marks = tuple(mark.replace(definition=bad, note=bad) for mark in report.markers.marks)
    scores = tuple(
        score.replace(
            note=bad, says=bad, reasons=tuple(bad if reason else "" for reason in score.reasons)
        )
        for score in report.coherence.scores
    )
    assert report.pathways is not None
    assert report.repairs is not None
    assert report.attribution is not None
    roles = tuple(f"{bad}{i}" for i in range(len(report.pathways.roles) - 1))
    flow_marks = tuple(
        mark.replace(note=bad, reason=bad, state=NAN) for mark in report.pathways.marks
    )
    fixes = report.repairs.replace(
        names=(bad, bad),
        commitments=tuple(
            mark.replace(definition=bad, reason=bad, state=NAN)
            for mark in report.repairs.commitments
        ),
    )
    components = (bad,) * len(report.attribution.components)
    return report.replace(
        pathways=report.pathways.replace(roles=(*roles, "answer"), marks=flow_marks),
        repairs=fixes,
        attribution=report.attribution.replace(components=components),
        verdict=(bad, bad),
        claims=(Claim(bad, "outcome", bad), Claim(bad, bad, bad)),
        failure=hostile_failure(bad),
        suggestion=make_suggestion(report.case, -2.31).replace(
            cue_reason="", masked_by=bad, twin=bad, twin_reason=""
        ),
        notes=(bad, bad),
        answer=bad,
        markers=report.markers.replace(marks=marks),
        coherence=report.coherence.replace(scores=scores),
    )


# -------------------------------------------------------------------------------- the whole


@pytest.mark.parametrize(
    "report", [make_report(), make_report(n_layers=40), whole_report(), hostile_report()]
)
def test_the_page_is_well_formed(report: Report) -> None:
    page = Document(render_page(report))
    assert page.open == []
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1
    assert page.texts["h1"] == page.texts["title"]
    identities = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identities) == len(set(identities))
    for section in page.all("section"):
        assert section["aria-labelledby"] in identities


def test_the_verdict_is_the_title_and_the_parts_come_in_order() -> None:
    report = whole_report()
    page = Document(render_page(report))
    assert page.texts["h1"] == [report.verdict[0]]
    assert page.texts["h2"] == [
        *("The prompt", "The outcome", "What was inferred", "What each layer was saying"),
        *("Two pathways", "Words and heads", "What would have repaired it", "Failure mode"),
        *("Which components wrote it", "Where it turned", "Coherence scores", "Marks", "Notes"),
        "Where this comes from",
    ]
    assert page.texts["h3"][-4:-1] == ["Causal", "Lens", "Published"]
    assert report.verdict[1].startswith("LD ")
    assert report.verdict[1] not in page.texts["main"][0]  # a row of numbers says it
    assert report.verdict[2] in page.texts["main"][0]
    assert make_report().replace(verdict=()).outcome == "hallucination"
    bare = Document(render_page(report.replace(verdict=(), notes=())))
    assert bare.texts["h1"] == ["The greedy answer is an associative form: a hallucination."]
    assert "Notes" not in bare.texts["h2"]


def test_the_page_asks_nothing_of_a_network() -> None:
    page = Document(render_page(make_report()))
    for tag, attrs in page.tags:
        assert not {"src", "srcset", "action", "background"} & set(attrs), tag
        if "href" in attrs:  # the icon, which is none, and places of the page itself
            assert attrs["href"] == "data:," or str(attrs["href"]).startswith("#h-")
    assert not {"img", "iframe", "object", "embed", "form", "base"} & {t for t, _ in page.tags}
    assert "@import" not in page.texts["style"][0]
    assert "url(" not in page.texts["style"][0]


def test_only_the_two_scripts_of_the_page_may_run() -> None:
    page = Document(render_page(hostile_report()))
    (policy,) = [
        attrs["content"] or ""
        for attrs in page.all("meta")
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    scripts = page.scripts(data=False)
    assert len(scripts) == 2
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in scripts]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split() == [f"'sha256-{digest.decode()}'" for digest in hashes]
    assert rules["img-src"] == "data:"
    first = [tag for tag, _ in page.tags].index("meta")
    assert [tag for tag, _ in page.tags].index("script") > first


def test_plotly_is_inlined_once_and_the_size_is_what_we_say() -> None:
    html = render_page(make_report())
    assert html.count("* plotly.js v") == 1
    assert 4.5e6 < len(html.encode()) < 5.2e6
    small = len(re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL).encode())
    assert small < 150_000


# --------------------------------------------------------------------------------- escaping


def test_nothing_that_is_shown_can_act() -> None:
    page = Document(render_page(hostile_report()))
    assert page.texts["h1"] == [HOSTILE[0]]
    assert len(page.all("script")) == 8  # five figures, the templates, Plotly, ours
    text = page.texts["main"][0]
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[31m" in text
    assert "&amp;" in text  # as text: it was escaped once
    for block in page.scripts(data=True):
        assert not set("<>&\u2028\u2029") & set(block)
        json.loads(block)


def test_json_in_the_page_says_the_same_without_tags() -> None:
    value = {"text": "</script><!-- & \u2028 'quoted' \"twice\" \\u003c"}
    written = inert_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(written) == value
    assert not set("<>&\u2028") & set(written)


# ---------------------------------------------------------------------------- what is told


def values(packed: Any) -> np.ndarray:
    """An array as Plotly writes it: base64 with its type, or a list."""
    if not isinstance(packed, dict):
        return np.array(packed)
    found = np.frombuffer(base64.b64decode(packed["bdata"]), dtype=packed["dtype"])
    return found.reshape([int(size) for size in str(packed.get("shape", found.size)).split(",")])


def test_the_figures_in_the_page_are_those_of_plot() -> None:
    report = make_report(n_layers=6)
    assert report.pathways is not None
    assert report.repairs is not None
    assert report.attribution is not None
    page = Document(render_page(report))
    paths, repairs, parts, margin, scores, templates = [
        json.loads(block) for block in page.scripts(data=True)
    ]
    maps = {trace["name"]: values(trace["z"]) for trace in paths["data"] if "z" in trace}
    for flow in ("contextual", "associative"):
        removal = getattr(report.pathways, f"{flow}_removal").mean(axis=0)
        np.testing.assert_allclose(maps[f"{flow} removal"], removal.T)
    repaired = [values(t["y"]) for t in repairs["data"] if t["name"] == "repaired"]
    np.testing.assert_array_equal(repaired, report.repairs.patched)
    assert {"contextual part", "associative part"} <= {t["name"] for t in parts["data"]}
    names = [trace["name"] for trace in margin["data"]]
    assert names == [  # causal marks stand in the figures of the interventions
        "logit lens margin",
        "inversion, lens (dst) on margin",
        "commitment, lens (dst) on margin",
    ]
    np.testing.assert_array_equal(values(margin["data"][0]["y"]), report.lens.margin)
    shown = [trace["name"].split()[0].rstrip(",") for trace in scores["data"]]
    assert shown[:3] == ["dss_published", "dss_corrected", "undefined"]
    assert shown[3:5] == ["cas_published", "cas_corrected"]
    assert shown.count("onset") == 2
    assert "margin" not in shown
    assert set(templates) == {"light", "dark"}
    assert templates["light"] != templates["dark"]


def test_what_was_not_measured_has_no_section_and_its_note_says_why() -> None:
    why = "The two pathways were not measured: the case names no cue."
    report = make_report(flows=False)
    page = Document(render_page(report.replace(notes=(why,))))
    heads = page.texts["h2"]
    assert not {"Two pathways", "What would have repaired it", "Which components wrote it"} & set(
        heads
    )
    assert why in page.texts["main"][0]
    assert len(page.scripts(data=True)) == 3
    assert "Causal" not in page.texts["h3"]
    assert "prior" not in page.texts["main"][0]
    assert page.texts["dt"][:2] == ["p(answer)", "LD"]
    # Each part on its own.
    whole = make_report()
    assert whole.repairs is not None
    none = whole.repairs.replace(names=(), patched=np.zeros((0, 5)), control=np.zeros((0, 5)))
    every = Document(render_page(whole)).texts["h2"]
    for change, gone in (
        ({"attribution": None}, {"Which components wrote it"}),
        ({"repairs": None}, {"What would have repaired it"}),
        ({"repairs": none}, {"What would have repaired it"}),
        ({"pathways": None}, {"Two pathways", "Words and heads"}),
    ):
        heads = Document(render_page(whole.replace(**change))).texts["h2"]
        assert set(every) - set(heads) == gone


def test_of_a_success_the_page_says_what_would_have_broken_it() -> None:
    heads = Document(render_page(make_report(final=2.0))).texts["h2"]
    assert "What would have broken it" in heads
    assert "What would have repaired it" not in heads
    neither = Document(render_page(make_report().replace(outcome="neither"))).texts["h2"]
    assert "What repairs change" in neither


def test_the_sum_is_a_waterfall_with_its_intervals_to_one_scale() -> None:
    report = make_report()
    assert report.pathways is not None
    paths = report.pathways.replace(
        contrast=1.0,
        base=Estimate(-2.0, -3.0, -1.0, 8),
        prior=Estimate(-0.5, -1.0, 0.0, 8),
        total_effect=Estimate(3.5, NAN, NAN, 1),
        associative_floor=0.75,
        contextual_floor=0.05,
    )
    html = render_page(report.replace(pathways=paths))
    html = html[html.index('<table class="waterfall">') :]
    html = html[: html.index("</table>")]
    body = html[html.index("<tbody>") :]
    # From -3 (the lowest end of an interval) to 1: 4 logits on 94 of 100, from 3 on.
    at = {value: 3 + 94 * (value + 3) / 4 for value in (-3, -2.5, -2, -1, 0, 1)}
    bars = re.findall(r'class="bar (\w+)" style="left:([\d.]+)%;width:([\d.]+)%"', body)
    assert bars == [
        (kind, f"{at[low]:.1f}", f"{at[high] - at[low]:.1f}")
        for kind, low, high in (
            ("associative", -2, 0),
            ("neutral", -2.5, -2),  # within its floor
            ("contextual", -2.5, 1),
            ("contextual", 0, 1),
        )
    ]
    spreads = re.findall(r'class="spread" style="left:([\d.]+)%;width:([\d.]+)%"', body)
    # At the end of each bar: -2 (-3 to -1), then -2.5 (-3 to -2); one draw has none.
    assert spreads == [
        (f"{at[low]:.1f}", f"{at[high] - at[low]:.1f}") for low, high in ((-3, -1), (-3, -2))
    ]
    steps = re.findall(r'class="step" style="left:([\d.]+)%"', body)
    assert steps == [f"{at[value]:.1f}" for value in (-2, -2.5, 1)]
    assert re.findall(r'class="zero" style="left:([\d.]+)%"', body) == [f"{at[0]:.1f}"] * 4
    rows = Document(html).texts
    assert [re.sub(r"\s+", " ", row).split(" −")[0] for row in rows["th"][4:]] == [
        "base",
        "+ prior of the subject",
        "+ effect of the context",
        "= LD",
    ]
    cells = [cell for cell in rows["td"] if cell.strip()]
    assert cells == [
        *("−2.00", "−3.00 to −1.00"),
        *("−0.50", "−1.00 to 0.00; within its floor 0.75"),
        *("3.50", "one draw", "1.00"),
    ]


def test_the_words_and_components_of_each_flow_stand_with_their_numbers() -> None:
    report = make_report(n_layers=6)
    assert report.attribution is not None
    page = render_page(report)
    section = _section(page, "carriers")
    rows = re.findall(r'<th scope="row">([^<]*)(?:<small>([^<]*)</small>)?</th>', section)
    numbers = re.findall(r'</td><td class="num">([^<]*)</td></tr>', section)
    told = list(zip(rows, numbers, strict=True))
    # The planted flows, -2.31 = 0.5 - 4 + 1.19: the cue to state 1, the first subject at state 0.
    assert [row for row in told if row[0][1]] == [
        (("concert", "cue, states 0 to 1"), "1.19"),
        (("bass", "subject 1, state 0"), "−4.00"),
    ]
    for flow, first in (("contextual", "head 0.1"), ("associative", "mlp 0")):
        values = getattr(report.attribution, flow)
        best = int(np.abs(values).argmax())
        assert report.attribution.components[best] == first
        assert ((first, ""), number(float(values[best]))) in told
        order = np.argsort(-np.abs(values), kind="stable")[:6]
        rest = float(values.sum() - values[order].sum())
        assert (("all others", ""), number(rest)) in told


def test_each_sentence_points_to_its_number_and_says_what_it_was_checked_with() -> None:
    report = whole_report()
    page = Document(render_page(report))
    links = [attrs["href"] for attrs in page.all("a") if attrs.get("class") == "to"]
    assert links == ["#h-repairs"]
    assert "de-prime at state 1: LD +1.70, its control +0.50" in page.texts["table"][0]
    bare = report.replace(claims=())
    page = Document(render_page(bare))
    assert not any(attrs.get("class") == "to" for attrs in page.all("a"))
    assert report.verdict[2] in page.texts["main"][0]
    assert "What each sentence was checked with" not in page.texts["main"][0]
    # A sentence on a section that this page lacks has no link.
    away = report.claims[2].replace(rests_on="map")
    assert 'class="to"' not in render_page(report.replace(claims=(*report.claims[:2], away)))


def test_the_failure_mode_shows_every_rule_and_what_it_fell_by() -> None:
    page = Document(render_page(whole_report()))
    (table,) = [text for text in page.texts["table"] if "what became of it" in text]
    for text in (
        "1. knowledge or format",
        "does not hold: “fails without distractors” is not so",
        "2. lag",
        "does not hold: “a late subject turns the answer” is not so",
        "3. reasoning shortcut hijack",
        "holds, and is the first that does",
        "its prior is -4.00",
    ):
        assert text in table
    assert table.count("✓") == 3
    assert table.count("✗") == 2
    main = page.texts["main"][0]
    assert "The cue was not cut off: the engine does not offer it." in main
    assert "LD without distractors, hallucination" in main
    why = "No failure mode is claimed: by the rules it would be this, but that."
    unclaimed = whole_report()
    unclaimed = unclaimed.replace(
        verdict=(*unclaimed.verdict, why), claims=(*unclaimed.claims, Claim(why, "failure"))
    )
    section = Document(_section(render_page(unclaimed), "failure"))
    assert section.texts["p"][:2] == ["not claimed", why]
    mode = make_failure(4, -2.31)
    later = mode.replace(
        rule="lag", findings=tuple(replace(finding, holds=True) for finding in mode.findings[1:])
    )
    told = [(rule.mode, rule.became) for rule in rules_of(later)]
    assert told[1] == ("reasoning shortcut hijack", "would hold, but an earlier rule does")


def test_what_was_inferred_shows_the_choice_and_what_hangs_on_it() -> None:
    report = whole_report()
    page = Document(render_page(report))
    choices, tried = (
        [re.sub(r"\s+", " ", row).strip() for row in Document(table).texts["tr"][1:]]
        for table in re.findall(
            r"<table.*?</table>", _section(render_page(report), "inferred"), re.S
        )
    )
    assert choices == [
        "suggestedconcertbass1.19 0.99 to 1.39−4.00 −4.50 to −3.50",
        "other subjectconcertdoor1.19 0.99 to 1.39−3.75 −4.25 to −3.25",
    ]
    assert tried == [
        "basssubject −3.50 −9.5 (2.5)",
        "concertcue 1.25 4.5 (2.5)",
        "door 0.12 0.5 (2.5)",
    ]
    main = page.texts["main"][0]
    assert "The draws do not rule out the other choices" in main
    assert "(96 prompts run)" in main
    alone = report.suggestion
    assert alone is not None
    sole = Document(render_page(report.replace(suggestion=alone.replace(alternatives=()))))
    assert "No other word’s interval meets that of the choice." in sole.texts["main"][0]
    nothing = alone.replace(
        subject=None, cue=(), subject_reason="no word", cue_reason="none", alternatives=()
    )
    text = Document(render_page(report.replace(suggestion=nothing))).texts["main"][0]
    assert "Nothing could be inferred." in text
    assert "How much hangs on the choice" not in text


def _section(html: str, name: str) -> str:
    html = html[html.index(f'<h2 id="h-{name}">') :]
    return html[: html.index("</section>")]


def test_every_number_of_the_interventions_stands_in_a_table() -> None:
    report = make_report(n_layers=5)
    assert report.pathways is not None
    assert report.repairs is not None
    assert report.attribution is not None
    page = Document(render_page(report))
    cells = page.texts["td"]
    rows = [re.sub(r"\s+", " ", row).strip() for row in page.texts["tr"]]
    for flow in report.pathways.to_records():
        wanted = [number(float(flow[name])) for name in list(flow)[2:]]
        assert "".join([str(flow["state"]), flow["role"], *wanted]) in rows
    for repair in report.repairs.to_records():
        assert number(repair["patched"]) in cells
        assert number(repair["control"]) in cells
    for part in report.attribution.to_records():
        wanted = [number(part[name], 3) for name in ("contextual", "associative", "base")]
        assert "".join([part["component"], *wanted]) in rows
    main = page.texts["main"][0]
    assert "put back change LD by 3e-07 logits at most" in main
    assert "miss the donor’s LD by 0;" in main
    assert "one neutral draw put in for another moves LD by 0.07" in main
    assert "misses the last residual state by 2e-08 logits" in main
    unknown = np.full_like(report.pathways.draw_against_draw, NAN)
    one = report.pathways.replace(draw_against_draw=unknown)
    assert "one neutral draw put in" not in render_page(report.replace(pathways=one))


def test_every_number_stands_in_a_table() -> None:
    report = make_report(n_layers=5)
    main = Document(render_page(report)).texts["main"][0]
    for row in report.lens.to_records():
        for name in ("margin", "entropy", "kl_to_output"):
            assert number(row[name], 3) in main
        assert number(row["contextual_prob"], 4) in main
    for score in report.coherence.scores:
        assert score.name in main
        for value, reason in zip(score.value, score.reasons, strict=True):
            assert (reason or number(float(value), 3)) in main
        assert score.note in main
    for mark in report.markers.marks:
        assert mark.name in main
        assert mark.definition in main
        assert (mark.reason or f"after block {mark.state:g} of 5") in main
        assert mark.note in main
    assert "3.4 to 4.4" in main
    assert "below = 0.6" in main
    for value in ("embedded", "8c1f0d3a52be", "2.13.0", "float32"):
        assert value in main


def test_each_score_is_defined_beside_its_name() -> None:
    report = make_report()
    cells = Document(render_page(report)).texts["td"]
    for score in report.coherence.scores:
        assert any(cell.startswith(score.says) and score.note in cell for cell in cells)


@pytest.mark.parametrize(("mass", "warned"), [(0.049, True), (0.051, False)])
def test_an_answer_that_is_not_given_is_said(mass: float, warned: bool) -> None:
    report = make_report()
    probs = report.lens.contextual_prob.copy(), report.lens.associative_prob.copy()
    probs[0][-1], probs[1][-1] = 0.01, mass - 0.01
    lens = report.lens.replace(contextual_prob=probs[0], associative_prob=probs[1])
    main = Document(render_page(report.replace(lens=lens))).texts["main"][0]
    assert ("is not given at this position" in main) is warned
    assert ("The model goes on: 'fish .'" in main) is warned


def test_a_deep_model_shows_picked_states_and_keeps_all_in_the_table() -> None:
    html = render_page(make_report(n_layers=80))
    strip = html[html.index('class="strip"') : html.index('id="h-pathways"')]
    assert strip.count('<th scope="row">') == 17
    assert "17 of 81 states" in strip
    assert "after block 80" in strip
    table = html[html.index('id="h-margin"') : html.index('id="h-scores"')]
    assert table.count('<th scope="row">') == 81


def test_bars_lean_to_their_side_and_scale_with_the_largest() -> None:
    report = make_report()
    lens = report.lens.replace(margin=np.array([0.0, 1.0, NAN, -2.0, -4.0]))
    html = render_page(report.replace(lens=lens))
    html = html[html.index('<table class="strip">') :]
    html = html[: html.index("</table>")]
    bars = re.findall(r'class="bar (\w+)" style="(\w+):50%;width:([\d.]+)%"', html)
    assert bars == [
        ("neutral", "left", "0.0"),
        ("contextual", "left", "12.5"),
        ("neutral", "left", "0.0"),
        ("associative", "right", "25.0"),
        ("associative", "right", "50.0"),
    ]


# ------------------------------------------------------------------------- to do it again


def test_the_python_lines_make_the_same_case() -> None:
    report = hostile_report()
    report = report.replace(case=report.case.replace(group='it\'s "one"\n', neutral=("a b", "c")))
    provenance = report.provenance
    calls: dict[str, Any] = {}

    class Dst:
        Case = Case

        @staticmethod
        def load(*args: Any, **options: Any) -> None:
            calls["load"] = (args, options)

        @staticmethod
        def explain(model: None, case: Any) -> Any:
            calls["case"] = case
            return type("Report", (), {"to_html": staticmethod(lambda path: None)})

    for model, loaded in (
        (provenance, ((), {})),
        (
            type(provenance)(model="gpt2", backend="nnsight", revision="e7da7f", dtype="bfloat16"),
            (("gpt2",), {"backend": "nnsight", "revision": "e7da7f", "dtype": "bfloat16"}),
        ),
    ):
        code = python_lines(report.replace(provenance=model)).replace("import dst", "")
        exec(compile(code, "lines", "exec"), {"dst": Dst})
        assert calls["load"] == loaded
        assert calls["case"] == report.case
        assert calls["case"].case_id == report.case.case_id


def test_the_command_line_names_the_case() -> None:
    report = make_report(prompt="the bass 'at' the concert is a")
    command, left_out = command_line(report)
    assert shlex.split(command) == [
        *("dst", "trace", "the bass 'at' the concert is a"),
        *("--contextual", "instrument", "--associative", "fish", "--subject", "bass"),
        *("--cue", "concert", "--context-words", "guitar,song"),
        *("--competing-words", "lake,net"),
    ]
    assert left_out == ()


def test_the_command_line_takes_text_with_leading_dashes() -> None:
    report = make_report(prompt="-bass concert a")
    case = report.case.replace(contextual=("-x", "y"), neutral=("z", "-z"), context_words=("a, b",))
    provenance = type(report.provenance)(model="m/n")
    command, left_out = command_line(report.replace(case=case, provenance=provenance))
    words = shlex.split(command)
    assert words[:5] == ["dst", "trace", "--contextual=-x", "--contextual", "y"]
    assert words[-4:] == ["--model", "m/n", "--", "-bass concert a"]
    assert shlex.join(words).count("--neutral z --neutral=-z") == 1
    assert left_out == ("context_words",)
    aligned = case.replace(neutral={"prompt": "-bass long concert a", "aligned": [["a", "a"]]})
    page = Document(render_page(report.replace(case=aligned)))
    assert "no option for neutral, context_words" in page.texts["main"][0]


def test_a_chat_of_several_messages_has_python_lines_only() -> None:
    report = make_report()
    chat = ({"role": "user", "content": "the bass of the concert"},)
    report = report.replace(case=report.case.replace(prompt=chat))
    assert command_line(report) == ("", ("prompt",))
    assert "dst trace" not in Document(render_page(report)).texts["main"][0]


# ---------------------------------------------------------------------------------- writing


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    report = make_report()
    path = report.to_html(tmp_path / "new" / "page.html")
    assert path.read_text("utf-8") == render_page(report)
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(ResultError, match="cannot be written"):
        write_page(report, blocker / "page.html")
