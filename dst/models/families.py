"""Where blocks, attention, MLP, norms and head live, found by structure.

transformers' decoder-only models share a handful of shapes. The tables below name the
modules by the names in use; a model of an unknown family whose modules have these names
needs no new row. Nothing here is believed: `dst.models.check` proves every anatomy
numerically when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dst.core.errors import ModelError

ATTENTION = ("self_attn", "attn", "attention", "self_attention")
OUTPUT_PROJECTION = ("o_proj", "c_proj", "out_proj", "dense")
MLP = ("mlp", "feed_forward", "block_sparse_moe", "ffn", "fc2")
"""``fc2``: OPT has no MLP module; its last linear map is what is added."""
FINAL_NORM = (
    *("norm", "ln_f", "final_layer_norm", "final_layernorm"),
    *("norm_f", "layer_norm", "embedding_norm"),
)
POST_NORMS = (
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_self_attn_layernorm", "post_mlp_layernorm"),
)
"""Blocks that norm what attention and MLP put out *before* adding it (Gemma-2 and 3,
OLMo-2, GLM-4). A block has them only if it has both: alone, ``post_attention_layernorm``
is Llama's norm before the MLP."""

SEPARATE_QKV = ("q_proj", "k_proj", "v_proj")
FUSED_QKV = ("c_attn", "qkv_proj", "query_key_value", "qkv", "Wqkv")


@dataclass(frozen=True)
class Slice:
    """Where q, k or v is in the output of a projection: take ``index`` of the last axis."""

    module: nn.Module
    index: torch.Tensor | None
    heads: int


@dataclass(frozen=True)
class Block:
    """One block: the modules whose input or output is each site."""

    block: nn.Module
    attention: nn.Module
    attn_out: nn.Module
    output_projection: Any
    mlp_out: nn.Module | None
    qkv: dict[str, Slice]


@dataclass(frozen=True)
class Anatomy:
    """A model by its parts.

    Attributes:
        model: The whole causal language model.
        body: The part that ends with the final norm.
        blocks: Its blocks, in order.
        final_norm: The norm before the head.
        head: The unembedding.
        soft_cap: Cap c of c * tanh(logits / c), None where there is none.
        logit_scale: Factor on the logits.
        n_heads: Query heads.
        n_kv_heads: Key/value heads.
        d_head: Width of a head.
        missing: Parts and sites that were not found, each with the reason.
    """

    model: Any
    body: nn.Module
    blocks: tuple[Block, ...]
    final_norm: nn.Module
    head: Any
    soft_cap: float | None
    logit_scale: float
    n_heads: int
    n_kv_heads: int
    d_head: int
    missing: dict[str, str]


def find_anatomy(model: Any) -> Anatomy:
    """Find a causal language model's parts by the names of its modules.

    Raises:
        ModelError: It is no decoder-only language model, or has no part of a known name.
    """
    config = text_config(model)
    if getattr(config, "is_encoder_decoder", False):
        raise _not_decoder(model, "an encoder and a decoder")
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        raise _not_decoder(model, "no unembedding")
    n_layers = int(getattr(config, "num_hidden_layers", 0))
    parent_name, stack = _find_blocks(model, n_layers)
    body = model.get_submodule(parent_name) if parent_name else model
    missing: dict[str, str] = {}
    final_norm = _child(body, FINAL_NORM)
    if final_norm is None:  # OPT-350M has none
        final_norm = nn.Identity()
        missing["final_norm"] = f"no {' or '.join(FINAL_NORM)} beside the blocks: taken to be none"
    n_heads, n_kv_heads, d_head = _head_sizes(config, _attention(stack[0]))
    blocks = tuple(_block(block, n_heads, n_kv_heads, d_head, missing) for block in stack)
    return Anatomy(
        model=model,
        body=_with_embedding(model, parent_name),
        blocks=blocks,
        final_norm=final_norm,
        head=head,
        soft_cap=getattr(config, "final_logit_softcapping", None),
        logit_scale=_logit_scale(config),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        missing=missing,
    )


def text_config(model: Any) -> Any:
    """The configuration of the language part (a multimodal model keeps it inside its own)."""
    config: Any = getattr(model, "config", None)
    if config is None:
        raise ModelError(
            f"{type(model).__name__} is no transformers model (it has no config)",
            do="Give a transformers causal language model",
        )
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _find_blocks(model: nn.Module, n_layers: int) -> tuple[str, Sequence[nn.Module]]:
    """The rule that has lived longest: a ModuleList of n_layers blocks that hold attention."""
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.ModuleList)
            and len(module) == n_layers > 0
            and all(_child(block, ATTENTION) is not None for block in module)
        ):
            return name.rpartition(".")[0], list(module)
    raise _not_decoder(model, f"no list of {n_layers} blocks with attention")


def _with_embedding(model: Any, parent_name: str) -> nn.Module:
    """The module to call: the base model (OPT wraps its decoder in one more module)."""
    prefix = getattr(model, "base_model_prefix", "")
    base = getattr(model, prefix, None) if prefix else None
    return base if isinstance(base, nn.Module) else model.get_submodule(parent_name)


