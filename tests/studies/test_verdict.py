"""The verdict claims what its controls allow: turn one, and the sentence is gone."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from dst.core.case import Case
from dst.core.claims import Claim
from dst.core.failure_results import FailureMode
from dst.core.results import Estimate, Markers, Pathways, Repairs, Report
from dst.studies.explain import explain
from dst.studies.verdict import verdict
from dst.studies.verdict_failure import failure_claims
from tests import tiny
from tests.report.example import NAN, make_failure, make_report
from tests.studies.planted import PROMPT

REPORT = make_report()


def told(report: Report = REPORT, **changes: Any) -> tuple[Claim, ...]:
    """The verdict on a report's parts, some of them changed."""
    given = {
        "paths": report.pathways,
        "fixes": report.repairs,
        "parts": report.attribution,
        "mode": None,
        "outcome": report.outcome,
        "lens": report.lens,
        "marks": report.markers,
    } | changes
    return verdict(case=report.case, seen=report.trace, **given)


def text(*, about: str = "", **changes: Any) -> str:
    """Its sentences, or those that rest on one part."""
    return " ".join(c.says for c in told(**changes) if about in ("", c.rests_on))


def flows(**changes: Any) -> Pathways:
    assert REPORT.pathways is not None
    return REPORT.pathways.replace(**changes)


def repaired(**changes: Any) -> Repairs:
    assert REPORT.repairs is not None
    return REPORT.repairs.replace(**changes)


def arrivals(**marks: Any) -> Pathways:
    """The flows with some fields of the marks of arrival at the answer changed."""
    paths = flows()
    made = tuple(
        mark.replace(**marks[mark.definition.split()[0]])
        if mark.name == "arrival" and mark.definition.endswith("at answer")
        and mark.definition.split()[0] in marks
        else mark
        for mark in paths.marks
    )  # fmt: skip
    return paths.replace(marks=made)


def test_every_sentence_names_what_it_rests_on() -> None:
    claims = told(mode=make_failure(4, -2.31))
    assert {claim.rests_on for claim in claims} == {
        *("outcome", "sum", "cause", "arrival", "route", "repairs", "lens", "failure")
    }
    for claim in claims:
        assert claim.control or claim.rests_on == "sum", claim.says


# -- one draw says nothing of chance ---------------------------------------------------------


@pytest.mark.parametrize("term", ["total_effect", "prior"])
def test_with_one_draw_nothing_is_said_of_cause(term: str) -> None:
    one = Estimate(getattr(flows(), term).mean, NAN, NAN, 1)
    said = text(paths=flows(**{term: one}))
    assert "Nothing is said of what made the answer" in said
    for gone in ("compete", "at the answer position", "carried by", "repaired", "committed"):
        assert gone in text()
        assert gone not in said
    assert "LD -2.31 = base" in said  # what was measured is still shown
    assert "(one draw)" in said


# -- effects and their floors ------------------------------------------------------------------


def test_an_effect_under_its_floor_is_no_cause() -> None:
    assert "compete" in text()
    said = text(paths=flows(contextual_floor=1.5), about="cause")
    assert "compete" not in said
    assert "No effect of the cue can be told" in said
    said = text(paths=flows(associative_floor=4.5), about="cause")
    assert "compete" not in said
    assert "No pull of the subject" in said


def test_a_context_that_misleads_needs_a_right_answer_without_it() -> None:
    """LD -1 = .5 + 1.5 - 3: with a neutral cue LD is +2. LD -4 = -2.5 + 1.5 - 3: it is -1."""
    wrong = {"contrast": -1.0, "total_effect": Estimate(-3.0, -3.2, -2.8, 4)}
    helped = flows(base=Estimate(0.5, 0.4, 0.6, 4), prior=Estimate(1.5, 1.2, 1.8, 4), **wrong)
    said = text(paths=helped, about="cause")
    assert "The cue itself pushes toward 'fish' (-3.00)" in said
    assert "with a neutral cue LD is +2.00, toward 'instrument'. Its context misleads it." in said
    assert "no conflict" not in said  # the subject leans to A+, the context away from it
    correct = text(paths=helped, outcome="correct", about="cause")
    assert "pushes toward" in correct
    assert "misleads" not in correct
    anyway = flows(
        contrast=-4.0, base=Estimate(-2.5, -2.6, -2.4, 4), prior=Estimate(1.5, 1.2, 1.8, 4),
        total_effect=Estimate(-3.0, -3.2, -2.8, 4),
    )  # fmt: skip
    assert "misleads" not in text(paths=anyway, about="cause")


