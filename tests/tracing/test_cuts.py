"""Cuts against attention computed by hand with a mask of one's own, and against planted models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.case import Case
from dst.core.errors import CapabilityError, CaseError, InterventionError
from dst.models.hooks import HooksBackend
from dst.testbed.planted import KINDS, Plant, Route, build, sample
from dst.tracing import cuts
from dst.tracing.prepare import Prepared, prepare
from tests import tiny

PROMPT = "Anna is at the lake. Anna sees a bass. The bass is a"
PLANS = sample(len(KINDS), seed=8)


def case(**fields: Any) -> Case:
    return Case(
        **{
            "prompt": PROMPT,
            "contextual": "fish",
            "associative": "instrument",
            "subject": "bass",
            "cue": "lake",
            **fields,
        }
    )


def masked(model: Any, ready: Prepared, layers: Sequence[int], keys: Sequence[int]) -> float:
    """LD of plain transformers when the attention of some layers is given a mask of our own."""
    n = len(ready.x.ids)
    mask = torch.full((n, n), -torch.inf).triu(1)
    for query in range(min(keys) + 1, n):
        if query not in keys:
            mask[query, list(keys)] = -torch.inf
    handles = [
        model.model.model.layers[layer].self_attn.register_forward_pre_hook(
            lambda _m, args, kwargs: (args, {**kwargs, "attention_mask": mask[None, None]}),
            with_kwargs=True,
        )
        for layer in layers
    ]
    try:
        with torch.no_grad():
            logits = model.model(torch.tensor([ready.x.ids])).logits[0, -1].double()
    finally:
        for handle in handles:
            handle.remove()
    return float(logits[ready.metric.plus[0]] - logits[ready.metric.minus[0]])


def test_every_cut_is_that_of_a_mask_by_hand() -> None:
    model = tiny.backend("llama")
    found, ready = dst.cut_effects(model, case()), prepare(model, case())
    whole = masked(model, ready, [], [0])
    assert found.sources == ("cue", "subject", "relay")
    for i, source in enumerate(found.sources):
        keys = ready.tokenized.positions_of(source)
        for layer in range(3):
            one = whole - masked(model, ready, [layer], keys)
            assert found.one_layer[i, layer] == pytest.approx(one, abs=2e-4)
            upto = whole - masked(model, ready, range(layer + 1), keys)
            assert found.up_to_layer[i, layer] == pytest.approx(upto, abs=2e-4)
        assert found.all_layers[i] == found.up_to_layer[i, -1]
    assert np.abs(found.one_layer).max() > 0.01  # there is something to compare


def test_controls_cut_as_many_other_keys() -> None:
    model = tiny.backend("llama")
    found, ready = dst.cut_effects(model, case(), seed=3), prepare(model, case())
    assert found.control.shape == (3, cuts.CONTROLS)
    assert np.isfinite(found.control).all()
    again = dst.cut_effects(model, case(), seed=3)
    np.testing.assert_array_equal(found.control, again.control)
    other = dst.cut_effects(model, case(), seed=4)
    assert not np.array_equal(found.control, other.control)
    np.testing.assert_array_equal(found.one_layer, other.one_layer)
    rng = np.random.default_rng(3)
    keys = tuple(ready.tokenized.positions_of("cue"))
    last = len(ready.x.ids) - 1
    whole = masked(model, ready, [], [0])
    for i, drawn in enumerate(cuts._random_keys(ready, keys, rng)):
        assert len(set(drawn)) == len(keys)
        assert not {0, last, *keys} & set(drawn)
        known = whole - masked(model, ready, range(3), drawn)
        assert found.control[0, i] == pytest.approx(known, abs=2e-4)


def test_a_source_that_leaves_no_other_key_has_no_control() -> None:
    model = tiny.backend("llama")
    ready = prepare(model, case())
    every = tuple(range(len(ready.x.ids) - 1))
    assert cuts._random_keys(ready, every, np.random.default_rng(0)) == [()] * cuts.CONTROLS
    effects = cuts._effects(model, ready, [cuts._Plan((0,), ()), cuts._Plan((0,), (1,))])
    assert np.isnan(effects[0])
    assert np.isfinite(effects[1])


def test_the_size_of_a_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.backend("llama")
    whole = dst.cut_effects(model, case())
    monkeypatch.setattr(cuts, "MOST_TOKENS", 50)  # two runs at a time
    apart = dst.cut_effects(model, case())
    for name in ("one_layer", "up_to_layer", "control"):
        np.testing.assert_allclose(getattr(whole, name), getattr(apart, name), atol=1e-4)


# -- planted ------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.body}-{plan.name}")
def test_the_first_hop_of_the_context_is_where_it_was_planted(plan: Plant) -> None:
    planted = build(plan)
    found = dst.cut_effects(HooksBackend(planted.model, planted.tokenizer), planted.case)
    cue = found.sources.index("cue")
    np.testing.assert_allclose(found.one_layer[cue], planted.truth.cut_cue, atol=1e-3)


def test_a_relay_carries_what_the_answer_never_reads_at_the_cue() -> None:
    plan = Plant(
        n_layers=4, alpha=3.0, base=1.0, context=(Route(("cue", "relay_1", "answer"), (2, 4)),)
    )
    planted = build(plan)
    found = dst.cut_effects(HooksBackend(planted.model, planted.tokenizer), planted.case)
    table = dict(zip(found.sources, found.one_layer, strict=True))
    np.testing.assert_allclose(table["cue"], [0, 3, 0, 0], atol=1e-4)
    np.testing.assert_allclose(table["relay"], [0, 0, 0, 3], atol=1e-4)
    np.testing.assert_allclose(table["subject"], 0, atol=1e-4)
    upto = dict(zip(found.sources, found.up_to_layer, strict=True))
    np.testing.assert_allclose(upto["cue"], [0, 3, 3, 3], atol=1e-4)


# -- what is refused ------------------------------------------------------------------------------


def test_there_has_to_be_something_to_cut_off() -> None:
    model = tiny.backend("llama")
    with pytest.raises(InterventionError, match=r"no cue, subject or relay.*Give a subject"):
        dst.cut_effects(model, case(cue=(), subject=None))
    with pytest.raises(CaseError, match="no associative answer"):
        dst.cut_effects(model, case(associative=()))


def test_an_engine_without_cuts_is_named() -> None:
    model = tiny.backend("llama")
    model.can = model.can - {"cuts"}
    with pytest.raises(CapabilityError, match="cannot do 'cuts'"):
        dst.cut_effects(model, case())
