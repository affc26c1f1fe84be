"""The dose that turns an answer, against the closed form at the last state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from dst.analysis.commitment import dose_commitment
from dst.core.case import Case
from dst.core.errors import CaseError
from dst.core.sites import Site
from dst.tracing.dose import MOST, dose
from tests import tiny

CASE = Case(
    prompt="Anna is at the lake. Anna sees a bass. The bass is a",
    contextual="fish",
    associative="instrument",
)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.backend("llama", tiny.byte_bpe)


@pytest.mark.parametrize("swap", [False, True])
def test_at_the_last_state_the_dose_is_the_distance_to_the_border(model: Any, swap: bool) -> None:
    case = CASE.replace(contextual="instrument", associative="fish") if swap else CASE
    measured = dose(model, case)
    site = Site(model.spec.n_layers - 1, "resid_post")
    run = model.run([model.tokenizer(case.prompt)["input_ids"]], capture=[site])
    h = run.states[site][0, -1].double()
    ids = [model.tokenizer.encode(f" {word}")[0] for word in ("fish", "instrument")]
    rows = model.directions(ids).double()
    u = rows[0] - rows[1]
    gain = model.final_norm(torch.full((model.spec.d_model,), 1e4)).double()
    # The norm only divides by a positive number: LD changes sign where (h + d) . (g * u) does.
    border = -(h @ (gain * u)) / ((u / u.norm()) @ (gain * u)) / h.norm()
    assert measured.value[-1] == pytest.approx(abs(float(border)), rel=0.02)
    assert not measured.reasons[-1]


def test_the_dose_is_the_first_that_turns(model: Any) -> None:
    """A hundredth less does not turn it: checked by hand at an early state."""
    from dst.models.backend import Edit
    from dst.tracing.prepare import prepare

    measured = dose(model, CASE)
    ready = prepare(model, CASE)
    site = Site(1, "resid_pre")
    run = model.run([ready.tokenized.ids], capture=[site], logits_at=[-1])
    h = run.states[site][0, -1]
    rows = model.directions([ready.metric.plus[0], ready.metric.minus[0]])
    u = (rows[0] - rows[1]) / (rows[0] - rows[1]).norm() * -math.copysign(1, measured.contrast)

    def turned(size: float) -> bool:
        edit = Edit(site, [0], [-1], size * h.norm() * u, op="add")
        ld = ready.metric(model.run([ready.tokenized.ids], edits=[edit]).last_logits)
        return float(ld[0]) * measured.contrast < 0

    assert turned(measured.value[1] * 1.0001)
    assert not turned(measured.value[1] * 0.98)


def test_no_push_that_turns_it_is_nan_with_its_reason(model: Any) -> None:
    from dst.tracing import dose as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST", 1.1 * module.LEAST)
        measured = module.dose(model, CASE)
    blocked = np.isnan(measured.value)
    assert blocked.any()
    assert all(bool(reason) == nan for reason, nan in zip(measured.reasons, blocked, strict=True))
    assert MOST == 8


def test_commitment_by_dose_by_hand() -> None:
    correct = [np.array([1.0, 0.5, 0.2]), np.array([1.0, 0.7, 0.4]), np.array([1.0, 0.6, 0.3])]
    assert dose_commitment(np.array([1.9, 1.3, 0.1]), correct).state == 1  # 1.3 > 2 * .6
    assert dose_commitment(np.array([1.9, 1.1, math.nan]), correct).state == 2
    none = dose_commitment(np.array([1.9, 1.1, 0.5]), correct)
    assert math.isnan(none.state)
    assert none.reason == "no state asks for more than correct runs do"
    assert dose_commitment(np.array([1.0]), []).reason == "needs correct runs"


def test_two_prompts_have_no_dose(model: Any) -> None:
    twin = CASE.replace(twin_question="Anna is at the bank. Anna sees a bass. The bass is a")
    with pytest.raises(CaseError, match="two prompts"):
        dose(model, twin)
