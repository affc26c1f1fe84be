"""The model of a graph of concepts: a Llama whose every weight is set, with its tokenizer and case.

The construction is that of METHOD 14: a ballast makes the norms linear, a token's station is
content, heads match by it (`dst.testbed.planted_weights`). A switch is two neurons.
"""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from dst.core.case import Case
from dst.testbed.planted_concept_graph import (
    ANSWERS,
    COMPETING_WORDS,
    CONCEPTS,
    CONTEXT_WORDS,
    ConceptPlan,
    rows_of,
)
from dst.testbed.planted_weights import BALLAST, DEFAULT, MATCH, ROPE_THETA, SHARP

CUE = "concert"
NEUTRAL = ("house", "garden", "table", "office", "market")
FRAME = ("in", "the", CUE, "hall", "we", "saw", "a", "bass", "which", "kind", "is")
_SPECIALS = ("<pad>", "<unk>", "<bos>")
_OTHERS = ("red", "blue", "old", "new", "small", "large", "warm", "cold", "soft", "hard", "light")
VOCABULARY = (*_SPECIALS, *dict.fromkeys((*FRAME, *NEUTRAL)), *CONCEPTS, *_OTHERS)

D_MODEL, N_HEADS, D_MLP = 96, 2, 160
NOISE_NEURONS = 64
"""In every block, beside the switches: two neurons each, at most 48 in a block."""

_STATIONS = ("at_bos", "at_answer", "at_cue", "sense")
_D_HEAD = D_MODEL // N_HEADS


def make_model(plan: ConceptPlan) -> PreTrainedModel:
    """The model of a plan, in float32 and evaluation mode."""
    rng = np.random.default_rng(plan.seed)
    turn, upper = np.linalg.qr(rng.normal(size=(D_MODEL - 1, D_MODEL - 1)))
    free = np.pad(turn * np.sign(np.diag(upper)), ((0, 0), (1, 0)))  # the ballast is coordinate 0
    ballast = np.eye(D_MODEL)[0]
    named = dict(zip((*_STATIONS, *CONCEPTS), free, strict=False))
    one = ballast / (BALLAST * np.sqrt(D_MODEL))  # reads 1 at every token
    weights = {
        "model.embed_tokens.weight": _embedding(named) + BALLAST * np.sqrt(D_MODEL) * ballast,
        "model.norm.weight": np.full(D_MODEL, BALLAST),
        "lm_head.weight": _unembedding(plan, named, free, rng),
    }
    for layer in range(plan.n_layers):
        at = f"model.layers.{layer}"
        gate, down = _mlp(plan, layer + 1, named, free, one, rng)
        attention = _attention(plan, named, one) if layer == 0 else _no_attention()
        weights |= {f"{at}.self_attn.{name}_proj.weight": m for name, m in attention.items()}
        weights |= {
            f"{at}.input_layernorm.weight": np.full(D_MODEL, BALLAST),
            f"{at}.post_attention_layernorm.weight": np.full(D_MODEL, BALLAST),
            f"{at}.mlp.gate_proj.weight": gate,
            f"{at}.mlp.up_proj.weight": np.tile(one, (D_MLP, 1)),
            f"{at}.mlp.down_proj.weight": down,
        }
    model = LlamaForCausalLM(_config(plan))
    state = {
        name: torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        for name, array in weights.items()
    }
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _config(plan: ConceptPlan) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=D_MODEL,
        intermediate_size=D_MLP,
        num_hidden_layers=plan.n_layers,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_HEADS,
        head_dim=_D_HEAD,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=False,
        bos_token_id=VOCABULARY.index("<bos>"),
        eos_token_id=None,
        pad_token_id=VOCABULARY.index("<pad>"),
        dtype="float32",
    )


def _embedding(named: dict[str, np.ndarray]) -> np.ndarray:
    out = np.zeros((len(VOCABULARY), D_MODEL))
    out[VOCABULARY.index("<bos>")] = named["at_bos"]
    out[VOCABULARY.index("is")] = named["at_answer"]
    for word in (CUE, *NEUTRAL):
        out[VOCABULARY.index(word)] = named["at_cue"] + (word == CUE) * named["sense"]
    return out


def _unembedding(
    plan: ConceptPlan, named: dict[str, np.ndarray], free: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The concepts' rows, random ones for the other words, and <unk>, which makes the mean 0."""
    out = np.zeros((len(VOCABULARY), D_MODEL))
    directions = np.stack([named[word] for word in CONCEPTS])
    for word, row in zip(CONCEPTS, rows_of(plan) @ directions, strict=True):
        out[VOCABULARY.index(word)] = row
    rest = free[len(named) :]
    for word in _OTHERS:
        draw = rng.normal(size=len(rest))
        out[VOCABULARY.index(word)] = draw / np.linalg.norm(draw) @ rest
    out[VOCABULARY.index("<unk>")] = -out.sum(axis=0)
    return out


def _attention(
    plan: ConceptPlan, named: dict[str, np.ndarray], one: np.ndarray
) -> dict[str, np.ndarray]:
    """A head by which the answer reads the cue's sense; everybody else reads <bos>, so nothing."""
    out = _no_attention()
    match, default = _D_HEAD // 2 - 1, _D_HEAD - 1  # the two halves of the slowest rotary pair
    out["q"][match], out["k"][match] = MATCH * named["at_answer"], MATCH * named["at_cue"]
    out["q"][default], out["k"][default] = DEFAULT * one, DEFAULT * named["at_bos"]
    out["v"][0] = named["sense"]
    out["o"][:, 0] = sum(amount * named[word] for word, amount in plan.lit)
    return out


def _no_attention() -> dict[str, np.ndarray]:
    return {name: np.zeros((D_MODEL, D_MODEL)) for name in "qkvo"}


def _mlp(
    plan: ConceptPlan,
    block: int,
    named: dict[str, np.ndarray],
    free: np.ndarray,
    one: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Gate and down projection: the switches of this block, then the noise."""
    gate, down = np.zeros((D_MLP, D_MODEL)), np.zeros((D_MODEL, D_MLP))

    def random_unit() -> np.ndarray:
        draw = rng.normal(size=len(free))
        unit: np.ndarray = draw / np.linalg.norm(draw) @ free
        return unit

    for k in range(D_MLP - NOISE_NEURONS, D_MLP):
        gate[k], down[:, k] = SHARP * random_unit(), plan.noise / SHARP * random_unit()
    here = [edge for edge in plan.edges if edge.block == block and plan.twin != "removed"]
    for i, edge in enumerate(here):
        read, write = named[edge.source], named[edge.target]
        if plan.twin == "random":
            read, write = random_unit(), random_unit()
        for k, (bias, sign) in zip((2 * i, 2 * i + 1), ((0, 1), (-1, -1)), strict=True):
            gate[k] = SHARP * (read + bias * one)
            down[:, k] = sign * edge.gain / SHARP * write
    return gate, down


# -- what it reads ----------------------------------------------------------------------------


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer that puts <bos> before every text."""
    ids = {word: index for index, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", ids["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def make_case() -> Case:
    """The prompt with its neutral variants; every concept is a word of the case."""
    prompt = " ".join(FRAME)
    return Case(
        prompt=prompt,
        contextual=(ANSWERS[0],),
        associative=(ANSWERS[1],),
        cue=(CUE,),
        neutral=tuple(prompt.replace(CUE, cue) for cue in NEUTRAL),
        context_words=CONTEXT_WORDS,
        competing_words=COMPETING_WORDS,
    )
