"""Reading states out: the final norm, the unembedding, a frozen scale, each head's part."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dst.core.errors import CapabilityError
from dst.core.sites import Site
from dst.models.hooks import HooksBackend
from tests import tiny
from tests.models.test_hooks_sites import LAYERS, ROWS, close

LAST = Site(2, "resid_post")


def engine_of(family: str) -> tuple[HooksBackend, torch.Tensor, torch.Tensor]:
    """An engine, the last states [pos d_model] and the logits [pos d_vocab] of a prompt."""
    engine = tiny.backend(family)
    run = engine.run(ROWS[:1], capture=[LAST])
    return engine, run.states[LAST][0], run.logits[0]


def uncapped(engine: HooksBackend, logits: torch.Tensor) -> torch.Tensor:
    cap = engine.anatomy.soft_cap
    return cap * torch.atanh(logits.double() / cap) if cap else logits.double()


def norm_by_hand(engine: HooksBackend, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """N(x) with the scale of ``like``, by the formula of the family's norm."""
    module: Any = engine.anatomy.final_norm
    gain = module.weight.detach().double()
    x, like = x.double(), like.double()
    bias = torch.zeros_like(gain)
    eps: float = module.eps if hasattr(module, "eps") else module.variance_epsilon
    if isinstance(module, torch.nn.LayerNorm):
        x, like = x - x.mean(-1, keepdim=True), like - like.mean(-1, keepdim=True)
        bias = module.bias.detach().double()
    if "Gemma" in type(module).__name__:
        gain = 1 + gain
    return gain * x / (like.pow(2).mean(-1, keepdim=True) + eps).sqrt() + bias


@tiny.families()
def test_the_last_state_read_out_is_the_logits(family: str) -> None:
    engine, state, logits = engine_of(family)
    close(engine.unembed(state), logits)
    close(engine.unembed(state, scale_from=state), logits)


@tiny.families()
def test_the_norm_is_the_familys_formula(family: str) -> None:
    engine, state, _ = engine_of(family)
    close(engine.final_norm(state).double(), norm_by_hand(engine, state, state))
    other = 3 * state.flip(0) + 1
    close(engine.final_norm(state, other).double(), norm_by_hand(engine, state, other))


@tiny.families()
def test_with_a_frozen_scale_reading_out_is_affine(family: str) -> None:
    engine, state, _ = engine_of(family)
    like = state[3:4]
    a, b = state[0] / 4, torch.randn(64, generator=torch.Generator().manual_seed(0)) / 4

    def read(x: torch.Tensor) -> torch.Tensor:
        return uncapped(engine, engine.unembed(x, scale_from=like))

    zero = read(torch.zeros(64))
    close(read(2 * a - 3 * b) - zero, 2 * (read(a) - zero) - 3 * (read(b) - zero), scale=10.0)
    close(read(a) - read(-a), 2 * (read(a) - zero), scale=10.0)


def test_gemmas_gain_is_one_plus_its_weight() -> None:
    engine, state, _ = engine_of("gemma2")
    weight = engine.model.model.norm.weight.detach()
    rms = (state.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    close(engine.final_norm(state), (1 + weight) * state / rms)
    close(engine.final_norm(state, state), (1 + weight) * state / rms)


def test_a_soft_cap_is_put_on_last() -> None:
    engine, state, logits = engine_of("gemma2")
    assert engine.anatomy.soft_cap == 30.0
    raw = engine.final_norm(state) @ engine.directions().T
    close(logits, 30 * torch.tanh(raw / 30))


def test_a_logit_scale_is_the_models() -> None:
    import transformers

    config = transformers.CohereConfig(
        **tiny._GROUPED | {"vocab_size": 99, "logit_scale": 0.25, "use_qk_norm": False}
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    engine = HooksBackend(model, tiny.byte_bpe())
    run = engine.run(ROWS[1:2], capture=[LAST])  # its norm is a LayerNorm of its own class
    close(run.logits[0], engine.plain_logits(ROWS[1]))
    close(engine.unembed(run.states[LAST]), run.logits)
    close(engine.unembed(run.states[LAST], run.states[LAST]), run.logits)


@tiny.families()
def test_directions_are_rows_of_the_unembedding(family: str) -> None:
    engine, state, logits = engine_of(family)
    assert engine.directions().shape == (engine.spec.d_vocab, 64)
    ids = [5, 300, 5]
    read = engine.final_norm(state).double() @ engine.directions(ids).double().T
    read = read + engine.head_bias(ids).double()
    close(read, uncapped(engine, logits[:, ids]))
    assert not engine.directions(ids).requires_grad


def test_a_bias_of_the_head_is_given_by_token() -> None:
    engine = tiny.backend("gptj")
    bias = engine.model.lm_head.bias
    assert bias.abs().max() > 0
    assert torch.equal(engine.head_bias([3, 1]), bias[[3, 1]].detach())
    assert torch.equal(tiny.backend("llama").head_bias([3, 1]), torch.zeros(2))


@tiny.families()
def test_the_heads_and_a_bias_add_up_to_what_attention_adds(family: str) -> None:
    engine = tiny.backend(family)
    sites = [Site(layer, kind) for layer in LAYERS for kind in ("z", "attn_out")]
    states = engine.run(ROWS[:1], capture=sites).states
    for layer in LAYERS:
        z, attn_out = states[Site(layer, "z")][0], states[Site(layer, "attn_out")][0]
        heads = engine.head_outputs(layer, z, attn_out)
        assert heads.shape == (7, 4, 64)
        projection = engine.anatomy.blocks[layer].output_projection
        bias = getattr(projection, "bias", None)
        rest = torch.zeros(64) if bias is None else bias.detach()
        close(heads.sum(-2) + rest, attn_out.double())


def test_a_heads_part_is_what_is_lost_without_it() -> None:
    from dst.models.backend import Edit

    engine = tiny.backend("gpt2")
    sites = [Site(1, "z"), Site(1, "attn_out")]
    base = engine.run(ROWS[:1], capture=sites).states
    heads = engine.head_outputs(1, base[sites[0]][0], base[sites[1]][0])
    cut = Edit(sites[0], [0], range(7), torch.zeros(()), heads=[2])
    without = engine.run(ROWS[:1], capture=sites, edits=[cut]).states[sites[1]]
    close((base[sites[1]] - without)[0].double(), heads[:, 2])


def test_a_model_whose_heads_were_not_found_says_so() -> None:
    engine = tiny.backend("llama")
    block = engine.anatomy.blocks[0]
    object.__setattr__(block, "output_projection", None)
    engine.anatomy.missing["z"] = "no output projection"
    with pytest.raises(CapabilityError, match="Heads were not found: no output projection"):
        engine.head_outputs(0, torch.zeros(1, 4, 16), torch.zeros(1, 64))
