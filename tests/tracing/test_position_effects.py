"""Position effects: planted words and places, full runs made by hand, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst import position_effects
from dst.core.case import Case
from dst.core.errors import CaseError, InputError, TokenError
from dst.core.position_results import PositionEffects
from dst.core.results import open_result
from dst.core.sites import Site, site_of_state
from dst.models.backend import Edit
from dst.models.hooks import HooksBackend
from dst.models.reference import neutral_nouns
from dst.testbed import world
from dst.testbed.planted import Plant, Route, build
from dst.testbed.planted_plan import SPARK
from dst.tracing.concept_vectors import said
from dst.tracing.lens import read_state
from dst.tracing.prepare import prepare
from dst.tracing.reference import aids
from tests import tiny
from tests.tracing import patched

PLAN = Plant(
    n_layers=5,
    base=0.25,
    alpha=2.5,
    context=(Route(("cue", "relay_1", "answer"), (2, 4)),),
    beta=3.5,
    prior=Route(("subject", "answer"), (3,)),
    prior_block=1,
)
CUE, RELAY, SUBJECT, ANSWER = 3, 5, 9, 16
"""Positions of concert, where, bass and is in the planted prompt."""


@cache
def planted(plan: Plant = PLAN) -> PositionEffects:
    made = build(plan)
    model = HooksBackend(made.model, made.tokenizer, name="planted")
    return position_effects(model, made.case, show_progress=False)


def by_place(found: PositionEffects, word: str) -> dict[tuple[int, int], float]:
    """Effects on a word at the output that are over rounding, by (state, position)."""
    effect = found.effect[:, :, found.words.index(word)]
    return {
        (int(found.states[l]), p): round(float(effect[l, p]), 3)
        for l, p in np.argwhere(np.abs(effect) > 1e-3).tolist()
    }


def test_the_context_s_word_is_brought_by_what_carries_the_context() -> None:
    found = planted()
    assert by_place(found, "music") == {
        (0, CUE): SPARK,
        (1, CUE): SPARK,
        (2, RELAY): SPARK,
        (3, RELAY): SPARK,
        (4, ANSWER): SPARK,
    }
    # A neutral cue takes nothing from the association.
    assert by_place(found, "water") == {}
    assert by_place(found, "stage") == {}


def test_planted_places_are_the_edges_and_no_others() -> None:
    found = planted()
    edges = {(e["state"], e["pos"], e["word"]) for e in found.edges()}
    carriers = ((0, CUE), (1, CUE), (2, RELAY), (3, RELAY), (4, ANSWER))
    assert edges == {(state, pos, "music") for state, pos in carriers}
    assert all(found.control[0, s, p, found.words.index("music")] < 1e-3 for s, p in carriers)


def test_another_strength_gives_another_effect() -> None:
    half = Plant(
        n_layers=3, alpha=2.5, context=(Route(("cue", "answer"), (2,), share=0.5),), name="half"
    )
    assert by_place(planted(half), "music") == {
        (0, CUE): SPARK / 2,
        (1, CUE): SPARK / 2,
        (2, ANSWER): SPARK / 2,
    }


def test_words_bring_what_is_read_off_them_whatever_the_cue_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Words that no planted head reads.
    monkeypatch.setattr(
        "dst.tracing.position_effects.neutral_nouns", lambda name: ("red", "cold", "loud")
    )
    made = build(PLAN)
    model = HooksBackend(made.model, made.tokenizer, name="planted")
    found = position_effects(model, made.case, form="word", show_progress=False)
    assert found.states.tolist() == [0]
    # A noun in place of the reader at the answer, or of the relay, breaks the route as well.
    assert {p for _, p in by_place(found, "music")} == {CUE, RELAY, ANSWER}
    assert {p for _, p in by_place(found, "water")} == {SUBJECT, ANSWER}
    assert by_place(found, "music")[0, CUE] == SPARK
    assert by_place(found, "water")[0, SUBJECT] == SPARK
    assert found.differing[0, 0] == 0  # no word can stand for <bos>


# -- the same numbers by full runs ---------------------------------------------------------------


def centred(model: Any, logits: torch.Tensor, ids: Sequence[int]) -> np.ndarray:
    wide = logits.double()
    return (wide[list(ids)] - wide.mean()).numpy()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_effect_is_that_of_a_full_run(family: str) -> None:
    model, words = tiny.backend(family), ("drum", "song")
    case = patched.case()
    found = position_effects(model, case, words, reads=[1], show_progress=False)
    ready = prepare(model, case)
    x, draws = list(ready.x.ids), [list(row.ids) for row in ready.variants.neutral]
    ids = [model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in words]
    assert found.reads.tolist() == [1, 3]

    def z(row: list[int], state: int, pos: int, donor: list[int]) -> np.ndarray:
        """[read word] of a row with one place replaced by another run's."""
        site = site_of_state(state, model.spec.n_layers)
        value = patched.state(model, donor, site)[pos : pos + 1]
        run = model.run(
            [row], capture=[Site(1, "resid_pre")], edits=[Edit(site, [0], [pos], value)]
        )
        inner = model.unembed(run.states[Site(1, "resid_pre")][0, -1])
        return np.stack([centred(model, inner, ids), centred(model, run.logits[0, -1], ids)])

    for state, pos in ((0, 4), (1, 4), (1, len(x) - 1), (2, 7), (2, len(x) - 1)):
        own = z(x, state, pos, x)
        each = np.stack([own - z(x, state, pos, donor) for donor in draws])
        ring = [
            z(draws[k], state, pos, draws[k]) - z(draws[k], state, pos, draws[(k + 1) % 2])
            for k in range(2)
        ]
        rms = np.sqrt((np.stack(ring) ** 2).mean(axis=0))
        got, control = found.effects[:, state, pos], found.control[:, state, pos]
        first = 0 if state < 1 else 1  # the read after block 1 is no later than state 1
        np.testing.assert_allclose(got[first:], each.mean(axis=0)[first:], atol=2e-5)
        np.testing.assert_allclose(control[first:], rms[first:], atol=2e-5)
        assert np.isnan(got[:first]).all()


