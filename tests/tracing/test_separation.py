"""States at i* under every cue: those of runs one by one; separated where the context is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dst
from dst.models.backend import Backend
from dst.testbed import world
from dst.tracing.recordings import Recordings
from dst.tracing.separation import answer_states


@pytest.fixture(scope="module")
def model() -> Backend:
    return dst.load()


def test_they_are_the_states_of_each_run_by_itself(model: Backend) -> None:
    (case,) = world.cases("tune", n=1, seed=1, kinds=("plain",))
    found = answer_states(model, Recordings(model, case))
    plain = dst.Case(
        case.prompt, contextual=case.contextual, associative=case.associative, prefix=case.prefix
    )
    for prompt, states in (
        (case.prompt, found.x),
        (case.swap[0], found.swap[0]),
        (case.neutral[3], found.neutral[3]),
    ):
        seen = dst.trace(model, plain.replace(prompt=prompt))
        at_answer = torch.from_numpy(np.ascontiguousarray(seen.resid[:, -1]))
        alone = model.final_norm(at_answer).double().numpy()
        np.testing.assert_allclose(states, alone, atol=1e-5 * np.abs(alone).max())


def test_a_neutral_cue_separates_less_than_that_of_the_other_sense(model: Backend) -> None:
    """On the mean of cases: the swap is the other sense, x_0 no sense."""
    swap, neutral, first = [], [], []
    for case in world.cases("tune", n=16, seed=2, kinds=("plain",)):
        score = dst.coherence(model, case)
        swap.append(score["separation"].total)
        neutral.append(score["separation_neutral"].total)
        first.append(score["separation_projected"].value[0])
    assert np.mean(swap) > np.mean(neutral) > 0
    np.testing.assert_allclose(first, 0, atol=1e-6)  # the same token stands at i*


def test_without_a_variant_of_the_other_sense_the_score_says_so(model: Backend) -> None:
    (case,) = world.cases("tune", n=1, seed=1, kinds=("plain",))
    score = dst.coherence(model, case.replace(swap=()))
    assert score["separation"].reasons[0] == "no variant to compare with"
    assert not np.isnan(score["separation_neutral"].total)
