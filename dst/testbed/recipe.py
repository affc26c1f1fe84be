"""The numbers of a training run, and what is built from them: tokenizer, model, batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dst.core.errors import InputError
from dst.testbed import world


@dataclass(frozen=True)
class Recipe:
    """Every number that the weights depend on, but for the machine's arithmetic."""

    seed: int = 0
    steps: int = 560  # where training stops ...
    schedule: int = 2400  # ... on the way down a cosine of this length
    warm_up: int = 100
    batch: int = 64
    learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip: float = 1.0  # of the gradient's norm
    layers: int = 4
    width: int = 128
    heads: int = 4
    mlp: int = 384
    window: int = 160
    save_every: int = 80
    kinds: tuple[str, ...] = ("plain", "far", "prime", "binding", "shift")
    shares: tuple[float, ...] = (0.35, 0.10, 0.10, 0.30, 0.15)

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= self.schedule:
            raise InputError(f"steps is {self.steps}", expected=f"1 to {self.schedule}")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 1: linear warm-up, then a cosine to 0."""
        if step <= self.warm_up:
            return self.learning_rate * step / self.warm_up
        done = (step - self.warm_up) / (self.schedule - self.warm_up)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def build_tokenizer(window: int) -> PreTrainedTokenizerFast:
    """One token a word: lower case, split at white space and punctuation, <bos> in front."""
    bos, eos, unk, pad = world.SPECIALS
    ids = {word: number for number, word in enumerate(world.VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token=unk))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, ids[bos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=bos,
        eos_token=eos,
        unk_token=unk,
        pad_token=pad,
        model_max_length=window,
        clean_up_tokenization_spaces=False,
    )


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model; the process's own random state is left as it was."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.window,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return LlamaForCausalLM(config)


def stories(recipe: Recipe, step: int) -> list[str]:
    """The batch of one step: whole stories, their kinds drawn by the recipe's shares."""
    rng = np.random.default_rng([recipe.seed, step])
    kinds = rng.choice(recipe.kinds, size=recipe.batch, p=recipe.shares)
    return [world.document(rng, str(kind)) for kind in kinds]
