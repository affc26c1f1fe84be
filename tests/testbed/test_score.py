"""The grader: worked by hand, on planted models, on measures that are wrong, and as a command."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst import cli
from dst.core.case import Case
from dst.core.errors import InputError
from dst.testbed import grades
from dst.testbed.grades import Item, grade, items, known, last_repair, strength_of
from dst.testbed.planted import KINDS, Plant, Route, build, sample, truth_of
from dst.testbed.score import MEASURES, BuiltIn, Scores, measure_named, score, table

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs" / "testbed_score.md"
OURS = ("forward", "pathways", "repairs", "attribution", "cuts", "lens")
HAND = Plant(
    n_layers=5,
    base=0.25,
    alpha=2.5,
    context=(Route(("cue", "relay_1", "answer"), (2, 4)),),
    beta=3.5,
    prior=Route(("subject", "answer"), (3,)),
    prior_block=1,
    name="hand",
)
NOTHING = Plant(base=0.5, name="none 1")


def item(kind: grades.Kind, known: Any, measured: Any, **fields: Any) -> Item:
    values = {
        "measure": "m",
        "quantity": "q",
        "model": "a",
        "nothing": False,
        "strength": 1.0,
        **fields,
    }
    return Item(
        kind=kind,
        known=np.array(known, dtype=float).ravel(),
        measured=np.array(measured, dtype=float).ravel(),
        **values,
    )


# -- what is known -------------------------------------------------------------------------------


def test_known_quantities_of_the_plan_worked_by_hand_in_docs() -> None:
    found = {name: right.value.tolist() for name, right in known(truth_of(HAND)).items()}
    assert found["base"] == 0.25
    assert found["prior"] == -3.5
    assert found["total_effect"] == 2.5
    assert found["dss_total"] == pytest.approx(5 / 12)
    np.testing.assert_allclose(found["dss"], [math.nan] * 3 + [0] + [5 / 12] * 2)
    # Removal at the answer is insertion there, on one route; in transit all of it, until read.
    np.testing.assert_allclose(found["dss_removal"], found["dss"])
    in_transit = [5 / 12] * 3 + [1, math.nan, math.nan]
    np.testing.assert_allclose(found["dss_in_transit"], in_transit)
    np.testing.assert_allclose(found["dss_attribution"], found["dss"])
    assert found["contextual_arrival@answer"] == 4
    assert found["contextual_departure@relay"] == 4
    assert found["associative_handover"] == 3
    assert found["commitment_of@de-prime"] == found["commitment"] == 3
    assert found["contextual_removal@cue"] == [2.5, 2.5, 0, 0, 0, 0]
    assert strength_of(HAND) == 6
    assert strength_of(NOTHING) == 0


def test_the_last_repair_is_the_latest_of_those_of_a_failure() -> None:
    assert last_repair({"de-prime": 3.0, "restore cue": 5.0, "remove cue": 7.0}) == 5
    assert math.isnan(last_repair({"de-prime": math.nan, "remove cue": 7.0}))


def test_names_and_shapes_that_no_plan_knows_are_refused() -> None:
    truth = truth_of(HAND)
    with pytest.raises(InputError, match=r"measure m returned 'priors'; expected one of .*prior"):
        list(items("m", {"priors": 1.0}, truth, HAND))
    with pytest.raises(InputError, match=r"'dss' with shape \[3\]; expected \[6\]"):
        list(items("m", {"dss": [1.0, 2.0, 3.0]}, truth, HAND))
    (found,) = items("m", {"contextual_removal@cue": [0.0] * 6}, truth, HAND)
    assert (found.quantity, found.kind, found.strength) == ("contextual_removal", "effect", 6)


# -- grades by hand ------------------------------------------------------------------------------


def test_effects_by_hand() -> None:
    rows = [
        item("effect", [1, 0], [1.0005, 0]),  # right
        item("effect", [2, 0], [2, 0.5]),  # half a logit off
        item("effect", [3, 0], [math.nan, 0]),  # missed
        item("effect", [0, 0], [0, 0.04]),  # nothing there, nothing found
        item("effect", [0, 0], [0, -0.06], nothing=True, model="b"),  # nothing there
    ]
    found = grade(rows)
    assert (found.n, found.planted, found.absent) == (2, 3, 2)
    assert found.hit_rate == pytest.approx(1 / 3)
    assert found.missed == pytest.approx(1 / 3)
    assert found.max_error == pytest.approx(0.5)
    # Means over planted items of their largest known gap: 0.0005, 0.5, and 0 of what is there.
    assert found.mean_error == pytest.approx((0.0005 + 0.5 + 0) / 3)
    assert (found.false_alarms, found.false_alarms_on_nothing) == (0.5, 1)


def test_shares_by_hand() -> None:
    nan = math.nan
    rows = [
        item("share", [nan, 0.25], [nan, 0.2501]),
        item("share", [nan, 0.75], [0.5, 0.7]),
        item("share", [nan, 1.0], [nan, nan]),
        item("share", [nan, nan], [nan, nan]),
    ]
    found = grade(rows)
    assert (found.planted, found.absent) == (3, 4)
    assert found.hit_rate == pytest.approx(1 / 3)
    assert found.missed == pytest.approx(1 / 3)
    assert found.max_error == pytest.approx(0.05)
    assert found.false_alarms == 0.25
    assert math.isnan(found.false_alarms_on_nothing)


def test_marks_by_hand() -> None:
    nan = math.nan
    rows = [
        item("mark", 3, 3),
        item("mark", 3, 5),
        item("mark", 3, nan),
        item("mark", nan, nan),
        item("mark", nan, 1, nothing=True),
        item("mark", 0, 0),  # a mark at the embedding is a mark
    ]
    found = grade(rows)
    assert (found.planted, found.absent) == (4, 2)
    assert found.hit_rate == 0.5
    assert found.max_error == 2
    assert found.mean_error == pytest.approx(2 / 3)
    assert found.missed == 0.25
    assert (found.false_alarms, found.false_alarms_on_nothing) == (0.5, 1)


def test_a_mark_one_state_off_is_wrong_and_a_value_one_thousandth_off_is_right() -> None:
    assert not item("mark", 3, 4).is_right
    assert item("effect", [2.0], [2.00099]).is_right
    assert not item("effect", [2.0], [2.0011]).is_right


def test_correlations_by_hand() -> None:
    # All four: Pearson of (0, .25, .75, 1) with (0, .75, .25, 1) is .6; the middle two: -1.
    rows = [item("share", k, m) for k, m in ((0, 0), (0.25, 0.75), (0.75, 0.25), (1, 1))]
    found = grade(rows)
    assert found.correlation == pytest.approx(0.6)
    assert math.isnan(found.correlation_in_conflict)  # two points make no correlation
    more = [*rows, item("share", 0.5, 0.5)]
    assert grade(more).correlation_in_conflict == pytest.approx(-1)
    constant = [item("share", k, 0.5) for k in (0, 0.3, 1)]
    assert math.isnan(grade(constant).correlation)


def test_errors_by_strength_are_those_of_thirds() -> None:
    errors = {1: 0.0, 2: 0.1, 3: 0.2, 4: 0.3, 5: 0.4, 6: 0.5}
    rows = [item("effect", [1.0], [1 + e], strength=s) for s, e in errors.items()]
    weak, middling, strong = grade(rows).by_strength
    assert [part["up_to"] for part in (weak, middling, strong)] == [2, 4, 6]
    assert weak["mean_error"] == pytest.approx(0.05)
    assert strong["max_error"] == pytest.approx(0.5)
    assert (weak["hit_rate"], strong["hit_rate"]) == (0.5, 0)
    assert grade(rows[:2]).by_strength == ()


# -- on planted models ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_of_each() -> Scores:
    return score(MEASURES, sample(len(KINDS), seed=1))


def assert_right(found: Scores) -> None:
    """Ours are right on every model: values, marks, and nothing where nothing is planted."""
    assert not found.failures
    assert found.done == found.asked
    table = found.grades()
    for measure in OURS:
        for quantity, one in table[measure].items():
            where = f"{measure} {quantity}: {one}"
            assert one.n == found.asked, where
            assert one.hit_rate >= (0.99 if one.kind == "mark" else 1.0), where
            assert not one.false_alarms > 0.01, where  # NaN where nothing can be absent
            assert one.kind == "mark" or one.max_error <= 1e-3, where
    assert table["forward"]["ld"].max_error <= 1e-5


def test_our_measures_return_what_was_planted(one_of_each: Scores) -> None:
    assert_right(one_of_each)
    asked = {
        "pathways": {"base", "prior", "total_effect", "dss", "dss_total", "margin_causal",
                     "contextual_removal", "contextual_insertion", "associative_removal",
                     "associative_insertion", "contextual_arrival", "contextual_departure",
                     "contextual_handover", "associative_arrival"},
        "repairs": {"repaired", "repaired_control", "commitment", "commitment_of"},
        "attribution": {"attribution", "dss_attribution"},
        "cuts": {"cut_cue"},
        "lens": {"lens_margin", "inversion", "lens_commitment"},
    }  # fmt: skip
    table = one_of_each.grades()
    for measure, quantities in asked.items():
        assert quantities <= set(table[measure])


def test_published_marks_come_where_nothing_is_planted(one_of_each: Scores) -> None:
    """The lowest block always exists, and so does a first block below 0.8: by construction."""
    table = one_of_each.grades()
    assert table["dss_published"]["commitment"].false_alarms_on_nothing == 1
    assert table["cas_published"]["inversion"].false_alarms_on_nothing == 1
    for measure in ("dss_published", "cas_published"):
        assert table[measure]["dss"].false_alarms_on_nothing == 1  # a share of nothing
        assert table[measure]["dss_total"].hit_rate < 0.5


def test_what_is_graded_is_what_coherence_and_markers_say() -> None:
    planted = build(HAND)
    model = dst.load(planted.model, tokenizer=planted.tokenizer, check=False)
    found = dst.coherence(model, planted.case)
    graded = measure_named("pathways")(model, planted.case)
    for name, ours in (
        ("dss", "dss_causal"),
        ("dss_removal", "dss_removal"),
        ("dss_in_transit", "dss_in_transit"),
        ("margin_causal", "margin_causal"),
    ):
        np.testing.assert_array_equal(np.asarray(graded[name]), found[ours].value)
    assert found["dss_causal"].total == pytest.approx(5 / 12, abs=1e-5)
    published = measure_named("dss_published")(model, planted.case)
    np.testing.assert_array_equal(np.asarray(published["dss"]), found["dss_published"].value)
    published = measure_named("cas_published")(model, planted.case)
    np.testing.assert_array_equal(np.asarray(published["dss"]), found["cas_published"].value)
    marks = dst.markers(model, planted.case)
    state = marks.get("commitment", "published (code) on cas_published").state
    np.testing.assert_equal(published["commitment"], state)


def test_a_share_of_rounding_errors_is_no_share() -> None:
    """Only an association toward the contextual answer: neither side pushes its own way."""
    plan = Plant(
        beta=-3.0, prior=Route(("subject", "answer"), (3,)), prior_block=1, base=0.5, name="toward"
    )
    planted = build(plan)
    assert planted.truth.prior == 3
    for engine_noise in (1e-6, -1e-6):
        found = dst.analysis.coherence.dss_causal(
            np.array([0.0, engine_noise]), np.array([0.0, 3.0]), 0.05
        )
        assert np.isnan(found.value).all()
        assert found.reasons[1] == "neither flow pushes toward its own answer"
        found = dst.analysis.coherence.dss_causal(
            np.array([0.0, 3.0]), np.array([0.0, engine_noise]), 0.05
        )
        assert found.value[1] == pytest.approx(1, abs=1e-5)
        assert found.note == ""  # there is no association, so none that agrees
    rows = score([measure_named("pathways")], [plan]).grades()["pathways"]
    assert rows["dss_total"].false_alarms == 0


# -- measures that are wrong -----------------------------------------------------------------------


class Changed:
    """Somebody's measure: ours, with its numbers changed."""

    name = "changed"

    def __init__(self, add: float, inner: str) -> None:
        self.add, self.inner = add, measure_named(inner)

    def __call__(self, model: Any, case: Case) -> Mapping[str, Any]:
        return {k: np.asarray(v) + self.add for k, v in self.inner(model, case).items()}


