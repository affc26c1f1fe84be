"""EAP and EAP-IG: planted edges, slopes of path patching, completeness, peers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.errors import CapabilityError, InputError
from dst.core.path_results import EdgeScores
from dst.testbed.planted import Plant, Route, build
from dst.tracing import edge_attribution as module
from dst.tracing.edges import patch_edges
from dst.tracing.pairs import make_pair, record_both
from dst.tracing.parts import differences, receivers_of, senders_of, sites_needed
from dst.tracing.prepare import prepare
from tests import tiny
from tests.models.manual import llama
from tests.tracing.test_attribution import PROMPT, case
from tests.tracing.test_path_patching import RELAYED, engine_of

SWAPPED = PROMPT.replace("lake", "city")
METHODS = pytest.mark.parametrize("method", ["eap", "eap_ig"])


def edges_of(found: EdgeScores) -> dict[tuple[str, str], float]:
    """Every edge with a score."""
    return {
        (row["sender"], row["receiver"]): row["score"]
        for row in found.to_records()
        if abs(row["score"]) > 1e-3
    }


# -- closed forms ---------------------------------------------------------------------------


@METHODS
@pytest.mark.parametrize("body", ["llama", "gpt2"])
def test_where_everything_is_linear_the_scores_are_exact(method: str, body: Any) -> None:
    planted = build(replace(RELAYED, body=body))
    engine = engine_of(planted)
    found = dst.edge_attribution(engine, planted.case, method=method, steps=3, sample=None)
    whole = planted.truth.ld["swap"] - planted.truth.ld["x"]
    expected = [("embedding", "v 1.0"), ("head 1.0", "v 3.0"), ("head 3.0", "logits")]
    assert edges_of(found) == pytest.approx(dict.fromkeys(expected, whole), abs=2e-3)
    assert {(s, r) for s, r, _ in found.strongest(3)} == set(expected)
    nodes = dict(zip(found.senders, found.node, strict=True))
    assert nodes["embedding"] == pytest.approx(whole, abs=2e-3)
    assert nodes["head 3.0"] == pytest.approx(whole, abs=2e-3)
    exact = dst.path_patch(engine, planted.case, receivers=("q", "k", "v", "mlp", "logits"))
    np.testing.assert_allclose(found.exact, exact.effect, atol=1e-5)
    np.testing.assert_allclose(found.node_exact, exact.node, atol=1e-5)
    for quality in (found.agreement, found.node_agreement):
        assert quality.top_overlap == quality.sign_agreement == 1
        assert quality.mean_error < 1e-4
    assert abs(found.completeness_error) < 2e-3
    assert found.closure_error < 1e-4


def test_one_gradient_misses_what_lies_behind_a_switch_and_the_mean_of_many_does_not() -> None:
    """The gate of two redundant routes is clip(c_1 + c_2, -1, 1), flat at the base's c = 2.

    One gradient sees nothing of what is lost on the way down to the donor's -2; the mean over
    the way sees all of it.
    """
    routes = (
        Route(("cue", "relay_1", "answer"), (1, 2)),
        Route(("cue", "relay_2", "answer"), (1, 3)),
    )
    plan = Plant(n_layers=5, alpha=2.0, context=routes, combine="either", gate_block=4)
    planted = build(plan)
    engine = engine_of(planted)
    whole = planted.truth.ld["swap"] - planted.truth.ld["x"]
    assert abs(whole) == pytest.approx(4.0)
    one = dst.edge_attribution(engine, planted.case, method="eap", sample=None)
    many = dst.edge_attribution(engine, planted.case, method="eap_ig", steps=200, sample=None)
    embedding = one.senders.index("embedding")
    assert one.node[embedding] == pytest.approx(0, abs=1e-3)
    assert one.completeness_error == pytest.approx(-whole, abs=1e-3)
    assert many.node[embedding] == pytest.approx(whole, rel=0.02)
    assert abs(many.completeness_error) < 0.02 * abs(whole)
    # Half of it by each route, and all of it from the gate on.
    edges = edges_of(many)
    assert edges[("embedding", "v 0.0")] == pytest.approx(whole / 2, rel=0.05)
    assert edges[("embedding", "v 0.1")] == pytest.approx(whole / 2, rel=0.05)
    assert edges[("mlp 3", "logits")] == pytest.approx(whole, rel=0.02)


# -- against other implementations ------------------------------------------------------------


@tiny.families()
def test_a_score_is_the_slope_of_path_patching(family: str) -> None:
    """Of the exact effect of a share of the difference, as the share goes to 0, on both sides."""
    engine, item = tiny.backend(family), case(swap=SWAPPED)
    found = dst.edge_attribution(engine, item, method="eap", sample=1)
    both = record_both(engine, make_pair(engine, item, "swap"), sites_needed(3))
    senders = senders_of(engine.spec, None, heads=True)
    receivers = receivers_of(engine.spec, None, heads=True)
    sent = differences(engine, both, senders)
    scores = [(abs(score), s, r) for s, r, score in found.strongest(12)]
    edges = [(found.senders.index(s), found.receivers.index(r)) for _, s, r in scores]
    share = 0.02
    plan = [(s, receivers[r]) for s, r in edges]
    up = patch_edges(engine, both, share * sent, plan).effect
    down = patch_edges(engine, both, -share * sent, plan).effect
    slopes = (up - down) / (2 * share)
    expected = found.score[tuple(np.transpose(edges))]
    # 2e-5 is what float32 leaves of so short a way: far less than what is compared.
    np.testing.assert_allclose(slopes, expected, rtol=0.02, atol=2e-5)
    assert np.abs(expected).max() > 50 * 2e-5


@tiny.families()
@METHODS
def test_edges_add_up_to_nodes_and_the_embedding_to_the_whole(family: str, method: str) -> None:
    engine, item = tiny.backend(family), case(swap=SWAPPED)
    found = dst.edge_attribution(engine, item, method=method, sample=4)
    assert found.closure_error < 1e-5 * max(1.0, float(np.abs(found.node).max()))
    if method == "eap_ig" and not family.endswith("_moe"):  # a router's choice jumps
        assert abs(found.completeness_error) < 1e-3
    assert found.agreement.n == found.node_agreement.n == 4


def test_the_model_written_out_by_hand_gives_the_same_edges() -> None:
    """A Llama by hand: the gradient at q, k, v of a head, pulled back through norm and map."""
    engine, item = tiny.backend("llama"), case(swap=SWAPPED)
    ready = prepare(engine, item, draws=0)
    base, donor = list(ready.tokenized.ids), list(ready.variants.swap[0].ids)
    seen: dict[tuple[int, str], torch.Tensor] = {}
    other: dict[tuple[int, str], torch.Tensor] = {}
    logits = llama(engine.model, base, lambda i, k, x: seen.setdefault((i, k), x))[-1]
    with torch.no_grad():
        llama(engine.model, donor, lambda i, k, x: other.setdefault((i, k), x))
    (plus,), (minus,) = ready.metric.plus, ready.metric.minus
    value = logits[plus] - logits[minus]
    found = dst.edge_attribution(engine, item, method="eap", sample=1)
    weights = dict(engine.model.named_parameters())
    eps = engine.model.config.rms_norm_eps

    def normed(h: torch.Tensor, layer: int, kind: str) -> torch.Tensor:
        p = f"model.layers.{layer}."
        x = (
            h
            * (h.pow(2).mean(-1, keepdim=True) + eps).rsqrt()
            * weights[p + "input_layernorm.weight"]
        )
        return (x @ weights[f"{p}self_attn.{kind}_proj.weight"].T).unflatten(-1, (-1, 16))

    def sent(layer: int, head: int) -> torch.Tensor:
        change = (other[layer, "z"] - seen[layer, "z"])[:, head].detach()
        out = weights[f"model.layers.{layer}.self_attn.o_proj.weight"]
        return change @ out[:, head * 16 : head * 16 + 16].T

    for layer, kind, head in ((1, "q", 2), (2, "k", 1), (2, "v", 0)):
        (slope,) = torch.autograd.grad(value, seen[layer, kind], retain_graph=True)
        own = torch.zeros_like(slope)
        own[:, head] = slope[:, head]
        resid = seen[layer, "resid_pre"].detach().requires_grad_()
        (pulled,) = torch.autograd.grad(normed(resid, layer, kind), resid, own)
        for source in range(4):
            expected = float((sent(0, source) * pulled).sum().detach())
            at = (
                found.senders.index(f"head 0.{source}"),
                found.receivers.index(f"{kind} {layer}.{head}"),
            )
            assert found.score[at] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_edges_are_those_of_transformer_lens_where_it_has_them() -> None:
    pytest.importorskip("transformer_lens")
    from transformer_lens.tools.analysis.attribution_patching import (
        EdgeAttributionConfig,
        attribution_patch,
    )

    from dst.models.bridge import BridgeBackend

    engine, item = tiny.backend("gpt2"), case(swap=SWAPPED)
    ready = prepare(engine, item, draws=0)
    bridge = BridgeBackend(engine.model, engine.tokenizer).bridge
    (plus,), (minus,) = ready.metric.plus, ready.metric.minus
    theirs = attribution_patch(
        bridge,
        clean=torch.tensor([ready.variants.swap[0].ids]),
        corrupt=torch.tensor([ready.tokenized.ids]),
        metric_fn=lambda logits: (logits[:, -1, plus] - logits[:, -1, minus]).sum(),
        config=EdgeAttributionConfig(granularity="edge"),
    ).edge_scores
    assert theirs is not None
    names = {"embed": "embedding", "attn_head_out": "head", "mlp_out": "mlp", "mlp_in": "mlp"}
    names |= {f"{kind}_input": kind for kind in "qkv"}
    summed: dict[tuple[str, str], float] = {}
    for (writer, reader), score in theirs.items():
        edge = []
        for node in (writer, reader):
            name = names.get(node.kind, node.kind)
            if name not in ("embedding", "logits"):
                name += f" {node.layer}" + ("" if node.head is None else f".{node.head}")
            edge.append(name)
        summed[edge[0], edge[1]] = summed.get((edge[0], edge[1]), 0.0) + score
    found = dst.edge_attribution(engine, item, method="eap", sample=1)
    ours = {(row["sender"], row["receiver"]): row["score"] for row in found.to_records()}
    assert set(ours) == set(summed)
    assert ours == pytest.approx(summed, abs=1e-6)
    assert max(map(abs, summed.values())) > 1e-3


# -- what a reader sees ---------------------------------------------------------------------


def test_parts_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, item = tiny.backend("llama"), case(swap=SWAPPED)
    whole = dst.edge_attribution(engine, item, steps=5, sample=1)
    monkeypatch.setattr(module, "MOST_NUMBERS", 64 * 15 * 10)  # ten receivers at a time
    small = dst.edge_attribution(engine, item, steps=5, sample=1)
    np.testing.assert_allclose(small.score, whole.score, atol=1e-7)
    np.testing.assert_allclose(small.node, whole.node, atol=1e-7)
    monkeypatch.setattr(module, "MOST_TOKENS", 1)  # one step at a time
    steps = dst.edge_attribution(engine, item, steps=5, sample=1)
    np.testing.assert_allclose(steps.score, whole.score, atol=1e-7)


def test_layers_can_stand_for_heads_and_some_parts_for_all() -> None:
    engine, item = tiny.backend("llama"), case(swap=SWAPPED)
    found = dst.edge_attribution(engine, item, heads=False, sample=1)
    assert found.senders[:3] == ("embedding", "attn 0", "mlp 0")
    assert found.receivers[:4] == ("q 0", "k 0", "v 0", "mlp 0")
    assert found.closure_error < 1e-5
    heads = dst.edge_attribution(engine, item, sample=1)
    attention = [i for i, name in enumerate(heads.senders) if name.startswith("head 1.")]
    whole = found.node[found.senders.index("attn 1")]
    assert heads.node[attention].sum() == pytest.approx(whole, abs=1e-6)
    some = dst.edge_attribution(engine, item, senders=("mlp 0",), receivers=("v 1.0",), sample=1)
    at = heads.senders.index("mlp 0"), heads.receivers.index("v 1.0")
    assert some.score[0, 0] == pytest.approx(heads.score[at])
    assert np.isnan(some.closure_error)
    assert np.isnan(some.completeness_error)


def test_a_donor_that_is_the_base_scores_exactly_zero() -> None:
    found = dst.edge_attribution(tiny.backend("llama"), case(swap=PROMPT), sample=5)
    assert not np.nan_to_num(found.score).any()
    assert not found.node.any()
    assert found.completeness_error == pytest.approx(0, abs=1e-6)


def test_it_is_read_back_and_becomes_rows(tmp_path: Any) -> None:
    found = dst.edge_attribution(tiny.backend("gpt2"), case(swap=SWAPPED), sample=6, seed=1)
    again = dst.open_result(found.save(tmp_path / "edges.npz"))
    np.testing.assert_array_equal(again.score, found.score)
    assert again.agreement.chosen == found.agreement.chosen
    assert "a random sample of 6 of" in found.agreement.chosen
    rows = found.to_records()
    assert len(rows) == int((~np.isnan(found.score)).sum()) == found.agreement.n_all
    assert sum(not np.isnan(row["exact"]) for row in rows) == 6
    assert (found.method, found.steps) == ("eap_ig", 30)
    assert found.provenance.settings["steps"] == 30


def test_what_cannot_be_scored_is_said() -> None:
    engine, item = tiny.backend("llama"), case(swap=SWAPPED)
    with pytest.raises(InputError, match="The method 'ig' does not exist; expected eap, eap_ig"):
        dst.edge_attribution(engine, item, method="ig")
    with pytest.raises(InputError, match="steps is 0; expected at least 1"):
        dst.edge_attribution(engine, item, steps=0)
    with pytest.raises(InputError, match="The sample has 0 edges"):
        dst.edge_attribution(engine, item, sample=0)
    with pytest.raises(InputError, match="The receiver 'z' cannot be read"):
        dst.edge_attribution(engine, item, receivers=("z",))
    engine.can = engine.can - {"gradients"}
    with pytest.raises(CapabilityError, match="cannot do 'gradients'"):
        dst.edge_attribution(engine, item)
