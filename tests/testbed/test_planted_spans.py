"""Planted spans: LD of the model is the formula, for every set of words."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from dst.core.errors import InputError
from dst.testbed.planted_spans import ASSOCIATIVE, CONTEXTUAL, SpanPlant, build, sample

PLANS = (
    SpanPlant(6, (1, 4), "all", 3.0, ((0, 1.5), (5, -2.0)), base=0.25, seed=1),
    SpanPlant(6, (1, 2), "any", 2.5, ((4, -1.0),), base=-0.5, seed=2),
    SpanPlant(5, (0, 2, 4), "all", 4.0, seed=3),
    SpanPlant(5, (0, 2, 4), "any", 4.0, ((1, 0.5),), seed=4),
)


def contrasts(plan: SpanPlant) -> dict[tuple[int, ...], float]:
    """LD by transformers alone, with every set of words kept and inert nouns for the others."""
    planted = build(plan)
    vocabulary = planted.tokenizer.get_vocab()
    inert = [i for word, i in vocabulary.items() if word not in planted.words and 3 <= i < 120]
    ids = planted.tokenizer(planted.case.text)["input_ids"]
    sets = [s for n in range(plan.n_words + 1)
            for s in itertools.combinations(range(plan.n_words), n)]  # fmt: skip
    rows = [
        [ids[0], *(ids[1 + i] if i in kept else inert[i] for i in range(plan.n_words)), ids[-1]]
        for kept in sets
    ]
    logits = planted.model(torch.tensor(rows)).logits[:, -1].double().numpy()
    ld = logits[:, vocabulary[CONTEXTUAL]] - logits[:, vocabulary[ASSOCIATIVE]]
    return dict(zip(sets, ld.tolist(), strict=True))


@pytest.mark.parametrize("plan", PLANS)
def test_every_set_of_words_has_the_planted_contrast(plan: SpanPlant) -> None:
    for kept, ld in contrasts(plan).items():
        assert ld == pytest.approx(plan.contrast(kept), abs=1e-5)


def test_necessity_and_what_is_kept_by_hand() -> None:
    together, either = PLANS[0], PLANS[1]
    assert together.contrast(range(6)) == 0.25 - 3 + 1.5 - 2
    assert [together.necessity(s) for s in ([1], [4], [1, 4], [5], [0])] == [3, 3, 3, 2, -1.5]
    assert [together.kept(s) for s in ([1], [4], [1, 4], [5], [0])] == [0, 0, 3, 2, -1.5]
    assert [either.necessity(s) for s in ([1], [2], [1, 2])] == [0, 0, 2.5]
    assert [either.kept(s) for s in ([1], [2], [1, 2])] == [2.5, 2.5, 2.5]


def test_jitter_is_what_each_noun_adds() -> None:
    plan = SpanPlant(5, (0,), "all", 3.0, jitter=0.3, seed=5)
    off = contrasts(plan)
    away = [ld - plan.contrast(kept) for kept, ld in off.items()]
    assert 0.2 < np.std(away) < 1.5
    # It adds up: what a word adds does not depend on the others.
    one = off[0,] - off[()] + plan.strength
    assert off[0, 1] - off[1,] + plan.strength == pytest.approx(one, abs=1e-5)


def test_samples_hallucinate_and_differ() -> None:
    plans = sample(60, seed=0)
    assert plans == sample(60, seed=0)
    assert {(len(plan.spurious), plan.combine) for plan in plans} == {
        (size, how) for size in (1, 2, 3) for how in ("all", "any")
    }
    spread = [np.ptp(plan.spurious) == len(plan.spurious) - 1 for plan in plans]
    assert any(spread)
    assert not all(spread)
    for plan in plans:
        assert plan.contrast(range(plan.n_words)) < -0.3
        assert all(abs(weight) <= 0.7 * plan.strength + 0.01 for _, weight in plan.others)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ((4, (), "all", 1.0), "one to 7 different words"),
        ((4, (0, 0), "all", 1.0), "different"),
        ((4, (4,), "all", 1.0), "prompt of 4 words"),
        ((90, (4,), "all", 1.0), "at most 60"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(values: tuple, match: str) -> None:
    with pytest.raises(InputError, match=match):
        SpanPlant(*values)
