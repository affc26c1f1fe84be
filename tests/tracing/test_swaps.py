"""Recorded states and patched runs against hooks of a few lines on plain transformers models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from dst.models.variants import Row
from dst.tracing import replay
from dst.tracing.swaps import Contrast, Recorded, patch_states, record
from tests import tiny

METRIC = Contrast((7, 9), (11,))
GROUPS = [[0], [1, 2], [4, 5], [0, 1, 2, 3, 4, 5]]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny.backend(request.param)


def rows(n: int, seed: int = 0, length: int = 6) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [Row.same_length(rng.integers(10, 90, size=length).tolist()) for _ in range(n)]


def blocks_of(model: Any) -> Any:
    inner = model.model
    return inner.model.layers if hasattr(inner, "model") else inner.transformer.h


def naive(
    model: Any, ids: Sequence[int], state: int, positions: Sequence[int], value: torch.Tensor
) -> float:
    """LD with some positions of one state replaced, by one hook on the plain model."""

    def put(hidden: torch.Tensor) -> torch.Tensor:
        out = hidden.clone()
        out[0, list(positions)] = value[list(positions)]
        return out

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (put(args[0]), *args[1:]), kwargs

    def after(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        return put(output) if isinstance(output, torch.Tensor) else (put(output[0]), *output[1:])

    blocks = blocks_of(model)
    handle = (
        blocks[0].register_forward_pre_hook(before, with_kwargs=True)
        if state == 0
        else blocks[state - 1].register_forward_hook(after)
    )
    try:
        with torch.no_grad():
            logits = model.model(torch.tensor([list(ids)])).logits[0, -1].double()
    finally:
        handle.remove()
    plus, minus = logits[list(METRIC.plus)], logits[list(METRIC.minus)]
    return float(plus.logsumexp(0) - minus.logsumexp(0))


def test_contrast_reads_the_last_position_of_every_row() -> None:
    logits = torch.zeros(2, 20)
    logits[0, 7], logits[0, 9], logits[0, 11] = np.log(2.0), np.log(3.0), np.log(4.0)
    np.testing.assert_allclose(METRIC(logits), [np.log(5 / 4), np.log(2.0)], rtol=1e-6)


def test_states_are_those_of_the_plain_model(model: Any) -> None:
    given = rows(3)
    found = record(model, given, METRIC)
    with torch.no_grad():
        ids = torch.tensor([row.ids for row in given])
        hidden = model.model(ids, output_hidden_states=True).hidden_states
    # transformers norms the last one: it has to be normed here for a comparison.
    for state in range(model.spec.n_layers):
        torch.testing.assert_close(found.states[state], hidden[state], rtol=1e-5, atol=1e-5)
    normed = model.final_norm(found.states[-1])
    torch.testing.assert_close(normed, hidden[-1], rtol=1e-5, atol=1e-5)
    known = [naive(model, row.ids, 0, [0], hidden[0][i]) for i, row in enumerate(given)]
    np.testing.assert_allclose(found.contrast, known, atol=1e-4)


def test_every_cell_is_the_naively_patched_run(model: Any) -> None:
    base, donor = record(model, rows(3), METRIC), record(model, rows(3, seed=1), METRIC)
    found = patch_states(model, base, donor.states, donor.places, GROUPS, METRIC)
    assert found.shape == (3, model.spec.n_layers + 1, len(GROUPS))
    for draw, state, group in np.ndindex(*found.shape):
        known = naive(model, base.rows[draw], state, GROUPS[group], donor.states[state, draw])
        assert found[draw, state, group] == pytest.approx(known, abs=1e-4), (draw, state, group)


def test_the_size_of_a_batch_changes_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base, donor = record(model, rows(2), METRIC), record(model, rows(2, seed=1), METRIC)
    whole = patch_states(model, base, donor.states, donor.places, GROUPS, METRIC)
    monkeypatch.setattr(replay, "MOST_TOKENS", 7)  # one run at a time
    apart = patch_states(model, base, donor.states, donor.places, GROUPS, METRIC)
    np.testing.assert_allclose(whole, apart, atol=1e-4)


class Counting:
    """A backend that counts the rows it runs."""

    def __init__(self, model: Any) -> None:
        self.model, self.rows = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def run(self, ids: Any, *args: Any, **kwargs: Any) -> Any:
        self.rows += len(ids)
        return self.model.run(ids, *args, **kwargs)


def test_cells_that_cannot_change_anything_are_not_run_and_keep_the_contrast(model: Any) -> None:
    counting = Counting(model)
    base = record(model, rows(2), METRIC)
    value = base.states.clone()
    value[1, 0, 2] += 1  # one cell of one group
    value[-1, :, 0] += 1  # at the last state only the last position is read
    ticks: list[int] = []
    found = patch_states(
        counting, base, value, base.places, [[0, 1], [2, 3]], METRIC, tick=ticks.append
    )
    assert counting.rows == 1
    known = np.broadcast_to(base.contrast[:, None, None], found.shape).copy()
    assert found[0, 1, 1] != known[0, 1, 1]
    known[0, 1, 1] = found[0, 1, 1]
    np.testing.assert_array_equal(found, known)
    assert sum(ticks) == found.size


def test_positions_without_a_value_keep_their_own(model: Any) -> None:
    base, donor = record(model, rows(1), METRIC), record(model, rows(1, seed=1), METRIC)
    known = donor.places.clone()
    known[0, 2] = -1
    found = patch_states(model, base, donor.states, known, [[1, 2, 3], [2]], METRIC)
    without = patch_states(model, base, donor.states, donor.places, [[1, 3]], METRIC)
    np.testing.assert_allclose(found[..., 0], without[..., 0], atol=1e-5)
    np.testing.assert_array_equal(found[0, :, 1], np.full(found.shape[1], base.contrast[0]))


def test_draws_are_taken_in_order_and_again_from_the_start() -> None:
    runs = Recorded(
        rows=((1,), (2,), (3,)),
        raw=np.array([10.0, 20.0, 30.0]),
        states=torch.arange(3.0).reshape(1, 3, 1, 1),
        places=torch.zeros(3, 1, dtype=torch.long),
        twins=False,
    )
    taken = runs.cycle(5)
    assert taken.rows == ((1,), (2,), (3,), (1,), (2,))
    assert taken.contrast.tolist() == [10, 20, 30, 10, 20]
    assert taken.states.flatten().tolist() == [0, 1, 2, 0, 1]


def test_a_prompt_and_its_twin_are_half_their_difference() -> None:
    runs = Recorded(
        rows=((1,), (2,), (3,), (4,)),
        raw=np.array([10.0, 20.0, 4.0, 30.0]),
        states=torch.arange(4.0).reshape(1, 4, 1, 1),
        places=torch.zeros(4, 1, dtype=torch.long),
        twins=True,
    )
    assert len(runs) == 2
    assert runs.contrast.tolist() == [3, -5]
    second = runs.take([1])
    assert second.rows == ((2,), (4,))
    assert second.contrast.tolist() == [-5]
    # Joined, all prompts come before all twins.
    joined = Recorded.joined([runs, second])
    assert joined.rows == ((1,), (2,), (2,), (3,), (4,), (4,))
    assert joined.contrast.tolist() == [3, -5, -5]
    assert joined.states.flatten().tolist() == [0, 1, 1, 2, 3, 3]


def test_runs_without_twins_are_joined_as_they_come(model: Any) -> None:
    one, two = record(model, rows(2), METRIC), record(model, rows(3, seed=1), METRIC)
    joined = Recorded.joined([one, two])
    assert joined.rows == (*one.rows, *two.rows)
    assert torch.equal(joined.states, torch.cat([one.states, two.states], dim=1))
    assert joined.places.shape == (5, 6)
