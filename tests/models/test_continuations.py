"""Continuations of one prompt: the same states as every row run whole, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dst.core.sites import site_of_state
from dst.models import memory, suffix
from dst.models.continuations import last_states
from tests import tiny

PROMPT = [7, 5, 41, 13, 8, 21, 34, 55, 89, 14]
ROWS = [[23], [37, 61], [11], [98, 3, 77], [50, 60]]
"""Longer than the window of those families that have one (5)."""


def whole(model: Any) -> torch.Tensor:
    """[state row d_model]: each row by itself, nothing kept."""
    n_layers = model.spec.n_layers
    sites = [site_of_state(state, n_layers) for state in range(n_layers + 1)]
    runs = [model.run([PROMPT + row], capture=sites, logits_at=[-1]) for row in ROWS]
    return torch.stack([torch.stack([run.states[s][0, -1] for run in runs]) for s in sites])


@tiny.families()
def test_appended_tokens_have_the_states_of_a_whole_run(family: str, monkeypatch: Any) -> None:
    model = tiny.backend(family)
    if "replay" in model.can:  # then nothing but the prompt is run whole
        monkeypatch.setattr(model, "run", lambda *_, **__: pytest.fail("a whole run"))
    found = last_states(model, PROMPT, ROWS)
    monkeypatch.undo()
    torch.testing.assert_close(found, whole(model), rtol=1e-5, atol=1e-5)


def test_rows_that_do_not_fit_into_memory_together_are_run_apart() -> None:
    model = tiny.backend("llama")
    with memory.fixed_budget(1):
        torch.testing.assert_close(
            last_states(model, PROMPT, ROWS), whole(model), rtol=1e-5, atol=1e-5
        )


def test_an_engine_that_cannot_replay_runs_every_row(monkeypatch: Any) -> None:
    model = tiny.backend("gpt2")
    known = last_states(model, PROMPT, ROWS)
    monkeypatch.setattr(model, "can", model.can - {"replay"})
    monkeypatch.setattr(suffix, "record", lambda *_: pytest.fail("a replay"))
    torch.testing.assert_close(last_states(model, PROMPT, ROWS), known, rtol=1e-5, atol=1e-5)


def test_no_continuation_gives_no_state() -> None:
    assert last_states(tiny.backend("llama"), PROMPT, []).shape == (4, 0, 64)
