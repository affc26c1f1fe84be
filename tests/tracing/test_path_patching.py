"""Path patching: planted routes are found edge by edge; plain hooks agree; controls hold."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.errors import CapabilityError, CaseError, InputError
from dst.core.path_results import PathEffects
from dst.models.hooks import HooksBackend
from dst.testbed.planted import Plant, Planted, Route, build
from dst.tracing.pairs import make_pair, record_both
from dst.tracing.parts import differences, senders_of, sites_needed
from dst.tracing.prepare import prepare
from tests import tiny
from tests.tracing.test_attribution import PROMPT, case

ALL = ("q", "k", "v", "mlp", "logits")
TOLERANCE = 1e-4

RELAYED = Plant(
    n_layers=5,
    base=0.25,
    alpha=2.5,
    context=(Route(("cue", "relay_1", "answer"), (2, 4)),),
    beta=3.5,
    prior=Route(("subject", "answer"), (3,)),
    prior_block=1,
)
"""cue -> relay at block 2, relay -> answer at block 4; the prior is written by block 1's MLP."""


def engine_of(planted: Planted) -> HooksBackend:
    return HooksBackend(planted.model, planted.tokenizer, name="planted")


def edges_of(found: PathEffects) -> dict[tuple[str, str], float]:
    """Every edge that does anything."""
    return {
        (row["sender"], row["receiver"]): row["effect"]
        for row in found.to_records()
        if abs(row["effect"]) > TOLERANCE
    }


def check_controls(found: PathEffects) -> None:
    assert found.self_patch_error < TOLERANCE
    assert found.sum_error < 1e-5
    assert found.donor_error < TOLERANCE


# -- planted routes -------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["llama", "gpt2"])
@pytest.mark.parametrize("rotated", [False, True])
def test_the_contextual_route_is_found_edge_by_edge(body: Any, rotated: bool) -> None:
    planted = build(replace(RELAYED, body=body, rotated=rotated))
    found = dst.path_patch(engine_of(planted), planted.case, donor="swap", receivers=ALL)
    whole = planted.truth.ld["swap"] - planted.truth.ld["x"]
    assert abs(whole) == pytest.approx(2 * 2.5)
    # Blocks 2 and 4 are layers 1 and 3; a route's head is its block's first.
    expected = [("embedding", "v 1.0"), ("head 1.0", "v 3.0"), ("head 3.0", "logits")]
    assert edges_of(found) == pytest.approx(dict.fromkeys(expected, whole), abs=1e-3)
    check_controls(found)
    assert found.base == pytest.approx(planted.truth.ld["x"], abs=1e-4)
    assert found.donor == pytest.approx(planted.truth.ld["swap"], abs=1e-4)
    node = dict(zip(found.senders, found.node, strict=True))
    assert {name for name, effect in node.items() if abs(effect) > TOLERANCE} == {
        name for name, _ in expected
    }


def test_the_associative_route_starts_at_the_mlp() -> None:
    planted = build(RELAYED)
    found = dst.path_patch(engine_of(planted), planted.case, donor="substitute", receivers=ALL)
    whole = planted.truth.ld["substitute"] - planted.truth.ld["x"]
    assert abs(whole) == pytest.approx(3.5)
    expected = [("embedding", "mlp 0"), ("mlp 0", "v 2.0"), ("head 2.0", "logits")]
    assert edges_of(found) == pytest.approx(dict.fromkeys(expected, whole), abs=1e-3)


def test_two_routes_each_carry_their_share() -> None:
    routes = (
        Route(("cue", "relay_1", "answer"), (1, 3), share=0.75),
        Route(("cue", "relay_2", "answer"), (2, 4), share=0.25),
    )
    planted = build(Plant(n_layers=5, alpha=4.0, context=routes))
    found = dst.path_patch(engine_of(planted), planted.case, donor="swap", receivers=ALL)
    whole = planted.truth.ld["swap"] - planted.truth.ld["x"]
    assert edges_of(found) == pytest.approx(
        {
            ("embedding", "v 0.0"): 0.75 * whole,
            ("head 0.0", "v 2.0"): 0.75 * whole,
            ("head 2.0", "logits"): 0.75 * whole,
            ("embedding", "v 1.0"): 0.25 * whole,
            ("head 1.0", "v 3.0"): 0.25 * whole,
            ("head 3.0", "logits"): 0.25 * whole,
        },
        abs=1e-3,
    )