def test_a_word_form_effect_is_that_of_the_text_with_the_noun() -> None:
    model = tiny.backend("llama", tiny.word_level)
    case = Case(
        prompt="Anna is at the lake . the bass is a",
        contextual="fish",
        associative="instrument",
        context_words=("drum",),
    )
    found = position_effects(model, case, form="word", draws=2, show_progress=False)
    vocabulary = model.tokenizer.get_vocab()
    text = ["<s>", *case.text.split()]
    nouns = [noun for noun in neutral_nouns() if noun in vocabulary and noun not in text][:2]
    drum = vocabulary["drum"]

    def z(words: list[str]) -> float:
        logits = model.run([[vocabulary[w] for w in words]], logits_at=[-1]).last_logits[0]
        return float(centred(model, logits, [drum])[0])

    for pos in range(1, len(text)):
        changed = [z([*text[:pos], noun, *text[pos + 1 :]]) for noun in nouns]
        assert found.effect[0, pos, 0] == pytest.approx(z(text) - np.mean(changed), abs=2e-5)
        rms = abs(changed[1] - changed[0])
        assert found.control[0, 0, pos, 0] == pytest.approx(rms, abs=2e-5)


def test_a_tuned_lens_reads_what_it_reads_elsewhere() -> None:
    model: Any = dst.load()
    lens = aids(model).lens
    case = world.cases(split="test", n=1, seed=0)[0]
    found = position_effects(model, case, ["wing"], reads=[2], lens=lens, show_progress=False)
    assert found.lens == "tuned_lens"
    ready, pos = prepare(model, case), found.roles.index("cue")
    (wing,) = said(model, case, ["wing"])
    site, read = Site(1, "resid_pre"), Site(2, "resid_pre")

    def z(edits: list[Edit]) -> float:
        states = model.run([ready.x.ids], capture=[read], edits=edits).states[read]
        logits = read_state(model, 2, states[0, -1].numpy(), lens)
        return float(logits[wing[0]] - logits.mean())

    donors = [patched.state(model, row.ids, site)[pos : pos + 1] for row in ready.variants.neutral]
    each = [z([]) - z([Edit(site, [0], [pos], value)]) for value in donors]
    assert found.at(2)[1, pos, 0] == pytest.approx(np.mean(each), abs=1e-4)
    assert found.q_at(2).shape == found.at(2).shape


