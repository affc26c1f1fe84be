"""Small random models of every family and small real tokenizers, built in memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "Anna is at the lake. Anna sees a bass. What is the bass? The bass is a fish.",
    "Ben is at the concert. Ben hears a bass. What is the bass? The bass is an instrument.",
    "The bank of the river is green. The bank in the city lends money to the people.",
    "A guitar and a drum play a song. The crane stood in the water near the harbor.",
    "the bass is a fish . the bass is an instrument . the bat is an animal .",
]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% if enable_thinking is defined and not "
    "enable_thinking %}<think></think>{% endif %}{% endif %}"
)
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def _wrapped(tokenizer: Tokenizer, *, bos: bool, chat: bool = True) -> Any:
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    fast.chat_template = CHAT_TEMPLATE if chat else None
    return fast


@cache
def byte_bpe(bos: bool = False) -> Any:
    """Byte-level BPE, as GPT-2's and Llama-3's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _wrapped(tokenizer, bos=bos)


@cache
def sentencepiece_like() -> Any:
    """BPE over words with a leading U+2581 and byte fallback, as Llama-2's and Gemma's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[*SPECIAL, *(f"<0x{i:02X}>" for i in range(256))],
        show_progress=False,
    )
    # Real ones learn no piece of letters and punctuation either.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\u2581", "merged_with_next"), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _wrapped(tokenizer, bos=True)


@cache
def word_level() -> Any:
    """One token a word, as the embedded model's."""
    words = sorted({word for line in CORPUS for word in re.findall(r"\w+|[^\w\s]", line)})
    vocab = {token: i for i, token in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrapped(tokenizer, bos=True)


_SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "intermediate_size": 80}
_GPT = {
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", _GPT),
    "gpt_neox": ("GPTNeoXConfig", {**_SIZES, "intermediate_size": 80}),
    "gptj": ("GPTJConfig", {**_GPT, "rotary_dim": 8}),
    "opt": ("OPTConfig", {**_SIZES, "ffn_dim": 80, "word_embed_proj_dim": 64}),
    "llama": ("LlamaConfig", _GROUPED),
    "mistral": ("MistralConfig", {**_GROUPED, "sliding_window": 5}),
    "qwen2": ("Qwen2Config", _GROUPED),
    "qwen3": ("Qwen3Config", {**_GROUPED, "head_dim": 20}),
    "qwen3_moe": ("Qwen3MoeConfig", {**_GROUPED, **_MOE, "head_dim": 20}),
    "gemma2": ("Gemma2Config", {**_GROUPED, "head_dim": 20, "sliding_window": 5}),
    "gemma3_text": ("Gemma3TextConfig", {**_GROUPED, "head_dim": 20, "sliding_window": 5}),
    "olmo2": ("Olmo2Config", _GROUPED),
    "phi3": ("Phi3Config", _GROUPED),
    "smollm3": ("SmolLM3Config", _GROUPED),
    "stablelm": ("StableLmConfig", _GROUPED),
    "falcon": ("FalconConfig", _SIZES),
    "falcon_new": (
        "FalconConfig",
        {**_SIZES, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
}
"""Family -> its configuration class and a small configuration (vocabulary != width)."""

SIX = ("gpt2", "gpt_neox", "opt", "llama", "qwen3_moe", "gemma2")
"""Families of `make test`: every way to lay out a block that the sixteen know. The others
are marked ``full``."""


def families() -> Any:
    """Mark for a test of every family, given as ``family``."""
    marks = {name: () if name in SIX else (pytest.mark.full,) for name in FAMILIES}
    return pytest.mark.parametrize(
        "family", [pytest.param(name, marks=marks[name]) for name in FAMILIES]
    )


def config(family: str, vocab_size: int, **changes: Any) -> Any:
    """A small configuration of a family."""
    name, sizes = FAMILIES[family]
    return getattr(transformers, name)(**{**sizes, "vocab_size": vocab_size, **changes})


def model(
    family: str, vocab_size: int, *, seed: int = 0, scale: float = 3.0, **changes: Any
) -> Any:
    """A small random model: weights times ``scale``, gains and biases moved from 1 and 0."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = transformers.AutoModelForCausalLM.from_config(config(family, vocab_size, **changes))
        with torch.no_grad():
            for weight in made.parameters():
                if weight.ndim > 1:
                    weight.mul_(scale)
                else:
                    weight.add_(torch.randn_like(weight), alpha=0.2)
    return made.eval()


def backend(family: str, tokenizer: Callable[[], Any] = byte_bpe, **changes: Any) -> Any:
    """The hooks backend on a small random model with a small real tokenizer."""
    from dst.models.hooks import HooksBackend

    made = tokenizer()
    return HooksBackend(model(family, len(made) + 3, **changes), made, name=f"tiny-{family}")
