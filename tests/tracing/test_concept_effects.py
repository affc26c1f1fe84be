"""Concept-to-concept effects: planted ones, by a plain loop with hooks, and their controls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.case import Case
from dst.core.errors import InputError
from dst.models.hooks import HooksBackend
from dst.studies.semantic_map import semantic_map
from dst.testbed.planted import build, sample
from dst.tracing import concept_effects as module
from dst.tracing import concept_moves
from dst.tracing.concept_controls import groups, matched_directions
from dst.tracing.concept_effects import concept_effects
from dst.tracing.concept_nodes import nodes_of
from dst.tracing.prepare import prepare
from dst.tracing.tuned_lens import fit_tuned_lens
from tests import tiny

CASE = Case(
    prompt="Anna is at the lake. Anna sees a bass. The bass is a",
    cue="lake",
    subject="bass",
    contextual="fish",
    associative="guitar",
    context_words=["river", "water"],
    competing_words=["song", "drum"],
)


def edges_planted() -> list[Any]:
    return [plan for plan in sample(40, seed=0) if plan.edges]


# -- known answers --------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", edges_planted()[:4], ids=lambda plan: plan.name)
def test_planted_edges_have_their_strength_and_nothing_else_is_there(plan: Any) -> None:
    planted = build(plan)
    model = HooksBackend(planted.model, planted.tokenizer, name=plan.name)
    found = semantic_map(model, planted.case, hops=(1,), most=1, show=False)
    place = [found.words.index(word) for word in planted.truth.concepts]
    known = planted.truth.concept_effect.copy()
    known[:, range(6), range(6)] = np.nan  # v -> v is no edge
    measured = found.effects[0][:, place][:, :, place]
    np.testing.assert_allclose(measured, known, atol=2e-3)
    assert np.abs(known[~np.isnan(known)]).max() > 0.3


def _by_hand(
    model: Any, ids: list[int], state: int, end: int, move: torch.Tensor, rows: torch.Tensor
) -> np.ndarray:
    """Om* by a hook on the block that reads the state, transformers and nothing of ours."""
    body = model.model.model
    kept: dict[int, torch.Tensor] = {}

    def push(_m: Any, args: Any, kwargs: Any) -> Any:
        hidden = args[0].clone()
        hidden[0, -1] += move
        return (hidden, *args[1:]), kwargs

    def run(with_move: bool) -> torch.Tensor:
        last: list[torch.Tensor] = []
        handles = [body.layers[-1].register_forward_hook(lambda _m, _i, out: last.append(out))]
        if with_move:
            block = body.layers[state]
            handles.append(block.register_forward_pre_hook(push, with_kwargs=True))
        with torch.no_grad():
            hidden = body(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for handle in handles:
            handle.remove()
        states = [*(h[0, -1] for h in hidden[:-1]), last[0][0, -1]]
        return states[end]

    plain, moved = run(False), run(True)
    with torch.no_grad():
        z = body.norm(torch.stack([plain + move, moved])).double() @ rows.T
    kept[0] = z[0] - z[1]
    return kept[0].numpy()


def test_effects_are_those_of_a_plain_loop() -> None:
    model = tiny.backend("llama")
    found = semantic_map(model, CASE, most=3, hops=(1, 2), controls=3, show=False)
    head = model.model.lm_head.weight.detach().double()
    mean = head.mean(dim=0)
    nodes = nodes_of(model, prepare(model, CASE).tokenized, None, most=3)
    rows = head[nodes.token_ids] - mean
    ready = prepare(model, CASE)
    ids, draws = list(ready.x.ids), [list(row.ids) for row in ready.variants.neutral]
    assert len(draws) > 1
    assert found.donor == f"mean of {len(draws)} neutral prompts"

    def at_answer(row: list[int], state: int) -> torch.Tensor:
        with torch.no_grad():
            every = model.model.model(torch.tensor([row]), output_hidden_states=True).hidden_states
        return every[state][0, -1].double()

    checked = 0
    for s, state in enumerate(found.states.tolist()):
        neutral = torch.stack([at_answer(row, state) for row in draws]).mean(dim=0)
        for v in np.flatnonzero(found.node[state])[:4].tolist():
            unit = rows[v] / rows[v].norm()
            moved = float(unit @ (at_answer(ids, state) - neutral))
            assert found.moved[s, v] == pytest.approx(moved, abs=1e-4)
            move = (-moved * unit).float()
            for hop in range(len(found.hops)):
                end = int(found.hop_states[hop, s])
                known = _by_hand(model, ids, state, end, move, rows)
                there = found.node[end].copy()
                there[v] = False
                np.testing.assert_allclose(found.effects[hop, s, v, there], known[there], atol=2e-4)
                assert np.isnan(found.effects[hop, s, v, ~there]).all()
                checked += 1
    assert checked == 36
    assert np.nanmax(np.abs(found.effects)) > 0.01


def test_blocks_that_do_not_answer_leave_no_effect(monkeypatch: Any) -> None:
    """All blocks add a constant: the raw change is large, and all of it is geometry."""
    model = tiny.backend("llama")
    for block in model.model.model.layers:
        for weight in (block.self_attn.o_proj.weight, block.mlp.down_proj.weight):
            weight.data.zero_()
    ready = prepare(model, CASE)
    nodes = nodes_of(model, ready.tokenized, None, most=2)
    # With no attention the cue never reaches i*: the donor must be another text's.
    other = np.random.default_rng(0).normal(size=(4, model.spec.d_model))
    monkeypatch.setattr(module, "_donor", lambda *_: (other, "random"))
    found = concept_effects(model, ready, nodes, show=False)
    assert np.nanmin(np.abs(found.moved)) > 1e-3
    assert np.nanmax(np.abs(found.effects)) < 1e-4
    assert not (found.q < 0.05).any()


def test_the_tuned_lens_reads_where_it_is_given() -> None:
    model = dst.load()
    from dst.testbed import world

    (case,) = world.cases(split="test", n=1, seed=1)
    own = semantic_map(model, case, most=2, controls=3, show=False)
    assert own.lens == "tuned_lens"
    ready = prepare(model, case)
    nodes = nodes_of(model, ready.tokenized, None, most=2)
    plain = concept_effects(model, ready, nodes, controls=3, show=False)
    a, b = (one.effects[2, 1, :4, :4] for one in (own, plain))  # both end at the output: equal
    np.testing.assert_allclose(a, b, atol=1e-4)
    a, b = (one.effects[0, 1, :4, :4] for one in (own, plain))
    assert np.nanmax(np.abs(a - b)) > 1e-3


# -- controls -------------------------------------------------------------------------------------


def test_controls_have_the_norm_and_every_cosine_of_the_concept() -> None:
    rng = np.random.default_rng(0)
    words = rng.normal(size=(30, 96))
    words[3] = words[2] * 2  # a word that is another's multiple
    words[4] = 0.0
    v = words[0] / np.linalg.norm(words[0]) + 0.3 * words[7] / np.linalg.norm(words[7])
    v /= np.linalg.norm(v)
    shared = groups(v, words)
    assert sorted(i for group in shared for i in group.words.tolist()) == list(range(30))
    for group in shared:
        inside = float(((group.basis @ v) ** 2).sum())
        assert inside <= 0.1 or len(group.words) == 1
        drawn = matched_directions(v, group, 50, rng)
        np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-12)
        expected = np.tile(words[group.words] @ v, (50, 1))
        np.testing.assert_allclose(drawn @ words[group.words].T, expected, atol=1e-10)
        # And nothing else of v: what is left is random.
        rest = drawn @ (v - group.basis.T @ (group.basis @ v))
        assert abs(rest.mean()) < 4 / np.sqrt(96 * 50)
    alone = [group for group in shared if 0 in group.words]
    assert len(alone[0].words) == 1  # v leans on it too much for company


def test_a_concept_inside_the_span_of_a_word_is_its_own_control() -> None:
    word = np.eye(8)[:1]
    (group,) = groups(word[0], word)
    drawn = matched_directions(word[0], group, 3, np.random.default_rng(0))
    np.testing.assert_allclose(drawn, np.tile(word[0], (3, 1)), atol=1e-12)


def test_random_models_have_edges_no_more_often_than_stated() -> None:
    """P is uniform where unembedding directions are nothing special."""
    p, kept = [], 0
    for seed in range(6):
        model = tiny.backend("gpt2" if seed % 2 else "llama", seed=seed)
        found = semantic_map(model, CASE, most=8, show=False)
        p.append(found.p[found.tested])
        kept += int(found.kept.sum())
    pooled = np.concatenate(p)
    assert len(pooled) > 2000
    assert (pooled < 0.05).mean() < 0.065
    assert (pooled < 0.5).mean() == pytest.approx(0.5, abs=0.06)
    assert kept <= 3


# -- arguments, donors, engines -------------------------------------------------------------------


def test_without_a_cue_the_donor_is_ordinary_text_and_says_so() -> None:
    found = semantic_map(tiny.backend("llama"), CASE.replace(cue=()), most=1, show=False)
    assert "reference sentences" in found.donor
    assert np.nanmax(np.abs(found.moved[0])) > 0  # also at the embedding
    assert found.tested[0, 0].any()


def test_what_does_not_move_has_no_effect_and_no_test() -> None:
    """At state 0 the last token is the same in every neutral prompt."""
    found = semantic_map(tiny.backend("gpt2"), CASE, most=1, show=False)
    assert (found.moved[0][found.node[0]] == 0).all()
    first = found.effects[:, 0]
    assert (first[~np.isnan(first)] == 0).all()
    assert np.isnan(found.p[:, 0]).all()
    assert found.tested[:, 1:].any()


def test_hops_are_clipped_and_a_clipped_one_is_the_same_test() -> None:
    found = semantic_map(tiny.backend("gpt2"), CASE, most=1, hops=(1, 2, 1), show=False)
    assert found.hops == ("+1", "+2", "output")
    assert found.hop_states.tolist() == [[1, 2, 3], [2, 3, 3], [3, 3, 3]]
    np.testing.assert_array_equal(found.q[1, 1], found.q[2, 1])
    np.testing.assert_array_equal(found.effects[0, 2], found.effects[2, 2])
    counted = found.p[found.tested]
    q = found.q[found.tested]
    rank = np.argsort(counted, kind="stable")[::-1]
    worst = np.minimum.accumulate(counted[rank] * len(counted) / np.arange(len(counted), 0, -1))
    np.testing.assert_allclose(q[rank], worst)


def test_a_full_run_gives_what_a_suffix_gives(monkeypatch: Any) -> None:
    model = tiny.backend("gpt2")
    quick = semantic_map(model, CASE, most=1, controls=3, show=False)
    monkeypatch.setattr(model, "can", model.can - {"replay"})
    whole = semantic_map(model, CASE, most=1, controls=3, show=False)
    np.testing.assert_allclose(quick.effects, whole.effects, atol=1e-4)
    np.testing.assert_allclose(quick.control, whole.control, atol=1e-4)


def test_the_size_of_a_batch_changes_nothing(monkeypatch: Any) -> None:
    model = tiny.backend("llama")
    whole = semantic_map(model, CASE, most=2, show=False)
    monkeypatch.setattr(concept_moves, "MOST_NUMBERS", 1)
    apart = semantic_map(model, CASE, most=2, show=False)
    np.testing.assert_allclose(whole.control, apart.control, atol=1e-5)
    assert whole.words == apart.words


def test_the_same_seed_gives_the_same_map_and_the_model_is_left_as_it_was() -> None:
    model = tiny.backend("llama")
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    one, two = (semantic_map(model, CASE, most=1, show=False, seed=5) for _ in range(2))
    np.testing.assert_array_equal(one.q, two.q)
    other = semantic_map(model, CASE, most=1, show=False, seed=6)
    assert (one.control != other.control)[one.tested].any()
    for name, value in model.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"states": [3]}, "cannot be moved at the states \\[3\\]; expected some of 0 to 2"),
        ({"states": []}, "cannot be moved"),
        ({"hops": (0,)}, "1 block or more"),
        ({"controls": 2}, "3 or more"),
        ({"rate": 1.0}, "false discovery rate is 1.0"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        semantic_map(tiny.backend("gpt2"), CASE, show=False, **options)


def test_a_fitted_lens_is_used_from_state_to_state() -> None:
    model = tiny.backend("llama")
    lens = fit_tuned_lens(model, ["Anna is at the lake and sees a bass ."] * 1 + [
        f"Ben is at the {place} and hears {thing} song ."
        for place in ("river", "bank", "city", "lake")
        for thing in ("a", "the", "no", "one")
    ], steps=3, show=False)  # fmt: skip
    found = semantic_map(model, CASE, lens=lens, most=1, controls=3, show=False)
    assert found.lens == "tuned_lens"
    assert not any("logit lens" in note for note in found.notes)
    plain = semantic_map(model, CASE, most=1, controls=3, show=False)
    assert any("logit lens" in note for note in plain.notes)