def test_who_reads_where_is_found_in_the_query() -> None:
    """A subject that reads the cue only as this noun: another noun turns the query, and the key."""
    plan = Plant(
        n_layers=4,
        alpha=3.0,
        context=(Route(("cue", "subject", "answer"), (2, 3)),),
        one_noun_context=True,
    )
    planted = build(plan)
    found = dst.path_patch(engine_of(planted), planted.case, donor="substitute", receivers=ALL)
    lost = planted.truth.ld["substitute"] - planted.truth.ld["x"]
    edges = edges_of(found)
    assert edges[("embedding", "q 1.0")] == pytest.approx(lost, abs=1e-3)
    assert edges[("head 1.0", "v 2.0")] == pytest.approx(lost, abs=1e-3)
    assert not any(receiver.startswith("k 1") for _, receiver in edges)


def test_only_what_is_asked_for_is_sent() -> None:
    planted = build(RELAYED)
    engine = engine_of(planted)
    at_cue = dst.path_patch(engine, planted.case, donor="swap", receivers=("v",), at="cue")
    assert list(edges_of(at_cue)) == [("embedding", "v 1.0")]
    relay = prepare(engine, planted.case, draws=0).tokenized.roles.index("relay")
    at_relay = dst.path_patch(engine, planted.case, donor="swap", receivers=("v",), at=[relay])
    assert list(edges_of(at_relay)) == [("head 1.0", "v 3.0")]
    assert at_relay.fired[at_relay.senders.index("head 1.0")].max() == 1


# -- against plain hooks ----------------------------------------------------------------------


