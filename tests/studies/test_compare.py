"""Two reports held against each other: what may be compared, what is said, what it looks like."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dst
from dst import cli, plot
from dst.core.claims import Claim
from dst.core.comparison_results import Comparison
from dst.core.errors import InputError
from dst.core.results import Estimate, Report, open_result
from dst.report import render_comparison, render_comparison_text
from tests.report.example import NAN, make_failure, make_pathways, make_report
from tests.report.test_report_page import HOSTILE, Document, hostile_report


def pair(**changes: Any) -> tuple[Report, Report]:
    """A hallucination and a success on another prompt of the same model."""
    return make_report(), make_report(
        prompt="the concert is near . the bass is a", final=2.0, **changes
    )


def other_model(report: Report, name: str = "another") -> Report:
    return report.replace(
        provenance=_dataclass_replace(report.provenance, model=name, weights_hash=name)
    )


def _dataclass_replace(value: Any, **changes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(value, **changes)


# -- what may be compared ------------------------------------------------------------------------


def test_two_cases_two_models_and_two_runs_are_told_from_one_another() -> None:
    a, b = pair()
    assert dst.compare(a, b).kind == "two cases"
    assert dst.compare(a, other_model(make_report())).kind == "two models"
    same = dst.compare(a, make_report())
    assert same.kind == "two runs"
    assert same.notes == ("Model, case and settings are the same.",)
    reseeded = a.replace(provenance=_dataclass_replace(a.provenance, seed=7, settings={"k": 3}))
    assert dst.compare(a, reseeded).notes == (
        "Made with k 5 and 3.",
        "Made with seed None and 7.",
    )


def test_neither_model_nor_case_the_same_is_refused_with_what_differs() -> None:
    a, b = pair()
    with pytest.raises(InputError) as error:
        dst.compare(a, other_model(b))
    assert "A is a run of embedded and B of another, on cases that differ in prompt" in str(
        error.value
    )
    assert "one model with two cases, or two models with one case" in str(error.value)


def test_models_without_a_hash_are_told_by_their_names() -> None:
    nameless = [
        report.replace(
            provenance=_dataclass_replace(report.provenance, weights_hash="", model=name)
        )
        for report, name in zip(pair(), ("one", "two"), strict=True)
    ]
    with pytest.raises(InputError):
        dst.compare(*nameless)
    b = nameless[1].replace(provenance=nameless[0].provenance)
    assert dst.compare(nameless[0], b).kind == "two cases"


def test_the_same_prompt_with_other_answers_is_another_case() -> None:
    a = make_report()
    b = a.replace(case=a.case.replace(associative=("food",)))
    assert dst.compare(a, b).kind == "two cases"
    assert any("LD is between other answers" in note for note in dst.compare(a, b).notes)
    with pytest.raises(InputError, match="associative"):
        dst.compare(a, other_model(b))


# -- what is compared ----------------------------------------------------------------------------


def test_the_terms_of_the_difference_add_up_and_carry_the_report_s_numbers() -> None:
    a, b = pair()
    found = dst.compare(a, b)
    terms = [
        found[name].value for name in ("base", "prior of the subject", "effect of the context")
    ]
    assert found["LD"].value == pytest.approx(-4.31)
    assert sum(terms) == pytest.approx(found["LD"].value)
    assert (found["LD"].low, found["LD"].high) == (found["LD"].value,) * 2
    paths = a.pathways
    assert paths is not None
    base = found["base"]
    assert (base.a, base.a_low, base.a_high) == (paths.base.mean, paths.base.low, paths.base.high)
    # Both have the base 0.5 [0.4, 0.6] and the prior -4: only the context differs.
    assert not base.told_apart
    assert found["effect of the context"].told_apart
    commitment = found["commitment, de-prime"]
    assert commitment.a == 0.5
    assert "B: nothing to repair" in commitment.reason
    assert commitment.method.startswith("far ends")
    with pytest.raises(KeyError, match="the quantities here are LD, base"):
        found["nothing"]


def test_swapping_the_two_turns_every_sign() -> None:
    a, b = pair()
    one, two = dst.compare(a, b), dst.compare(b, a)
    for left, right in zip(one.differences, two.differences, strict=True):
        assert left.name == right.name
        assert left.told_apart == right.told_apart
        if not math.isnan(left.value):
            assert left.value == pytest.approx(-right.value)


def test_a_comparison_is_the_same_when_it_is_read_back(tmp_path: Path) -> None:
    found = dst.compare(*pair(), names=("wrong", "right"), seed=3)
    opened = open_result(found.save(tmp_path / "comparison"))
    assert isinstance(opened, Comparison)
    assert opened.sentences == found.sentences
    assert str(opened.to_records()) == str(found.to_records())
    assert opened.names == ("wrong", "right")
    assert opened.a.verdict == found.a.verdict


# -- what is said --------------------------------------------------------------------------------


def said(found: Comparison, about: str = "") -> str:
    return " ".join(claim.says for claim in found.claims if about in ("", claim.rests_on))


def test_what_differs_is_said_with_its_numbers() -> None:
    a, b = pair()
    found = dst.compare(a.replace(failure=make_failure(4, -2.31)), b)
    text = said(found)
    assert text.startswith("A hallucinates: 'fish' (p 0.84); B is correct: 'instrument'")
    assert "LD differs by -4.31 logits (A -2.31, B +2.00)." in text
    assert "It lies in the effect of the context (-4.31 [" in text
    assert "The draws do not tell the two apart by the base" in text
    assert "reaches the answer at the same depth (75 %)" in text
    assert "A fails by reasoning shortcut hijack; B does not fail." in text
    for claim in found.claims:
        assert claim.control or claim.rests_on in ("outcome", "sum", "failure"), claim.says


def test_a_term_is_said_to_differ_only_if_the_draws_tell_it() -> None:
    a, b = pair()
    wide = b.pathways
    assert wide is not None
    effect = wide.total_effect
    b = b.replace(
        pathways=wide.replace(
            total_effect=Estimate(effect.mean, effect.mean - 9, effect.mean + 9, 4)
        )
    )
    text = said(dst.compare(a, b))
    assert "It lies in" not in text
    assert "effect of the context (-4.31 [" in text.split("do not tell the two apart by")[1]


@pytest.mark.parametrize("control", ["self_patch_error", "donor_error", "draws", "pathways"])
def test_without_a_passing_control_no_cause_is_compared(control: str) -> None:
    a, b = pair()
    paths = b.pathways
    assert paths is not None
    one = Estimate(paths.total_effect.mean, NAN, NAN, 1)
    changed = {
        "draws": paths.replace(total_effect=one),
        "pathways": None,
    }.get(control, None if control in ("draws", "pathways") else paths.replace(**{control: 0.7}))
    text = said(dst.compare(a, b.replace(pathways=changed)))
    assert "Nothing is said of what made the difference" in text
    for gone in ("It lies in", "reaches the answer", "of the evidence"):
        assert gone in said(dst.compare(a, b))
        assert gone not in text


def test_a_flow_that_is_nowhere_and_one_that_is_later_are_said_so() -> None:
    a, b = pair()
    roles = b.trace.roles
    nothing = make_pathways(roles, 4, 2.0)
    flow = np.zeros_like(nothing.contextual_insertion)
    b_without = b.replace(
        pathways=nothing.replace(
            contextual_insertion=flow, total_effect=Estimate(0.0, -0.1, 0.1, 4)
        )
    )
    text = said(dst.compare(a, b_without), "arrival")
    assert "The contextual flow reaches the answer at 75 % of depth in A, and not in B." in text
    early = nothing.contextual_insertion.copy()
    early[:, 1:, roles_index(nothing.roles)] = nothing.total_effect.mean
    b_early = b.replace(pathways=nothing.replace(contextual_insertion=early))
    text = said(dst.compare(a, b_early), "arrival")
    assert "at 75 % of depth in A and at 25 % of depth in B." in text


def roles_index(roles: tuple[str, ...]) -> int:
    return roles.index("answer")


def test_where_the_subject_helps_the_context_there_is_no_conflict_to_share() -> None:
    a, b = pair()
    paths = b.pathways
    assert paths is not None
    helped = paths.replace(
        prior=Estimate(4.0, 3.5, 4.5, 4), associative_insertion=-paths.associative_insertion
    )
    assert "100 % in B (no conflict there)" in said(
        dst.compare(a, b.replace(pathways=helped)), "score"
    )


def test_failure_modes_that_cannot_be_claimed_are_not_compared() -> None:
    a, b = make_report(), make_report(prompt="the concert is near . the bass is a")
    mode = make_failure(4, -2.31)
    both = dst.compare(a.replace(failure=mode), b.replace(failure=mode))
    assert said(both, "failure") == "Both fail by reasoning shortcut hijack."
    unknown = mode.replace(evidence=mode.evidence.replace(separation=NAN))
    one = dst.compare(a.replace(failure=mode), b.replace(failure=unknown))
    assert said(one, "failure") == (
        "A fails by reasoning shortcut hijack; B has no mode that can be claimed."
    )
    assert said(dst.compare(a, b), "failure") == ""


# -- what it looks like --------------------------------------------------------------------------


def test_the_figure_shows_both_over_shares_of_depth() -> None:
    a = make_report()
    found = dst.compare(a, other_model(make_report(n_layers=8)), names=("small", "<b>large"))
    figure = plot.comparison(found)
    assert figure is not plot.comparison(found)  # the name stays a function
    curves = {trace.name: trace for trace in figure.data if trace.xaxis == "x2"}
    assert set(curves) == {
        f"{name}: {what}"
        for name in ("small", "&lt;b&gt;large")
        for what in ("contextual", "associative", "DSS*")
        if what != "DSS*"  # the example has no causal score
    }
    for name, report in (("small", found.a), ("&lt;b&gt;large", found.b)):
        assert report.pathways is not None
        curve = curves[f"{name}: contextual"]
        np.testing.assert_allclose(curve.y, report.pathways.at_answer("contextual_insertion"))
        np.testing.assert_allclose(curve.x, np.linspace(0, 1, len(curve.y)))
    assert curves["small: contextual"].line.dash == "solid"
    assert curves["&lt;b&gt;large: contextual"].line.dash == "dot"
    terms = [trace for trace in figure.data if trace.mode == "markers"]
    assert list(terms[0].x) == pytest.approx([d.a for d in found.differences[:4]])
    assert list(terms[1].x) == pytest.approx([d.b for d in found.differences[:4]])
    without = make_report(flows=False)
    only_ld = plot.comparison(dst.compare(without, other_model(without)))
    assert [list(t.x) for t in only_ld.data if t.mode == "markers"] == [[-2.31], [-2.31]]


def test_the_page_has_both_accounts_and_every_quantity() -> None:
    found = dst.compare(*pair(), names=("wrong", "right"))
    page = Document(render_comparison(found))
    assert page.open == []
    assert page.texts["h1"] == [found.sentences[0]]
    main = page.texts["main"][0]
    for one in found.differences:
        assert one.name in main
    for report in (found.a, found.b):
        for sentence in (report.verdict[0], report.verdict[2]):
            assert sentence in main
    rows = [" ".join(row.split()) for row in page.texts["tr"]]
    assert any(row.startswith("LD −2.31 2.00 −4.31") for row in rows)
    assert len(page.scripts(data=True)) == 2  # the figure, the templates


def test_hostile_text_of_either_report_does_nothing() -> None:
    bad = hostile_report()
    found = dst.compare(bad, bad, names=(HOSTILE[0], HOSTILE[1]))
    found = found.replace(notes=(HOSTILE[0],), claims=(Claim(HOSTILE[0], "sum", HOSTILE[0]),) * 2)
    page = Document(render_comparison(found))
    assert page.texts["h1"] == [HOSTILE[0]]
    assert len(page.all("script")) == 4
    for block in page.scripts(data=True):
        assert not set("<>&") & set(block)
        json.loads(block)
    text = render_comparison_text(found, colour=False, width=80)
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [72, 80, 110])
def test_the_text_keeps_to_its_width_and_says_the_same(width: int) -> None:
    found = dst.compare(*pair())
    text = render_comparison_text(found, colour=False, width=width)
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    for sentence in found.sentences:
        assert sentence in flat
    assert "LD −2.31 2.00 −4.31" in flat
    ascii_only = render_comparison_text(found, colour=False, width=width, ascii_only=True)
    assert ascii_only.isascii()
    assert "\x1b[" in render_comparison_text(found, colour=True, width=width)


# -- the command ---------------------------------------------------------------------------------


def test_the_command_compares_two_saved_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(r.save(tmp_path / n)) for r, n in zip(pair(), "ab", strict=True)]
    out = tmp_path / "out"
    assert cli.main(["compare", *names, "--out", str(out)]) == 0
    assert "LD differs by -4.31 logits" in capsys.readouterr().out
    assert (out / "comparison.html").read_text("utf-8").startswith("<!doctype html>")
    assert isinstance(open_result(out / "comparison.npz"), Comparison)
    assert cli.main(["compare", *names, "--json", "--names", "x", "y"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "two cases"
    assert told["sentences"][0].startswith("x hallucinates")
    assert [row["name"] for row in told["differences"]][:2] == ["LD", "base"]


def test_the_command_refuses_what_it_cannot_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = pair()
    report = str(a.save(tmp_path / "a"))
    assert a.lens is not None
    lens = str(a.lens.save(tmp_path / "lens"))
    other = str(other_model(b).save(tmp_path / "b"))
    for names, wanted in (
        ((report, lens), "lens.npz holds a LensReadout; expected a report"),
        ((report, str(tmp_path / "none.npz")), "does not exist"),
        ((report, other), "on cases that differ in prompt"),
    ):
        code = cli.main(["compare", *names, "--out", str(tmp_path / "out")])
        error = capsys.readouterr().err
        assert code == 2, error
        assert wanted in error
        assert "Traceback" not in error
        assert not (tmp_path / "out").exists()