def test_a_base_is_named_when_it_is_most_of_the_lean_and_its_interval_leaves_zero() -> None:
    terms = {
        "contrast": -2.5,
        "prior": Estimate(-0.6, -0.8, -0.4, 4),
        "total_effect": Estimate(0.1, 0.0, 0.2, 4),
    }
    sure = flows(base=Estimate(-2.0, -2.5, -1.5, 4), **terms)
    assert "Most of the lean to 'fish'" in text(paths=sure, about="cause")
    unsure = flows(base=Estimate(-2.0, -4.5, 0.5, 4), **terms)
    assert "Most of the lean" not in text(paths=unsure, about="cause")
    small = flows(
        **(terms | {"base": Estimate(-2.0, -2.5, -1.5, 4), "prior": Estimate(-2.5, -3.0, -2.0, 4)})
    )
    assert "Most of the lean" not in text(paths=small, about="cause")


# -- interventions and their controls -----------------------------------------------------------


@pytest.mark.parametrize("control", ["self_patch_error", "donor_error"])
def test_a_failed_control_takes_all_that_rests_on_interventions(control: str) -> None:
    said = text(paths=flows(**{control: 0.3}))
    assert "Nothing is said of when and by which way it came" in said
    assert "0.3 logits, more than the floor of 0.20" in said
    for gone in ("flow is at the answer position", "carried by", "repaired"):
        assert gone in text()
        assert gone not in said
    assert "compete" in said  # this rests on prompts that were run as they are


def test_no_run_of_equal_length_leaves_the_other_control() -> None:
    claims = told(paths=flows(donor_error=NAN))
    (arrival,) = [claim for claim in claims if claim.rests_on == "arrival"]
    assert "all roles swapped: not comparable" in arrival.control
    neither = text(paths=flows(donor_error=NAN, self_patch_error=NAN))
    assert "no run's own states were put back" in neither
    assert "at the answer position" not in neither


def test_which_flow_was_first_is_said_only_if_the_draws_agree() -> None:
    assert "The associative flow is at the answer position from state 1 of 4 on" in text()
    apart = {"associative": {"low": 1.0, "high": 3.0}, "contextual": {"low": 3.0, "high": 3.0}}
    said = text(paths=arrivals(**apart), about="arrival")
    assert "the draws do not tell which is first" in said
    assert "state 1 (1 to 3)" in said
    unsteady = {"associative": {"low": NAN, "high": NAN}}
    said = text(paths=arrivals(**unsteady), about="arrival")
    assert "state 1 (not in every resample of the draws)" in said
    assert "do not tell which is first" in said
    same = {name: {"state": 2.0, "low": 2.0, "high": 2.0} for name in ("associative", "contextual")}
    said = text(paths=arrivals(**same), about="arrival")
    assert said == "Both flows reach the answer position at state 2 of 4."


# -- which way -----------------------------------------------------------------------------------


def test_words_and_components_are_named_with_their_numbers() -> None:
    said = text(about="route")
    assert "The context is carried by 'concert' (cue, states 0 to 1)." in said
    assert "At the answer head 0.1 (+2.50) writes" in said
    assert "The association is carried by 'bass' (subject 1, state 0)." in said
    assert "mlp 0 (-3.25)" in said


def test_a_component_is_named_only_over_the_floor_and_if_the_parts_add_up() -> None:
    parts = REPORT.attribution
    assert parts is not None
    said = text(about="route", parts=parts.replace(closure_error=0.3))
    assert "head 0.1" not in said  # over the floor of the context, 0.2 ...
    assert "mlp 0 (-3.25)" in said  # ... and under that of the association, 0.5
    said = text(about="route", parts=parts.replace(contextual=parts.contextual / 20))
    assert "head 0.1" not in said
    assert "head" not in text(about="route", parts=None)
    quiet = text(about="route", paths=flows(contextual_floor=1.5))
    assert "The context is" not in quiet
    assert "The association is" in quiet


# -- repairs ---------------------------------------------------------------------------------------


def test_a_repair_whose_control_is_repaired_too_is_not_claimed() -> None:
    assert "repaired up to state 1 of 4 (commitment 1 to 2 over draws)" in text()
    (claim,) = [claim for claim in told() if claim.rests_on == "repairs"]
    assert claim.control == "de-prime at state 1: LD +1.70, its control +0.50"
    fixes = repaired()
    said = text(fixes=fixes.replace(control=fixes.patched - 0.1))
    assert "repaired" not in said
    assert "committed" not in said
    assert "No repair is claimed: de-prime at state 1" in said
    weak = fixes.replace(patched=np.where(fixes.patched > 0, 0.3, fixes.patched))
    assert "repaired" not in text(fixes=weak)


def test_de_priming_has_to_do_more_than_a_random_direction() -> None:
    mode = make_failure(4, -2.31)
    (claim,) = [c for c in told(mode=mode) if c.rests_on == "repairs"]
    assert "a random direction up to +0.25" in claim.control
    assert "could be repaired" in claim.says
    random = np.full_like(mode.evidence.random_route, 1.75)
    as_good = mode.replace(evidence=mode.evidence.replace(random_route=random))
    said = text(mode=as_good, about="repairs")
    assert "could be repaired" not in said
    assert "a random direction up to +1.75, as much as that" in said