def test_a_measure_that_is_a_little_off_is_wrong_everywhere() -> None:
    found = score([Changed(0.002, "pathways")], [HAND]).grades()["changed"]
    for quantity in ("base", "prior", "total_effect", "contextual_removal", "dss"):
        assert found[quantity].hit_rate == 0, quantity
        assert found[quantity].max_error == pytest.approx(0.002, abs=1e-4)
    for quantity in ("contextual_arrival", "contextual_handover"):
        assert found[quantity].hit_rate == 0


def test_marks_that_are_one_state_late_are_wrong_everywhere() -> None:
    found = score([Changed(1, "repairs")], [HAND]).grades()["changed"]
    assert found["commitment"].hit_rate == 0
    assert found["commitment"].max_error == 1


class Donor:
    """The associative flow with the wrong donor: x_sub, cue kept (METHOD 2a says .385 for .625)."""

    name = "wrong donor"

    def __call__(self, model: Any, case: Case) -> Mapping[str, Any]:
        rows = [
            model.tokenizer(str(text))["input_ids"]
            for text in (case.text, case.neutral[0], case.substitute[0])
        ]
        logits = model.run(rows, logits_at=[-1]).last_logits
        plus, minus = model.tokenizer.convert_tokens_to_ids(
            [case.contextual[0], case.associative[0]]
        )
        x, zero, sub = (logits[:, plus] - logits[:, minus]).tolist()
        effect, prior = x - zero, zero - sub
        return {"prior": prior, "dss_total": effect / (effect - prior)}


