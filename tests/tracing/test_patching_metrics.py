"""Metrics of patched runs against their formulas, on whole runs and on logits made by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.analysis.readout import log_softmax
from dst.core.errors import InputError
from dst.core.patch_results import UNITS
from dst.core.sites import Site
from dst.models.backend import Edit
from dst.tracing import measuring
from dst.tracing.metrics import Metrics, metrics_of
from dst.tracing.prepare import prepare
from tests import tiny
from tests.tracing.patched import PROMPT, SWAPPED, case, ids_of, put, state

EVERY = tuple(UNITS)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.backend("llama")


def test_the_formulas_on_four_tokens() -> None:
    metrics = Metrics(EVERY[:6], plus=(0, 1), minus=(2,))
    logits = torch.log(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    base = np.log([[0.25, 0.25, 0.25, 0.25]])
    found = dict(zip(EVERY[:6], metrics.read(logits, base)[:, 0], strict=True))
    assert found["LD"] == pytest.approx(0, abs=1e-6)  # log 3 - log 3
    assert found["prob"] == pytest.approx(0.3)
    assert found["log_prob"] == pytest.approx(math.log(0.3))
    assert found["prob_associative"] == pytest.approx(0.3)
    assert found["log_prob_associative"] == pytest.approx(math.log(0.3))
    kl = sum(0.25 * math.log(0.25 / p) for p in (0.1, 0.2, 0.3, 0.4))
    assert found["kl"] == pytest.approx(kl)


def test_ld_alone_asks_for_the_answers_tokens_only() -> None:
    alone = Metrics(("LD",), plus=(5, 9), minus=(2,))
    assert alone.tokens == (5, 9, 2)
    read = alone.read(torch.tensor([[0.0, math.log(3.0), math.log(2.0)]]), np.empty((0, 0)))
    assert read[0, 0] == pytest.approx(math.log(4 / 2), abs=1e-6)
    assert Metrics(("LD", "sequence_log_prob"), (1,), (2,)).tokens == (1, 2)
    assert Metrics(("LD", "kl"), (1,), (2,)).tokens is None


def test_ld_is_always_there_and_first(model: Any) -> None:
    tokenized = prepare(model, case()).tokenized
    assert metrics_of("kl", tokenized).names == ("LD", "kl")
    assert metrics_of(("kl", "LD", "kl"), tokenized).names == ("LD", "kl")
    with pytest.raises(InputError, match="The metric 'loss' does not exist; expected LD, log_prob"):
        metrics_of("loss", tokenized)


def test_several_metrics_come_from_one_run(model: Any) -> None:
    grid = dst.patch(model, case(), by="role", metric=EVERY, controls=1, show_progress=False)
    ready = prepare(model, case())
    own, other = ids_of(model, PROMPT), ids_of(model, SWAPPED)
    plus, minus = list(ready.metric.plus), list(ready.metric.minus)
    base = log_softmax(put(model, own, []).numpy())
    for i in range(model.spec.n_layers):
        site = Site(i, "resid_pre")
        for j, positions in enumerate(grid.column_positions):
            value = state(model, other, site)[list(positions)]
            logits = put(model, own, [(site, positions, value, None)])
            log_p = log_softmax(logits.numpy())
            known = {
                "LD": log_p[plus].sum() - log_p[minus].sum(),  # one form each
                "log_prob": log_p[plus[0]],
                "log_prob_associative": log_p[minus[0]],
                "prob": math.exp(log_p[plus[0]]),
                "prob_associative": math.exp(log_p[minus[0]]),
                "kl": float((np.exp(base) * (base - log_p)).sum()),
            }
            for name, value in known.items():
                assert grid.value(name)[i, j] == pytest.approx(value, abs=1e-4), name
    # KL: 0 of the base itself, KL(base || donor) of the donor
    donor = log_softmax(put(model, other, []).numpy())
    k = grid.metrics.index("kl")
    assert grid.base[k, 0] == 0
    assert grid.donor[k, 0] == pytest.approx((np.exp(base) * (base - donor)).sum(), abs=1e-5)


def longer(model: Any, **fields: Any) -> Any:
    """A case whose answers are several tokens and share their first one."""
    return case(contextual="a fish in the river", associative="a fish and a drum", **fields)


def sequence(model: Any, ids: list[int], answer: list[int], edits: list[Edit]) -> float:
    """Log P(answer | ids), token by token, by the definition."""
    run = model.run([[*ids, *answer]], edits=edits)
    log_p = log_softmax(run.logits[0].numpy())
    return float(sum(log_p[len(ids) - 1 + k, token] for k, token in enumerate(answer)))


def test_a_whole_answer_is_teacher_forced_from_its_first_token(model: Any) -> None:
    given = longer(model)
    ready = prepare(model, given)
    shared = len(ready.tokenized.shared)
    assert shared >= 2  # " a fish"
    names = ("sequence_log_prob", "sequence_log_prob_associative")
    grid = dst.patch(
        model, given, site="attn_out", metric=names, by="role", controls=1, show_progress=False
    )
    own, other = ids_of(model, PROMPT), list(ready.variants.swap[0].ids)
    for name, answers in zip(names, (ready.tokenized.contextual, ready.tokenized.associative),
                             strict=True):  # fmt: skip
        answer = list(answers[0].ids)
        assert len(answer) > shared + 1
        k = grid.metrics.index(name)
        assert grid.base[k, 0] == pytest.approx(sequence(model, own, answer, []), abs=1e-4)
        swapped = other[: len(own)]
        assert grid.donor[k, 0] == pytest.approx(sequence(model, swapped, answer, []), abs=1e-4)
        for i in range(model.spec.n_layers):
            site = Site(i, "attn_out")
            for j, positions in enumerate(grid.column_positions):
                value = state(model, other, site)[list(positions)]
                edit = Edit(site, [0], list(positions), value)
                known = sequence(model, own, answer, [edit])
                assert grid.value(name)[i, j] == pytest.approx(known, abs=1e-4)


def test_a_cut_goes_on_for_the_answer_s_own_tokens(model: Any) -> None:
    given = longer(model)
    ready = prepare(model, given)
    grid = dst.cut_attention(
        model, given, keys=["lake"], metric="sequence_log_prob", show_progress=False
    )
    from dst.models.backend import Cut

    own = list(ready.tokenized.ids)
    answer = list(ready.tokenized.contextual[0].ids)
    (key,) = ready.tokenized.positions_of("cue")
    row = [*own, *answer[len(ready.tokenized.shared) :]]
    for layer in range(model.spec.n_layers):
        cut = Cut(layer, [0], list(range(key + 1, len(row))), [key])
        log_p = log_softmax(model.run([row], cuts=[cut]).logits[0].numpy())
        start = len(row) - len(answer) - 1
        known = sum(log_p[start + k, token] for k, token in enumerate(answer))
        assert grid.value("sequence_log_prob")[layer, 0] == pytest.approx(known, abs=1e-4)


def test_the_size_of_a_part_changes_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {
        "by": "role",
        "metric": ("kl", "sequence_log_prob"),
        "controls": 3,
        "show_progress": False,
    }
    whole = dst.patch(model, case(), **asked)
    monkeypatch.setattr(measuring, "MOST_NUMBERS", 1)  # one cell at a time
    apart = dst.patch(model, case(), **asked)
    np.testing.assert_allclose(whole.values, apart.values, atol=1e-5)
    np.testing.assert_allclose(whole.controls.random_donor, apart.controls.random_donor, atol=1e-5)