def test_a_commitment_without_an_interval_says_so() -> None:
    fixes = repaired()
    marks = (fixes.commitments[0].replace(low=NAN, high=NAN), *fixes.commitments[1:])
    assert "state 1 of 4 (no interval over draws)" in text(fixes=fixes.replace(commitments=marks))


# -- the lens --------------------------------------------------------------------------------------


def lens_of(mass: list[float], margin: list[float]) -> Any:
    share = 1 / (1 + np.exp(-np.array(margin)))
    return REPORT.lens.replace(
        margin=np.array(margin),
        contextual_prob=np.array(mass) * share,
        associative_prob=np.array(mass) * (1 - share),
    )


def test_a_lens_that_gives_neither_answer_leads_nowhere() -> None:
    margin = [0.8, 1.2, 0.9, -0.7, -2.3]
    given = lens_of([0.1, 0.2, 0.4, 0.6, 0.9], margin)
    said = text(lens=given, about="lens")
    assert "'fish' leads for good from state 3 of 4 on" in said
    assert "its margin turns to 'fish' at state 3" in said
    early = lens_of([0.01, 0.01, 0.01, 0.6, 0.9], margin)
    said = text(lens=early, about="lens")
    assert "leads for good from state 3" in said
    assert "turns to" not in said  # where it held 'instrument' it gave neither
    late = lens_of([0.1, 0.2, 0.4, 0.01, 0.9], margin)
    assert "leads for good from state 4 of 4" in text(lens=late, about="lens")
    never = lens_of([0.01] * 5, margin)
    assert text(lens=never, about="lens") == ""


def test_what_the_lens_leaned_to_is_not_what_it_said() -> None:
    given = lens_of([0.1, 0.2, 0.4, 0.6, 0.9], [0.8, 1.2, 0.9, -0.7, -2.3])
    assert "leaned to 'instrument', though it never was its likeliest word" in text(lens=given)
    ids = given.top_ids.copy()
    ids[2, 0] = REPORT.trace.contextual_ids[0]
    assert "the lens said 'instrument'" in text(lens=given.replace(top_ids=ids))


def test_the_tuned_lens_is_named_where_it_differs() -> None:
    def with_tuned(state: float, reason: str = "") -> Markers:
        (mark,) = [
            mark
            for mark in REPORT.markers.marks
            if (mark.name, mark.definition) == ("commitment", "lens (dst) on margin")
        ]
        other = mark.replace(definition="lens (dst) on margin_tuned", state=state, reason=reason)
        return REPORT.markers.replace(marks=(*REPORT.markers.marks, other))

    assert "(by the tuned lens from 4)" in text(marks=with_tuned(4.0))
    assert "tuned" not in text(marks=with_tuned(3.0))
    assert "(by the tuned lens at no state)" in text(marks=with_tuned(NAN, "it never settles"))


# -- the failure mode ------------------------------------------------------------------------------


def test_no_mode_is_claimed_that_rests_on_what_was_not_measured() -> None:
    mode = make_failure(4, -2.31)

    def said(mode: FailureMode) -> str:
        return " ".join(claim.says for claim in failure_claims(mode))

    assert said(mode) == mode.says
    unknown = mode.evidence.replace(separation=math.nan)
    assert "No failure mode is claimed: by the rules it would be" in said(
        mode.replace(evidence=unknown)
    )
    collapse = mode.replace(mode="analogical collapse", rule="analogical collapse")
    assert said(collapse) == mode.says
    uncut = collapse.replace(evidence=mode.evidence.replace(cue_knockout=math.nan))
    assert "but the cue could not be cut off" in said(uncut)
    assert said(mode.replace(mode="")) == ""
    (claim,) = failure_claims(mode)
    assert claim.control == "holds: senses separable, the subject has a prior"
    finding = dataclasses.replace(mode.findings[0], holds=False)
    unclassified = mode.replace(mode="unclassified", rule="unclassified", findings=(finding,))
    (claim,) = failure_claims(unclassified)
    assert claim.control == "conditions that do not hold: 1"


# -- on a model ------------------------------------------------------------------------------------


def test_the_verdict_of_a_report_is_its_claims() -> None:
    model = tiny.backend("llama", tiny.word_level)
    case = Case(
        prompt=PROMPT,
        contextual="fish",
        associative="guitar",
        subject="bass",
        cue="lake",
        neutral=[PROMPT.replace("lake", word) for word in ("city", "water", "song", "river")],
        substitute=[PROMPT.replace("bass", word) for word in ("bat", "crane", "drum", "bank")],
    )
    report = explain(model, case)
    claims = [claim for claim in report.claims if isinstance(claim, Claim)]
    assert report.verdict == tuple(claim.says for claim in claims)
    assert [claim.rests_on for claim in claims[:2]] == ["outcome", "sum"]
    paths = report.pathways
    assert paths is not None
    assert paths.donor_error < 1e-4  # measured, not a default