def test_the_wrong_donor_is_found_out() -> None:
    found = score([Donor()], [HAND]).grades()["wrong donor"]
    # x_sub keeps the context: 5/2 of it goes to the prior, and the share is 5/17, not 5/12.
    assert found["prior"].max_error == pytest.approx(2.5, abs=1e-4)
    assert found["dss_total"].max_error == pytest.approx(5 / 12 - 5 / 17, abs=1e-4)


class Raising:
    """A measure that cannot do one of the plans."""

    name = "raising"

    def __init__(self, error: BaseException) -> None:
        self.error, self.calls = error, 0

    def __call__(self, model: Any, case: Case) -> Mapping[str, Any]:
        self.calls += 1
        if self.calls == 2:
            raise self.error
        return {"base": 0.5}


def test_a_measure_that_raises_is_a_row_with_its_reason_and_the_others_go_on() -> None:
    plans = [replace(NOTHING, name=f"none {i}") for i in range(3)]
    found = score([Raising(ValueError("no such layer\nmore")), measure_named("lens")], plans)
    assert found.failures == [("raising", "none 1", "ValueError: no such layer")]
    assert found.grades()["raising"]["base"].n == 2
    assert found.grades()["lens"]["lens_margin"].n == 3
    assert "raising failed on 1: ValueError: no such layer" in table(found)