class Naive:
    """Path patching in plain torch: the modules by name, hooks of one line, nothing of dst."""

    def __init__(self, family: str, model: Any, base: list[int], donor: list[int]) -> None:
        self.family, self.model = family, model
        inner = (
            model.transformer
            if family == "gpt2"
            else model.gpt_neox
            if (family == "gpt_neox")
            else model.model
        )
        self.blocks = list(inner.h if family == "gpt2" else inner.layers)
        self.norm = {"gpt2": "ln_f", "gpt_neox": "final_layer_norm"}.get(family, "norm")
        self.norm = getattr(inner, self.norm)
        self.base, self.base_seen = base, self.record(base)
        self.donor_seen = self.record(donor)

    def names(self, block: Any) -> dict[str, Any]:
        """Modules: norm before attention and MLP, attention, MLP, and what ends each."""
        if self.family == "gpt2":
            return {
                "n1": block.ln_1,
                "n2": block.ln_2,
                "qkv": block.attn.c_attn,
                "o": block.attn.c_proj,
                "attn": block.attn,
                "mlp": block.mlp,
                "mlp_end": block.mlp,
            }
        if self.family == "gpt_neox":
            return {
                "n1": block.input_layernorm,
                "n2": block.post_attention_layernorm,
                "qkv": block.attention.query_key_value,
                "o": block.attention.dense,
                "attn": block.attention,
                "mlp": block.mlp,
                "mlp_end": block.mlp,
            }
        own = {
            "n1": block.input_layernorm,
            "n2": block.post_attention_layernorm,
            "q": block.self_attn.q_proj,
            "k": block.self_attn.k_proj,
            "v": block.self_attn.v_proj,
            "o": block.self_attn.o_proj,
            "attn": block.self_attn,
            "mlp": block.mlp,
            "mlp_end": block.mlp,
        }
        if self.family == "gemma2":
            own |= {
                "n2": block.pre_feedforward_layernorm,
                "post": block.post_attention_layernorm,
                "mlp_end": block.post_feedforward_layernorm,
            }
        return own

    @torch.no_grad()
    def record(self, ids: list[int]) -> dict[tuple[int, str], torch.Tensor]:
        """Residual, z, what attention and MLP add, per layer."""
        seen: dict[tuple[int, str], torch.Tensor] = {}

        def out(key: tuple[int, str]) -> Callable[..., None]:
            return lambda m, a, y: seen.__setitem__(key, (y[0] if isinstance(y, tuple) else y)[0])

        def into(key: tuple[int, str]) -> Callable[..., None]:
            return lambda m, a, kw: seen.__setitem__(
                key, (a[0] if a else kw["hidden_states"])[0].clone()
            )

        with ExitStack() as hooks:
            put = hooks.callback
            for i, block in enumerate(self.blocks):
                n: Any = self.names(block)
                put(block.register_forward_pre_hook(into((i, "pre")), with_kwargs=True).remove)
                put(n["o"].register_forward_pre_hook(into((i, "z")), with_kwargs=True).remove)
                put(n.get("post", n["attn"]).register_forward_hook(out((i, "attn"))).remove)
                put(n["mlp_end"].register_forward_hook(out((i, "mlp"))).remove)
            norm: Any = self.norm
            last = (len(self.blocks), "pre")
            put(norm.register_forward_pre_hook(into(last), with_kwargs=True).remove)
            self.model(torch.tensor([ids]))
        return seen

    @torch.no_grad()
    def delta(self, sender: str) -> torch.Tensor:
        """What the sender adds in the donor's run minus in the base's, [pos d_model]."""
        kind, _, where = sender.partition(" ")
        if kind == "embedding":
            return self.donor_seen[0, "pre"] - self.base_seen[0, "pre"]
        layer, _, head = where.partition(".")
        if kind in ("attn", "mlp"):
            return self.donor_seen[int(layer), kind] - self.base_seen[int(layer), kind]
        return self.head(self.donor_seen, int(layer), int(head)) - self.head(
            self.base_seen, int(layer), int(head)
        )

    def head(self, seen: dict, layer: int, head: int) -> torch.Tensor:
        n, z = self.names(self.blocks[layer]), seen[layer, "z"]
        weight = n["o"].weight if self.family == "gpt2" else n["o"].weight.T
        size = len(weight) // 4
        own = slice(head * size, (head + 1) * size)
        added = z[:, own] @ weight[own]
        if "post" in n:  # Gemma's RMSNorm, its scale that of all heads together
            whole = z @ weight
            scale = (whole.pow(2).mean(-1, keepdim=True) + n["post"].eps).rsqrt()
            added = added * scale * (1 + n["post"].weight)
        return added

    @torch.no_grad()
    def logits(self, sender: str, receiver: str) -> torch.Tensor:
        """Logits at the last position with one edge patched."""
        kind, _, where = receiver.partition(" ")
        change = self.delta(sender)
        if kind == "logits":
            return self.run(self.norm, lambda x: x + change, before=True)
        layer, _, head = where.partition(".")
        i = int(layer)
        n, pre = self.names(self.blocks[i]), self.base_seen[i, "pre"] + change
        if kind == "mlp":
            if self.family != "gpt_neox":  # there MLP and attention stand side by side
                pre = pre + self.base_seen[i, "attn"]
            new = n["mlp"](n["n2"](pre[None]))
            if "post" in n:
                new = n["mlp_end"](new)
            return self.run(n["mlp_end"], lambda x: new[0])
        module: Any = n.get(kind, n.get("qkv"))
        columns = self.columns(kind, int(head))
        new = module(n["n1"](pre[None]))[0]

        def put(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            x[:, columns] = new[:, columns]
            return x

        return self.run(module, put)

    def columns(self, kind: str, head: int) -> slice:
        """Columns of one head in the projection's output (width 64, 4 heads, or Gemma's of 20)."""
        size = 20 if self.family == "gemma2" else 16
        start = head * size
        if self.family == "gpt2":
            start += 64 * "qkv".index(kind)
        if self.family == "gpt_neox":
            start = 3 * head * size + size * "qkv".index(kind)
        return slice(start, start + size)

    def run(self, module: Any, put: Callable, *, before: bool = False) -> torch.Tensor:
        def pre(m: Any, args: tuple) -> tuple:
            return (put(args[0][0])[None], *args[1:])

        def post(m: Any, args: tuple, y: Any) -> Any:
            return put(y[0])[None]

        handle = (
            module.register_forward_pre_hook(pre) if before else module.register_forward_hook(post)
        )
        try:
            return self.model(torch.tensor([self.base])).logits[0, -1]
        finally:
            handle.remove()


EDGES = [
    ("embedding", "q 0.1"),
    ("embedding", "v 2.0"),
    ("embedding", "mlp 1"),
    ("embedding", "logits"),
    ("head 0.3", "k 1.1"),
    ("head 0.0", "q 2.3"),
    ("head 1.2", "mlp 2"),
    ("head 1.1", "logits"),
    ("attn 0", "v 1.0"),
    ("mlp 0", "q 1.2"),
    ("mlp 1", "mlp 2"),
    ("mlp 2", "logits"),
]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_plain_hooks_give_the_same_effects(family: str) -> None:
    engine, item = tiny.backend(family), case()
    ready = prepare(engine, item, draws=0)
    base, donor = list(ready.tokenized.ids), list(ready.variants.neutral[0].ids)
    naive = Naive(family, engine.model, base, donor)
    edges = [*EDGES, *([("head 1.3", "mlp 1")] if family != "gpt_neox" else [])]
    found = dst.path_patch(
        engine,
        item,
        donor="neutral",
        senders=sorted({s for s, _ in edges}),
        receivers=sorted({r for _, r in edges}),
    )
    check_controls(found)
    plain = float(ready.metric(engine.model(torch.tensor([base])).logits[:, -1].detach())[0])
    sizes = []
    for sender, receiver in edges:
        logits = naive.logits(sender, receiver)
        effect = float(ready.metric(logits[None])[0]) - plain
        at = found.senders.index(sender), found.receivers.index(receiver)
        assert found.effect[at] == pytest.approx(effect, abs=2e-5), (sender, receiver)
        sizes.append(abs(effect))
    assert max(sizes) > 1e-3


def test_an_mlp_beside_attention_hears_no_head_of_its_block() -> None:
    found = dst.path_patch(tiny.backend("gpt_neox"), case(), donor="neutral", receivers=ALL)
    edges = {(row["sender"], row["receiver"]) for row in found.to_records()}
    assert ("head 1.3", "mlp 2") in edges
    assert ("head 1.3", "mlp 1") not in edges
    found = dst.path_patch(tiny.backend("llama"), case(), donor="neutral", receivers=ALL)
    assert ("head 1.3", "mlp 1") in {(r["sender"], r["receiver"]) for r in found.to_records()}


# -- every family -----------------------------------------------------------------------------


@tiny.families()
def test_controls_hold_and_a_donor_that_is_the_base_gives_exactly_zero(family: str) -> None:
    engine = tiny.backend(family)
    found = dst.path_patch(engine, case(), donor="neutral", receivers=("q", "v", "mlp", "logits"))
    check_controls(found)
    assert np.nanmax(np.abs(found.effect)) > 1e-3
    # All that a sender does, it does through its edges into the logits if they are its only ones.
    last = found.senders.index("mlp 2")
    assert found.node[last] == pytest.approx(
        found.effect[last, found.receivers.index("logits")], abs=TOLERANCE
    )
    own = dst.path_patch(engine, case(swap=PROMPT), donor="swap", receivers=("q", "mlp", "logits"))
    assert not np.nan_to_num(own.effect).any()
    assert not own.fired.any()
    assert own.donor == pytest.approx(own.base, abs=1e-5)


@tiny.families()
def test_heads_of_a_layer_together_are_its_attention(family: str) -> None:
    engine = tiny.backend(family)
    both = record_both(engine, make_pair(engine, case(), "neutral"), sites_needed(3))
    heads = senders_of(engine.spec, ["head"], heads=True)
    attention = senders_of(engine.spec, ["attn"], heads=False)
    assert list(map(str, attention)) == ["attn 0", "attn 1", "attn 2"]
    summed = differences(engine, both, heads).unflatten(0, (3, -1)).sum(1)
    whole = differences(engine, both, attention)
    assert whole.any()
    torch.testing.assert_close(summed, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))


