"""Llama and GPT-2 written out in plain torch: what the engines' sites are compared with.

Each forward calls ``at(layer, kind, value)`` where a site is, and goes on with what that
returns. Nothing of dst and no transformers code runs here; only weights are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import gelu, silu

Visit = Callable[[int, str, torch.Tensor], torch.Tensor]
"""Sees one site of one prompt: [pos d_model], [pos head d_head] or [head query key]."""


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, at: Visit, layer: int) -> Any:
    """Causal attention of [pos head d_head]; ``at`` sees the scores before the softmax too."""
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    n = scores.shape[-1]
    scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -math.inf)
    pattern = at(layer, "pattern", at(layer, "scores", scores).softmax(-1))
    return at(layer, "z", torch.einsum("hqk,khd->qhd", pattern, v))


def rope(x: torch.Tensor, base: float) -> torch.Tensor:
    """Rotary embedding of [pos head d_head], halves rotated into each other."""
    half = x.shape[-1] // 2
    angle = torch.arange(len(x))[:, None] * base ** (-torch.arange(half) / half)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def llama(model: Any, ids: list[int], at: Visit) -> torch.Tensor:
    """Logits [pos d_vocab] of a Llama."""
    config, w = model.config, dict(model.named_parameters())
    d_head = config.hidden_size // config.num_attention_heads
    base = config.rope_parameters["rope_theta"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return w[name] * x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()

    h = w["model.embed_tokens.weight"][ids]
    for i in range(config.num_hidden_layers):
        p = f"model.layers.{i}."
        h = at(i, "resid_pre", h)
        x = norm(h, p + "input_layernorm.weight")
        q, k, v = (
            at(i, kind, (x @ w[f"{p}self_attn.{kind}_proj.weight"].T).unflatten(-1, (-1, d_head)))
            for kind in "qkv"
        )
        z = attend(rope(q, base), rope(k, base), v, at, i)
        attn_out = at(i, "attn_out", z.flatten(-2) @ w[p + "self_attn.o_proj.weight"].T)
        x = norm(h + attn_out, p + "post_attention_layernorm.weight")
        gate, up = (x @ w[f"{p}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        mlp_out = at(i, "mlp_out", (silu(gate) * up) @ w[p + "mlp.down_proj.weight"].T)
        h = at(i, "resid_post", h + attn_out + mlp_out)
    return norm(h, "model.norm.weight") @ w["lm_head.weight"].T


def gpt2(model: Any, ids: list[int], at: Visit) -> torch.Tensor:
    """Logits [pos d_vocab] of a GPT-2."""
    config, w = model.config, dict(model.named_parameters())
    d_head = config.n_embd // config.n_head

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + config.layer_norm_epsilon).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    h = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: len(ids)]
    for i in range(config.n_layer):
        p = f"transformer.h.{i}."
        h = at(i, "resid_pre", h)
        parts = linear(norm(h, p + "ln_1"), p + "attn.c_attn").chunk(3, -1)
        q, k, v = (
            at(i, kind, part.unflatten(-1, (-1, d_head)))
            for kind, part in zip("qkv", parts, strict=True)
        )
        z = attend(q, k, v, at, i)
        attn_out = at(i, "attn_out", linear(z.flatten(-2), p + "attn.c_proj"))
        x = linear(norm(h + attn_out, p + "ln_2"), p + "mlp.c_fc")
        mlp_out = at(i, "mlp_out", linear(gelu(x, approximate="tanh"), p + "mlp.c_proj"))
        h = at(i, "resid_post", h + attn_out + mlp_out)
    return norm(h, "transformer.ln_f") @ w["transformer.wte.weight"].T


FORWARD = {"llama": llama, "gpt2": gpt2}


def recorded(family: str, model: Any, ids: list[int], change: Visit | None = None) -> Any:
    """Logits, and every site by (layer, kind), with ``change`` made wherever it changes."""
    seen: dict[tuple[int, str], torch.Tensor] = {}

    def at(layer: int, kind: str, value: torch.Tensor) -> torch.Tensor:
        value = value if change is None else change(layer, kind, value)
        seen[layer, kind] = value
        return value

    with torch.no_grad():
        return FORWARD[family](model, ids, at), seen