def test_an_interruption_loses_nothing_that_was_done() -> None:
    plans = [replace(NOTHING, name=f"none {i}") for i in range(3)]
    found = score([Raising(KeyboardInterrupt())], plans)
    assert (found.done, found.asked) == (1, 3)
    assert found.grades()["raising"]["base"].n == 1
    assert "1 of 3 planted models: interrupted." in table(found)


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_the_number_of_threads_is_put_back(error: BaseException) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = []

        def look(model: Any, case: Case) -> Mapping[str, Any]:
            seen.append(torch.get_num_threads())
            raise error

        score([BuiltIn("look", look)], [NOTHING])
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_unknown_measure_is_named_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no measure 'dds'; expected one of forward, pathways"):
        measure_named("dds")


# -- tables, files, the command --------------------------------------------------------------------


def test_the_dictionary_is_json_and_holds_what_is_promised(one_of_each: Scores) -> None:
    text = json.dumps(one_of_each.to_dict(), allow_nan=False)
    for quantities in json.loads(text).values():
        for one in quantities.values():
            assert {"max_error", "hit_rate", "false_alarms", "n"} <= set(one)


def test_the_table_is_markdown_with_one_row_a_quantity(one_of_each: Scores) -> None:
    lines = table(one_of_each).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1  # aligned
    assert len(rows) - 2 == sum(map(len, one_of_each.grades().values()))
    assert lines[-1] == f"{len(KINDS)} planted models."


