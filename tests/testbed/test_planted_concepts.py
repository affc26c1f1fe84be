"""Planted graphs of concepts: their arithmetic, their models, and maps of them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from dst.core.errors import InputError
from dst.models.hooks import HooksBackend
from dst.studies.semantic_map import semantic_map
from dst.testbed.planted_concepts import (
    CONCEPTS,
    ConceptPlan,
    Edge,
    Recovery,
    build,
    coordinates,
    recovery,
    sample,
    truth_of,
    twin_of,
)

HAND = ConceptPlan(
    n_layers=4,
    lit=(("music", 0.75),),
    edges=(Edge("music", "sound", 2, 1.0), Edge("sound", "fish", 4, -2.0)),
    noise=0.0,
)
CORNER = 2 * 1.2 * 0.28 / 64
"""A switch is two neurons of a gain up to 1.2; SiLU(64 z) / 64 is off relu by .28 / 64 at most."""

MUSIC, SOUND, FISH = (CONCEPTS.index(word) for word in ("music", "sound", "fish"))


def mapped(plan: ConceptPlan, **options: Any) -> Any:
    planted = build(plan)
    model = HooksBackend(planted.model, planted.tokenizer, name="planted")
    return semantic_map(model, planted.case, **{"most": 1, "show": False, **options})


def test_one_graph_by_hand() -> None:
    """The cue lights music .75; block 2 makes sound .75 of it, block 4 takes 1.5 from fish."""
    own = coordinates(HAND)
    assert own[:, MUSIC].tolist() == [0, 0.75, 0.75, 0.75, 0.75]
    assert own[:, SOUND].tolist() == [0, 0, 0.75, 0.75, 0.75]
    assert own[:, FISH].tolist() == [0, 0, 0, 0, -1.5]
    assert not coordinates(HAND, cue=0.0).any()
    truth = truth_of(HAND, [[1, 2, 3, 4], [4, 4, 4, 4]], [0, 1, 2, 3])
    there = {
        (hop, s, CONCEPTS[v], CONCEPTS[w]): truth.effect[hop, s, v, w]
        for hop, s, v, w in zip(*np.nonzero(np.nan_to_num(truth.effect)), strict=True)
    }
    assert there == {
        (0, 1, "music", "sound"): 0.75,  # from state 1 to state 2
        (1, 1, "music", "sound"): 0.75,
        (1, 1, "music", "fish"): -1.5,  # over sound
        (1, 2, "sound", "fish"): -1.5,
        (0, 3, "sound", "fish"): -1.5,
        (1, 3, "sound", "fish"): -1.5,
    }
    # Also where nothing is lit: from state 0 three, which all end at the output.
    assert truth.wired.sum(axis=(2, 3)).tolist() == [[0, 1, 0, 1], [3, 3, 1, 1]]
    assert truth.stirs[1, 1].tolist() == [i == MUSIC for i in range(len(CONCEPTS))]


def test_words_that_lean_on_each_other_move_each_other() -> None:
    """A third of a move of song is one of music: sound gets cos^2 of it."""
    plan = replace(HAND, overlaps=(("music", "song", 0.5),))
    truth = truth_of(plan, [[2]], [1])
    song = CONCEPTS.index("song")
    assert truth.effect[0, 0, song, SOUND] == pytest.approx(0.5**2 * 0.75)
    assert truth.effect[0, 0, MUSIC, SOUND] == 0.75
    assert truth.effect[0, 0, song, MUSIC] == 0  # that is geometry: no block has a part in it
    assert truth.wired[0, 0, song, SOUND]


def test_a_model_without_noise_does_its_arithmetic() -> None:
    for plan in [HAND, *(replace(plan, noise=0.0) for plan in sample(4, seed=3))]:
        planted = build(plan)
        ids = planted.tokenizer(planted.case.prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hidden = planted.model(ids, output_hidden_states=True)
        own = coordinates(plan)[-1]
        rows = np.eye(len(CONCEPTS))
        for one, two, cosine in plan.overlaps:
            a, b = CONCEPTS.index(one), CONCEPTS.index(two)
            rows[b] = cosine * rows[a] + np.sqrt(1 - cosine**2) * rows[b]
        token = planted.tokenizer.convert_tokens_to_ids(list(CONCEPTS))
        measured = hidden.logits[0, -1, token].numpy()
        np.testing.assert_allclose(measured, rows @ own, atol=CORNER)
        mean = planted.model.lm_head.weight.mean(dim=0)
        assert float(mean.abs().max()) < 1e-6


def test_effects_are_measured_as_they_were_planted() -> None:
    for plan in [HAND, *(replace(plan, noise=0.0) for plan in sample(4, seed=4))]:
        found = mapped(plan)
        place = [found.words.index(word) for word in CONCEPTS]
        truth = truth_of(plan, found.hop_states.tolist(), found.states.tolist())
        measured = found.effects[:, :, place][:, :, :, place]
        np.testing.assert_allclose(measured, truth.effect, atol=CORNER)


def test_a_twin_has_the_same_noise_and_no_graph() -> None:
    plan = sample(1, seed=0)[0]
    edges = truth_of(plan, [[plan.n_layers]], [1])
    assert edges.wired.any()
    for kind in ("removed", "random"):
        twin = twin_of(plan, kind)
        truth = truth_of(twin, [[plan.n_layers]], [1])
        assert not truth.wired.any()
        assert not np.nan_to_num(truth.effect).any()
        own, theirs = (build(one).model.state_dict() for one in (plan, twin))
        last = slice(-64, None)  # the noise neurons
        name = "model.layers.1.mlp.gate_proj.weight"
        if kind == "removed":
            assert torch.equal(own[name][last], theirs[name][last])
            assert not theirs[name][: 160 - 64].any()


@cache
def graphs() -> tuple[tuple[Recovery, tuple[int, ...]], ...]:
    """Maps of 5 plans beside their plans; edges in each twin."""
    return tuple(
        (
            recovery(mapped(plan), plan),
            tuple(int(mapped(twin_of(plan, k)).kept.sum()) for k in ("removed", "random")),
        )
        for plan in sample(5, seed=1)
    )


def test_planted_edges_are_found_and_little_else() -> None:
    """A false discovery rate of 5 % is 5 % on average, so that five plans may be a little over."""
    total = sum((found for found, _ in graphs()), Recovery(0, 0, 0, 0, 0))
    assert total.strong > 100
    assert total.recall > 0.93
    assert total.precision > 0.9
    assert total.side < 0.15 * total.found


def test_twins_have_no_edges() -> None:
    """At a rate of 5 % one map in twenty without a true edge may have a false one."""
    with_edges = [n > 0 for _, twins in graphs() for n in twins]
    assert sum(with_edges) <= 2  # of 10; more than 2 come by chance in 1 of 90 runs


@pytest.mark.full
def test_a_hundred_graphs_and_their_twins() -> None:
    total, alarms = Recovery(0, 0, 0, 0, 0), []
    for plan in sample(100, seed=2):
        total += recovery(mapped(plan), plan)
        alarms += [mapped(twin_of(plan, k)).kept.any() for k in ("removed", "random")]
    assert total.recall >= 0.95
    # 5 % of false discoveries among those that are judged, give or take their standard error.
    judged = total.found - total.side
    assert total.precision > 0.95 - 3 * np.sqrt(0.05 * 0.95 / judged)
    assert np.mean(alarms) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / len(alarms))


def test_plans_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError, match="expected a block from 2 to 4"):
        replace(HAND, edges=(Edge("music", "sound", 1, 1.0),))
    with pytest.raises(InputError, match="'jazz' is no concept"):
        replace(HAND, lit=(("jazz", 1.0),))
    with pytest.raises(InputError, match="-1 plans"):
        sample(-1, seed=0)
    assert sample(3, seed=7) == sample(3, seed=7)
