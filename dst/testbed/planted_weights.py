"""The same circuit as a Llama and as a GPT-2: named dimensions become weights.

Both bodies get an orthonormal residual basis whose first direction is the ballast. LayerNorm
takes the mean out, so there the ballast is a +/- pair of coordinates, and every other direction
is orthogonal to the vector of ones and keeps off that pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from dst.testbed.planted_checks import D_MLP, N_HEADS
from dst.testbed.planted_circuit import DIMENSIONS, embedding, heads, neurons, unembedding
from dst.testbed.planted_plan import Plant
from dst.testbed.planted_prompt import BOS, PAD, VOCABULARY

BALLAST = 4096.0
"""K: the norm's divisor, and its gain. norm(x) differs from x by |x|^2 / (2 d K^2) of itself."""

N_POSITIONS = 80
ROPE_THETA = 1e12
"""So slow that the last rotary pair, where heads match, turns by less than 1e-8 over a prompt."""

MATCH = 16.0
"""Query and key of a head that has found its source; the score beats <bos> by exp(40) or more."""

DEFAULT = 10.0
"""Query of every position and key of <bos>: what is read when there is no source."""

SHARP = 64.0
"""Slope inside a neuron: act(SHARP z) / SHARP is relu(z) to 1e-15 at the planted values."""

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Block:
    """One block's matrices in the residual basis of the body: reads are rows, writes columns."""

    q: Float[np.ndarray, "head d_head d_model"]
    k: Float[np.ndarray, "head d_head d_model"]
    v: Float[np.ndarray, "head d_head d_model"]
    o: Float[np.ndarray, "head d_model d_head"]
    gate: Float[np.ndarray, "d_mlp d_model"]
    down: Float[np.ndarray, "d_model d_mlp"]


def make_model(plant: Plant) -> PreTrainedModel:
    """The planted model, in float32 and evaluation mode."""
    rng = np.random.default_rng(plant.seed)
    basis = residual_basis(plant, rng)
    wte, unembed = _ends(plant, basis, rng)
    blocks = [_block(plant, index, basis, rng) for index in range(plant.n_layers)]
    if plant.body == "llama":
        model, weights = _llama(plant, wte, unembed, blocks, basis)
    else:
        model, weights = _gpt2(plant, wte, unembed, blocks)
    state = {
        name: torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        for name, array in weights.items()
    }
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def residual_basis(
    plant: Plant, rng: np.random.Generator
) -> Float[np.ndarray, "direction d_model"]:
    """Orthonormal rows: the ballast, the dimensions of the circuit in order, then free ones."""
    d = plant.d_model
    if plant.body == "llama":
        ballast, free = np.eye(d)[:1], np.eye(d)[1:]
    else:
        ballast = np.zeros((1, d))
        ballast[0, :2] = np.sqrt(0.5), -np.sqrt(0.5)
        free = np.pad(_orthogonal_to_ones(d - 2), ((0, 0), (2, 0)))
    if plant.rotated:
        turn, upper = np.linalg.qr(rng.normal(size=(len(free), len(free))))
        free = (turn * np.sign(np.diag(upper))) @ free
    return np.concatenate([ballast, free])


def _orthogonal_to_ones(n: int) -> Float[np.ndarray, "direction n"]:
    """Helmert's basis of the vectors whose coordinates sum to zero."""
    rows = np.tril(np.ones((n - 1, n)))
    k = np.arange(1, n)
    rows[k - 1, k] = -k
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _vector(plant: Plant, basis: np.ndarray, named: Sequence[tuple[str, float]]) -> np.ndarray:
    """A read or write vector from named dimensions; "one" is a constant read from the ballast."""
    out = np.zeros(plant.d_model)
    for name, weight in named:
        if name == "one":
            out += weight / (BALLAST * np.sqrt(plant.d_model)) * basis[0]
        else:
            out += weight * basis[DIMENSIONS.index(name)]
    return out


def _noise(
    plant: Plant, basis: np.ndarray, rng: np.random.Generator, shape: tuple[int, ...]
) -> np.ndarray:
    """Random vectors [*shape d_model] of norm ``plant.noise`` each, on the free directions."""
    free = basis[len(DIMENSIONS) :]
    draw = rng.normal(size=(*shape, len(free)))
    return plant.noise * draw / np.linalg.norm(draw, axis=-1, keepdims=True) @ free