def test_grouped_heads_have_their_keys_in_common() -> None:
    found = dst.path_patch(
        tiny.backend("llama"), case(), donor="neutral", senders=("mlp 0",), receivers=("q", "k")
    )
    assert [name for name in found.receivers if name.startswith("k 2")] == ["k 2.0", "k 2.1"]
    assert [name for name in found.receivers if name.startswith("q 2")] == [
        f"q 2.{head}" for head in range(4)
    ]


def test_a_whole_layer_can_receive() -> None:
    """OLMo-2 norms over all heads; a layer's query is one receiver there like anywhere."""
    found = dst.path_patch(
        tiny.backend("olmo2"),
        case(),
        donor="neutral",
        senders=("mlp 0",),
        receivers=("q 1", "q 1.0"),
    )
    assert found.receivers == ("q 1", "q 1.0")
    assert abs(found.effect[0, 0]) > 0


def test_positions_without_a_counterpart_keep_the_base() -> None:
    from dst.core.case import AlignedPrompt

    longer = AlignedPrompt(
        PROMPT.replace("lake", "green river"), aligned=(("lake", "green river"),)
    )
    found = dst.path_patch(
        tiny.backend("llama"), case(swap=[longer]), donor="swap", receivers=("v", "logits")
    )
    assert any("positions have a counterpart in the donor" in note for note in found.notes)
    assert found.sum_error < 1e-5
    assert found.donor_error < TOLERANCE