def test_work_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.backend("gpt2")
    whole = position_effects(model, patched.case(), ("drum",), reads=[1], show_progress=False)
    monkeypatch.setattr("dst.tracing.position_effects.MOST_NUMBERS", 1)
    parts = position_effects(model, patched.case(), ("drum",), reads=[1], show_progress=False)
    np.testing.assert_allclose(parts.effects, whole.effects, atol=1e-5)


# -- what is undefined, what is refused ------------------------------------------------------------


def test_undefined_cells_say_why() -> None:
    found = planted()
    assert found.reason(5, 0, CUE) == ""
    assert "exactly 0" in found.reason(5, 0, SUBJECT)
    assert np.isnan(found.q[0, 0, SUBJECT]).all()
    assert (found.effect[0, SUBJECT] == 0).all()
    with pytest.raises(InputError, match="not read at state 2"):
        found.at(2)
    with pytest.raises(InputError, match="Nothing was replaced at state 5"):
        found.reason(5, 5, 0)


def test_one_draw_has_no_control() -> None:
    model = tiny.backend("gpt2")
    case = patched.case(neutral=patched.TEXT.format("bank", "bass", "bass"))
    found = position_effects(model, case, ("drum",), show_progress=False)
    assert np.isnan(found.q).all()
    assert np.isnan(found.control).all()
    assert "one draw" in found.reason(3, 1, 5)
    assert not np.isnan(found.effects).any()


def test_a_read_no_later_than_the_state_is_undefined() -> None:
    found = position_effects(
        tiny.backend("gpt2"), patched.case(), ("drum",), reads=[1, 2], show_progress=False
    )
    undefined = np.isnan(found.effects).all(axis=(2, 3))
    assert undefined.tolist() == [[False, True, True], [False, False, True], [False] * 3]
    assert "no block runs between" in found.reason(1, 2, 0)


@pytest.mark.parametrize(
    ("changes", "options", "error", "match"),
    [
        ({}, {"words": []}, CaseError, "no concept words"),
        ({}, {"words": ["drum"], "states": [9]}, InputError, "state 9 does not exist"),
        ({}, {"words": ["drum"], "states": []}, InputError, "No state is named"),
        ({}, {"words": ["drum"], "reads": [-1]}, InputError, "read -1 does not exist"),
        ({}, {"words": ["drum"], "form": "place"}, InputError, "no form 'place'"),
        ({"cue": (), "neutral": ()}, {"words": ["drum"]}, CaseError, "no cue"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(
    changes: dict[str, Any], options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        position_effects(
            tiny.backend("gpt2"), patched.case(**changes), show_progress=False, **options
        )


def test_nouns_that_the_model_does_not_know_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = build(PLAN)
    model = HooksBackend(made.model, made.tokenizer, name="planted")
    monkeypatch.setattr("dst.tracing.position_effects.neutral_nouns", lambda name: ("xyz",))
    with pytest.raises(TokenError, match="0 of the neutral nouns"):
        position_effects(model, made.case, form="word", show_progress=False)


@pytest.mark.full
def test_a_neutral_draw_in_place_of_the_prompt_brings_little_more_than_the_stated_rate() -> None:
    model, p = dst.load(), []
    for case in world.cases(split="test", n=20, seed=0):
        if len(case.neutral) < 4:
            continue
        null = Case(
            prompt=str(case.neutral[0]),
            neutral=case.neutral[1:],
            contextual=case.contextual,
            associative=case.associative,
        )
        words = (*case.context_words, *case.competing_words)
        found = position_effects(model, null, words, show_progress=False)
        p += found.p[~np.isnan(found.p)].tolist()
    # Cells of one story depend on each other, so the rate is loose: half to twice the level.
    assert 0.025 < np.mean(np.array(p) < 0.05) < 0.1


def test_it_is_saved_and_read_back(tmp_path: Any) -> None:
    found = planted()
    again = open_result(found.save(tmp_path / "effects"))
    np.testing.assert_array_equal(again.effects, found.effects)
    np.testing.assert_array_equal(again.q, found.q)
    assert len(found.to_records()) == found.effects.size
    assert again.words == found.words