def _ends(
    plant: Plant, basis: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Embedding and unembedding, each [d_vocab d_model]; the answers' rows hold no noise."""
    words_in, words_out = embedding(plant), unembedding()
    wte = np.stack([_vector(plant, basis, list(words_in[word].items())) for word in VOCABULARY])
    unembed = np.stack(
        [_vector(plant, basis, list(words_out[word].items())) for word in VOCABULARY]
    )
    if plant.noise:
        wte += _noise(plant, basis, rng, (len(VOCABULARY),))
        quiet = np.array([not words_out[word] for word in VOCABULARY])
        noise = _noise(plant, basis, rng, (len(VOCABULARY),)) * quiet[:, None]
        unembed += noise - quiet[:, None] * noise.sum(0) / quiet.sum()
    wte += BALLAST * np.sqrt(plant.d_model) * basis[0]
    return wte, unembed


def _block(plant: Plant, index: int, basis: np.ndarray, rng: np.random.Generator) -> _Block:
    """One block: planted heads and neurons first, the others zero or noise."""
    d, d_head = plant.d_model, plant.d_model // N_HEADS
    planted_heads = [head for head in heads(plant) if head.block == index + 1]
    planted_neurons = [neuron for neuron in neurons(plant) if neuron.block == index + 1]
    q, k, v, o = (np.zeros((N_HEADS, d_head, d)) for _ in range(4))
    gate, down = np.zeros((D_MLP, d)), np.zeros((D_MLP, d))
    if plant.noise:
        q, k, v, o = (_noise(plant, basis, rng, (N_HEADS, d_head)) for _ in range(4))
        gate, down = (_noise(plant, basis, rng, (D_MLP,)) for _ in range(2))
        # Rows of one matrix: together they have the stated norm (Frobenius), a head on its own.
        q, k, v, o, gate, down = (m / np.sqrt(m.shape[-2]) for m in (q, k, v, o, gate, down))
    # The slowest rotary pair: the match goes into one half of it, the default into the other.
    match, default = d_head // 2 - 1, d_head - 1
    for slot, head in enumerate(planted_heads):
        for matrix in (q, k, v, o):
            matrix[slot] = 0
        q[slot, match] = _vector(plant, basis, [(head.reader, MATCH)])
        k[slot, match] = _vector(plant, basis, [(head.source, MATCH)])
        q[slot, default] = _vector(plant, basis, [("one", DEFAULT)])
        k[slot, default] = _vector(plant, basis, [("at_bos", DEFAULT)])
        v[slot, 0] = _vector(plant, basis, [(head.read, 1.0)])
        o[slot, 0] = _vector(plant, basis, list(head.write.items()))
    for slot, neuron in enumerate(planted_neurons):
        read = [(name, SHARP * weight) for name, weight in neuron.read.items()]
        gate[slot] = _vector(plant, basis, [*read, ("one", SHARP * neuron.bias)])
        write = [(name, weight / SHARP) for name, weight in neuron.write.items()]
        down[slot] = _vector(plant, basis, write)
    return _Block(q, k, v, o.transpose(0, 2, 1), gate, down.T)


def _llama(
    plant: Plant,
    wte: np.ndarray,
    unembed: np.ndarray,
    blocks: Sequence[_Block],
    basis: np.ndarray,
) -> tuple[PreTrainedModel, Weights]:
    d = plant.d_model
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=d,
        intermediate_size=D_MLP,
        num_hidden_layers=plant.n_layers,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_HEADS,
        head_dim=d // N_HEADS,
        max_position_embeddings=N_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        **_special_ids(),
    )
    gain = np.full(d, BALLAST)
    one = np.tile(_vector(plant, basis, [("one", 1.0)]), (D_MLP, 1))
    weights: Weights = {
        "model.embed_tokens.weight": wte,
        "model.norm.weight": gain,
        "lm_head.weight": unembed,
    }
    for index, block in enumerate(blocks):
        at = f"model.layers.{index}"
        weights |= {
            f"{at}.input_layernorm.weight": gain,
            f"{at}.post_attention_layernorm.weight": gain,
            f"{at}.self_attn.q_proj.weight": block.q.reshape(-1, d),
            f"{at}.self_attn.k_proj.weight": block.k.reshape(-1, d),
            f"{at}.self_attn.v_proj.weight": block.v.reshape(-1, d),
            f"{at}.self_attn.o_proj.weight": np.concatenate(list(block.o), axis=1),
            f"{at}.mlp.gate_proj.weight": block.gate,
            f"{at}.mlp.up_proj.weight": one,
            f"{at}.mlp.down_proj.weight": block.down,
        }
    return LlamaForCausalLM(config), weights


def _gpt2(
    plant: Plant, wte: np.ndarray, unembed: np.ndarray, blocks: Sequence[_Block]
) -> tuple[PreTrainedModel, Weights]:
    d = plant.d_model
    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_embd=d,
        n_inner=D_MLP,
        n_layer=plant.n_layers,
        n_head=N_HEADS,
        n_positions=N_POSITIONS,
        tie_word_embeddings=False,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        architectures=["GPT2LMHeadModel"],
        dtype="float32",
        **_special_ids(),
    )
    gain, zero = np.full(d, BALLAST), np.zeros(d)
    weights: Weights = {
        "transformer.wte.weight": wte,
        "transformer.wpe.weight": np.zeros((N_POSITIONS, d)),
        "transformer.ln_f.weight": gain,
        "transformer.ln_f.bias": zero,
        "lm_head.weight": unembed,
    }
    for index, block in enumerate(blocks):
        at = f"transformer.h.{index}"
        qkv = np.concatenate([matrix.reshape(-1, d) for matrix in (block.q, block.k, block.v)])
        weights |= {
            f"{at}.ln_1.weight": gain,
            f"{at}.ln_1.bias": zero,
            f"{at}.ln_2.weight": gain,
            f"{at}.ln_2.bias": zero,
            f"{at}.attn.c_attn.weight": qkv.T,
            f"{at}.attn.c_attn.bias": np.zeros(3 * d),
            f"{at}.attn.c_proj.weight": np.concatenate(list(block.o), axis=1).T,
            f"{at}.attn.c_proj.bias": zero,
            f"{at}.mlp.c_fc.weight": block.gate.T,
            f"{at}.mlp.c_fc.bias": np.zeros(D_MLP),
            f"{at}.mlp.c_proj.weight": block.down.T,
            f"{at}.mlp.c_proj.bias": zero,
        }
    return GPT2LMHeadModel(config), weights


def _special_ids() -> dict[str, int | None]:
    return {
        "bos_token_id": VOCABULARY.index(BOS),
        "eos_token_id": None,
        "pad_token_id": VOCABULARY.index(PAD),
    }
