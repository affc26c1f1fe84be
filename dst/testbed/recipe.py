"""The numbers of a training run, and what is built from them: tokenizer, model, batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dst.core.errors import InputError
from dst.testbed import world
from dst.testbed.tokenizer import build_tokenizer

__all__ = ["DEFAULT", "ZOO", "Course", "Recipe", "build_model", "build_tokenizer", "stories"]


@dataclass(frozen=True)
class Recipe:
    """Every number that the weights depend on, but for the machine's arithmetic."""

    seed: int = 0
    steps: int = 1000  # where training stops ...
    schedule: int = 1000  # ... on the way down a cosine of this length
    warm_up: int = 100
    batch: int = 64
    learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip: float = 1.0  # of the gradient's norm
    layers: int = 4
    width: int = 96
    heads: int = 3
    mlp: int = 288
    window: int = 160
    save_every: int = 80
    kinds: tuple[str, ...] = world.KINDS
    shares: tuple[float, ...] = (0.25, 0.08, 0.08, 0.19, 0.10, 0.04, 0.16, 0.10)

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.kinds) or not math.isclose(sum(self.shares), 1):
            raise InputError(
                f"The shares of {len(self.kinds)} kinds are {self.shares}",
                expected="as many shares as kinds, which sum to 1",
            )
        if not 1 <= self.steps <= self.schedule:
            raise InputError(f"steps is {self.steps}", expected=f"1 to {self.schedule}")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 1: linear warm-up, then a cosine to 0."""
        if step <= self.warm_up:
            return self.learning_rate * step / self.warm_up
        done = (step - self.warm_up) / (self.schedule - self.warm_up)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


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


@dataclass(frozen=True)
class Course:
    """One run of the zoo: its recipe, and the steps at which a checkpoint is kept."""

    recipe: Recipe
    checkpoints: tuple[int, ...]


# The steps were fixed by the errors of trial runs, before any score of the method was computed:
# dense where the circuits form that read a story by its context (steps 150 to 700), thin after it.
# No two sizes of a model are equal, and none is the size of the vocabulary.
ZOO: dict[str, Course] = {
    "l4-w96-s0": Course(Recipe(), (160, 240, 320, 400, 520, 600, 640, 1000)),
    "l4-w120-s1": Course(Recipe(seed=1, width=120, heads=5, mlp=336), (150, 300, 400, 560, 1000)),
    "l6-w112-s2": Course(
        Recipe(seed=2, layers=6, width=112, heads=7, mlp=320), (150, 300, 400, 560, 1000)
    ),
    "l8-w80-s3": Course(
        Recipe(seed=3, layers=8, width=80, heads=5, mlp=240), (200, 300, 450, 600, 750, 1000)
    ),
}
"""The runs of the zoo."""

DEFAULT = ("l4-w96-s0", 640)
"""Run and step of the default model: plain stories are read, others still go wrong often."""