# -- what a reader sees ---------------------------------------------------------------------


def test_a_result_says_what_it_did_and_is_read_back(tmp_path: Any) -> None:
    planted = build(RELAYED)
    found = dst.path_patch(engine_of(planted), planted.case, receivers=ALL, seed=3)
    again = dst.open_result(found.save(tmp_path / "paths.npz"))
    assert again.senders == found.senders
    np.testing.assert_array_equal(again.effect, found.effect)
    assert found.provenance.seed == 3
    assert found.provenance.settings["donor"] == "swap"
    strongest = found.strongest(3)
    assert {(s, r) for s, r, _ in strongest} == set(edges_of(found))
    assert len(found.to_records()) == int((~np.isnan(found.effect)).sum())
    s, r = found.senders.index("embedding"), found.receivers.index("v 1.0")
    assert found.fired[s, r] == 1
    assert found.delta_norm[s, r] > 0
    assert found.floor.shape == (len(found.receivers),)


def test_what_cannot_be_patched_is_said() -> None:
    engine = tiny.backend("llama")

    def patch(**asked: Any) -> None:
        dst.path_patch(engine, case(), **{"donor": "neutral", **asked})

    with pytest.raises(InputError, match="The sender 'heads' cannot be read; expected one of"):
        patch(senders=("heads",))
    with pytest.raises(InputError, match=r"'head 3\.0' stands for no part of tiny-llama"):
        patch(senders=("head 3.0",))
    with pytest.raises(InputError, match=r"'k 0\.2' stands for no part.*of k and v 0 to 1"):
        patch(receivers=("k 0.2",))
    with pytest.raises(InputError, match=r"'mlp 0\.1' stands for no part.*mlp and attn have no"):
        patch(senders=("mlp 0.1",))
    with pytest.raises(InputError, match="The name 'logits 2' has a layer"):
        patch(receivers=("logits 2",))
    with pytest.raises(InputError, match="The prompt has no role 'distractor'; expected"):
        patch(at="distractor")
    with pytest.raises(InputError, match="There is no position 40; expected positions of a prompt"):
        patch(at=[40])
    with pytest.raises(InputError, match="The donor neutral has no draw 9; expected a draw from 0"):
        patch(draw=9)
    with pytest.raises(CaseError, match="no swap variant"):
        patch(donor="swap")
    twin = "Anna is at the lake. Anna sees a bass. The bass is the"
    with pytest.raises(CaseError, match="a yes/no case with its twin is two"):
        dst.path_patch(engine, case(twin_question=twin), donor="neutral")
    engine.can = engine.can - {"heads"}
    engine.cannot = {"heads": "not here"}
    with pytest.raises(CapabilityError, match="cannot do 'heads': not here"):
        patch()
    patch(heads=False)


# -- a peer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_head_to_head_paths_are_those_of_transformer_lens(component: str) -> None:
    pytest.importorskip("transformer_lens")
    from transformer_lens.patching import get_act_patch_direct_path

    from dst.models.bridge import BridgeBackend

    engine, item = tiny.backend("gpt2"), case()
    ready = prepare(engine, item, draws=0)
    base = torch.tensor([ready.tokenized.ids])
    donor = torch.tensor([ready.variants.neutral[0].ids])
    bridge = BridgeBackend(engine.model, engine.tokenizer).bridge
    with torch.no_grad():
        _, donor_cache = bridge.run_with_cache(donor)
        _, base_cache = bridge.run_with_cache(base)

        def ld(logits: torch.Tensor) -> torch.Tensor:
            return torch.tensor(ready.metric(logits[:, -1].detach())[0])

        theirs = get_act_patch_direct_path(
            bridge, base, donor_cache, base_cache, ld, 0, 2, component, verbose=False
        ).numpy()
    ours = dst.path_patch(
        engine, item, donor="neutral", senders=("head 0.2",), receivers=(component,)
    )
    effect = ours.effect[0].reshape(3, 4)
    np.testing.assert_allclose(effect[1:] + ours.base, theirs[1:], atol=1e-5)
    assert np.isnan(effect[0]).all()
    assert np.abs(effect[1:]).max() > 1e-5