def _block(
    block: nn.Module, n_heads: int, n_kv_heads: int, d_head: int, missing: dict[str, str]
) -> Block:
    attention = _attention(block)
    if any(getattr(module, "is_causal", True) is False for module in attention.modules()):
        raise ModelError(
            f"{type(block).__name__} looks ahead: its attention is not causal",
            expected="a decoder-only language model such as Llama or GPT-2",
        )
    mlp = _child(block, MLP)
    if mlp is None:
        missing["mlp_out"] = f"no MLP of a known name in {type(block).__name__}"
    attn_out, mlp_out = attention, mlp
    for attn_norm, mlp_norm in POST_NORMS:
        if hasattr(block, attn_norm) and hasattr(block, mlp_norm):
            attn_out, mlp_out = getattr(block, attn_norm), getattr(block, mlp_norm)
    projection = _child(attention, OUTPUT_PROJECTION)
    if projection is None:
        missing["z"] = f"no output projection of a known name in {type(attention).__name__}"
    qkv = _qkv(attention, n_heads, n_kv_heads, d_head)
    if not qkv:
        for kind in ("q", "k", "v"):
            missing[kind] = f"no query/key/value projection found in {type(attention).__name__}"
    return Block(block, attention, attn_out, projection, mlp_out, qkv)


def _attention(block: nn.Module) -> nn.Module:
    attention = _child(block, ATTENTION)
    assert attention is not None  # _find_blocks has seen to it
    return _child(attention, ATTENTION) or attention  # GPT-Neo keeps the real one inside


def _qkv(attention: nn.Module, n_heads: int, n_kv: int, d_head: int) -> dict[str, Slice]:
    heads = {"q": n_heads, "k": n_kv, "v": n_kv}
    if all(hasattr(attention, name) for name in SEPARATE_QKV):
        return {
            kind: Slice(getattr(attention, name), None, heads[kind])
            for kind, name in zip("qkv", SEPARATE_QKV, strict=True)
        }
    fused = _child(attention, FUSED_QKV)
    if fused is None:
        return {}
    if type(fused).__name__ == "Conv1D" or fused in (
        getattr(attention, name, None) for name in ("qkv_proj", "Wqkv")
    ):
        index = _blocks_of(n_heads, n_kv, d_head)
    elif n_kv == n_heads:
        index = _per_head(n_heads, d_head)
    else:
        index = _per_group(n_heads, n_kv, d_head)
    return {kind: Slice(fused, index[kind], heads[kind]) for kind in "qkv"}


def _blocks_of(n_heads: int, n_kv: int, d_head: int) -> dict[str, torch.Tensor]:
    """[all q | all k | all v], as in GPT-2 and Phi-3."""
    sizes = {"q": n_heads * d_head, "k": n_kv * d_head, "v": n_kv * d_head}
    index, start = {}, 0
    for kind, size in sizes.items():
        index[kind] = torch.arange(start, start + size)
        start += size
    return index


def _per_head(n_heads: int, d_head: int) -> dict[str, torch.Tensor]:
    """q, k, v of head 0, then of head 1, ..., as in GPT-NeoX."""
    table = torch.arange(n_heads * 3 * d_head).view(n_heads, 3, d_head)
    return {kind: table[:, i].reshape(-1) for i, kind in enumerate("qkv")}


def _per_group(n_heads: int, n_kv: int, d_head: int) -> dict[str, torch.Tensor]:
    """Queries of a group, then its k and v, as in Falcon (one group: multi-query)."""
    share = n_heads // n_kv
    table = torch.arange(n_kv * (share + 2) * d_head).view(n_kv, share + 2, d_head)
    return {
        "q": table[:, :-2].reshape(-1),
        "k": table[:, -2].reshape(-1),
        "v": table[:, -1].reshape(-1),
    }


def _head_sizes(config: Any, attention: nn.Module) -> tuple[int, int, int]:
    """Query heads, key/value heads, width of a head: by the projections' widths where they tell.

    A configuration may name what the model does not use: Falcon-7B's has 71 key/value heads,
    and the model one.
    """
    n_heads = int(config.num_attention_heads)
    n_kv = int(getattr(config, "num_key_value_heads", None) or n_heads)
    d_head = int(getattr(config, "head_dim", None) or config.hidden_size // n_heads)
    if projection := _child(attention, OUTPUT_PROJECTION):
        d_head = (_widths(projection)[0] or n_heads * d_head) // n_heads
    if key := _child(attention, SEPARATE_QKV[1:2]):
        n_kv = (_widths(key)[1] or n_kv * d_head) // d_head
    elif fused := _child(attention, FUSED_QKV):
        n_kv = ((_widths(fused)[1] or (n_heads + 2 * n_kv) * d_head) // d_head - n_heads) // 2
    return n_heads, n_kv, d_head


def _widths(linear: Any) -> tuple[int, int]:
    """Input and output width of a linear map; 0 where it does not tell."""
    if type(linear).__name__ == "Conv1D":
        return tuple(linear.weight.shape)
    return getattr(linear, "in_features", 0), getattr(linear, "out_features", 0)


def _logit_scale(config: Any) -> float:
    """Cohere multiplies its logits; Granite divides them."""
    if getattr(config, "logit_scale", None):
        return float(config.logit_scale)
    if getattr(config, "logits_scaling", None):
        return 1.0 / float(config.logits_scaling)
    return 1.0


def _child(module: nn.Module, names: Sequence[str]) -> nn.Module | None:
    for name in names:
        child = getattr(module, name, None)
        if isinstance(child, nn.Module):
            return child
    return None


def _not_decoder(model: nn.Module, found: str) -> ModelError:
    return ModelError(
        f"{type(model).__name__} is not a decoder-only language model ({found})",
        expected="a causal language model such as Llama or GPT-2",
    )
