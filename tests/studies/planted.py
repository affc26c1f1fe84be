"""A small model whose lens readout is planted: logits chosen per state, known before it runs.

The unembedding is untied, so it changes no state. With the normed states n[0..L] at the last
position of `PROMPT`, its rows are the shortest solution of n[l] . row = wanted logit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dst.models.hooks import HooksBackend
from tests import tiny

PROMPT = "Anna is at the lake . Anna sees a bass . the bass is a"
"""Known to `tiny.word_level`; 3 layers, so states 0 to 3."""


def planted_model(
    logits: Mapping[str, float | Sequence[float]], *, prompt: str = PROMPT, seed: int = 0
) -> tuple[Any, Any]:
    """Model and tokenizer; words not named get logit 0, one number holds at every state."""
    tokenizer = tiny.word_level()
    model = tiny.model("llama", len(tokenizer) + 3, seed=seed)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states
        normed = [model.model.norm(state[0, -1]) for state in hidden[:-1]] + [hidden[-1][0, -1]]
        states = torch.stack(normed).double()
        wanted = torch.zeros(len(states), model.config.vocab_size, dtype=torch.float64)
        for word, value in logits.items():
            wanted[:, tokenizer.get_vocab()[word]] = torch.tensor(value, dtype=torch.float64)
        model.lm_head.weight.copy_((torch.linalg.pinv(states) @ wanted).T)
    return model, tokenizer


def planted(logits: Mapping[str, float | Sequence[float]], **options: Any) -> HooksBackend:
    """`planted_model` as a backend."""
    return HooksBackend(*planted_model(logits, **options), name="planted")