def test_the_command_prints_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "here"
    options = ["testbed", "score", "--n", "2", "--workers", "1", "--out", str(out)]
    assert cli.main([*options, "--measure", "lens", "--measure", "chance"]) == 0
    said = capsys.readouterr()
    assert "| lens " in said.out
    assert "2 planted models." in said.out
    saved = json.loads((out / "testbed_score.json").read_text("utf-8"))
    assert set(saved) == {"lens", "chance"}
    assert cli.main([*options, "--measure", "lens", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["lens"] == saved["lens"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--measure", "dds"], "There is no measure 'dds'; expected one of forward"),
        (["--n", "0"], "--n is 0; expected 1 or more"),
        (["--backend", "hook"], "The backend 'hook' does not exist"),
        (["--workers", "0"], "--workers is 0; expected 1 or more"),
    ],
)
def test_bad_options_are_one_sentence_and_leave_nothing(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ["testbed", "score", "--out", str(out), "--n", "1", "--workers", "1", *options]
    assert cli.main(given) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"dst: {message}")
    assert len(said.splitlines()) == 1
    assert not out.exists()


def test_the_example_of_a_measure_runs_as_it_stands() -> None:
    (example,) = re.findall(r"```python\n(class .*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert len(example.strip().splitlines()) <= 12
    names: dict[str, Any] = {}
    exec(example, names)
    found = score([names["Difference"]()], sample(len(KINDS), seed=1))
    assert not found.failures
    assert found.grades()["difference"]["total_effect"].hit_rate == 1


# -- long ------------------------------------------------------------------------------------------


@pytest.mark.full
def test_hundreds_and_the_table_of_the_page() -> None:
    """The figures of docs/testbed_score.md, drawn again: every error rate is what it says."""
    found = score(MEASURES, sample(340, seed=0), workers=2)
    assert_right(found)
    page = [row for row in DOCS.read_text("utf-8").splitlines() if row.startswith("| ")]
    again = [row for row in table(found).splitlines() if row.startswith("| ")]
    cells = [[cell.strip() for cell in row.split("|")] for row in page]
    for row in again:
        mine = [cell.strip() for cell in row.split("|")]
        (theirs,) = [row for row in cells if row[1:3] == mine[1:3]]
        # Sizes of float32 errors may differ from machine to machine; rates may not.
        columns = [3, 4, -3, -2] if mine[1] in OURS else range(len(mine))
        assert [theirs[i] for i in columns] == [mine[i] for i in columns]


@pytest.mark.full
@pytest.mark.parametrize("backend", ["bridge", "nnsight"])
def test_twelve_on_another_backend(backend: str) -> None:
    found = score([measure_named(name) for name in OURS], sample(12, seed=3), backend=backend)
    assert_right(found)


@pytest.mark.full
def test_processes_find_the_same_as_one() -> None:
    plans = sample(6, seed=4)
    one, two = (score([measure_named("pathways")], plans, workers=n) for n in (1, 2))
    assert one.to_dict() == two.to_dict()
