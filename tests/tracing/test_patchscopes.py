"""Patchscopes against transformers' own cached generation, and on models that copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.errors import InputError, InterventionError, TokenError
from dst.core.sites import site_of_state
from dst.models.hooks import HooksBackend
from dst.testbed.planted import Plant, Route, build
from dst.tracing.inspection import IDENTITY, PROMPTS, generate, inspection_of
from dst.tracing.patchscope_maps import least_squares
from tests import tiny
from tests.tracing.patched import PROMPT, case, ids_of

TARGET = "Ben hears a drum. What is the drum? The"
OTHER = "The bank of the river is green."
QUIET: dict[str, Any] = {"show_progress": False, "other": OTHER}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    if request.param == "gpt2":  # larger weights: else it says one word whatever it reads
        return tiny.backend("gpt2", seed=6, scale=6.0)
    return tiny.backend(request.param)


def copier(width: int = 64, seed: int = 0, embedding: torch.Tensor | None = None) -> HooksBackend:
    """Blocks that add nothing, and an unembedding that is the embedding: states say their token."""
    tokenizer = tiny.byte_bpe()
    made = tiny.model("llama", len(tokenizer) + 3, hidden_size=width, head_dim=16, seed=seed)
    with torch.no_grad():
        for layer in made.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        rows = made.model.embed_tokens.weight
        rows.copy_(torch.nn.functional.normalize(rows if embedding is None else embedding, dim=-1))
        made.lm_head.weight.copy_(rows)
        made.model.norm.weight.fill_(1.0)
    return HooksBackend(made, tokenizer, name=f"copier-{width}-{seed}")


def cached(
    backend: Any, ids: list[int], position: int, state: int, vector: torch.Tensor, n: int
) -> list[int]:
    """Greedy tokens by transformers' generate with its cache, the state put in at prefill."""
    blocks = getattr(backend.model, "transformer", None)
    blocks = blocks.h if blocks is not None else backend.model.model.layers

    def put(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[1] > 1:  # the prompt; later steps read it from the cache
            hidden = hidden.clone()
            hidden[0, position] = vector
        return hidden

    def before(module: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (put(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": put(kwargs["hidden_states"])}

    handle = blocks[state].register_forward_pre_hook(before, with_kwargs=True)
    try:
        row = torch.tensor([ids])
        out = backend.model.generate(
            row,
            attention_mask=torch.ones_like(row),
            max_new_tokens=n,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        )
    finally:
        handle.remove()
    new = out[0, len(ids) :].tolist()
    return new[: new.index(2)] if 2 in new else new


def test_every_text_is_that_of_cached_generation(model: Any) -> None:
    found = dst.patchscope(
        model, PROMPT, "bass", states=[0, 1, 2], target_prompt=TARGET, target_position=4,
        n=6, **QUIET,
    )  # fmt: skip
    ids, target = ids_of(model, PROMPT), ids_of(model, TARGET)
    texts = set()
    for s in range(3):
        site = site_of_state(s, 3)
        states = model.run([ids], capture=[site]).states[site][0]
        for j, p in enumerate(found.positions):
            known = cached(model, target, 4, s, states[p], 6)
            assert [i for i in found.ids[s, j].tolist() if i >= 0] == known
            texts.add(tuple(known))
    assert len(texts) > 1
    steps = (found.ids >= 0).sum(axis=-1)
    assert (found.fired >= np.maximum(steps, 1)).all()
    assert found.fired.max() <= 6


def test_a_state_put_where_it_was_leaves_the_plain_run(model: Any) -> None:
    ids = ids_of(model, PROMPT)
    for p in (2, len(ids) - 1):
        found = dst.patchscope(
            model, PROMPT, [p], target_prompt=PROMPT, target_position=p, n=5, **QUIET
        )
        assert (found.ids == found.plain_ids).all()
        np.testing.assert_allclose(found.log_prob[:, 0, 0], found.plain_log_prob[:, 0], atol=1e-5)
        assert not found.claimed.any()
        assert (found.delta_norm == 0).all()
        plain = [i for i in found.plain_ids.tolist() if i >= 0]
        assert plain == model.generate(ids, 5)
        assert found.fired.min() >= 1  # the edits were made all the same


def test_one_cell_alone_is_the_same_as_in_a_batch(model: Any) -> None:
    whole = dst.patchscope(model, PROMPT, "bass", target_prompt=TARGET, n=4, **QUIET)
    one = dst.patchscope(
        model, PROMPT, [whole.positions[1]], states=[2], target_prompt=TARGET, n=4, **QUIET
    )
    np.testing.assert_array_equal(one.ids[0, 0], whole.ids[2, 1])
    np.testing.assert_allclose(one.log_prob[0, 0], whole.log_prob[2, 1], atol=1e-4)
    np.testing.assert_array_equal(one.other_ids[0], whole.other_ids[2])


def test_a_model_that_copies_says_the_source_token() -> None:
    backend = copier()
    found = dst.patchscope(backend, case(), "subject", target_prompt=TARGET, n=3, **QUIET)
    ids = ids_of(backend, PROMPT)
    for s in range(4):
        for j, p in enumerate(found.positions):
            assert found.ids[s, j].tolist() == [ids[p]] * 3
            assert found.words[s][j].split() == [" bass".strip()] * 3
    assert found.plain_ids.tolist() == [ids_of(backend, TARGET)[-1]] * 3
    assert found.claimed.all()
    assert found.lift.min() > 1
    own_word = dst.patchscope(backend, OTHER, [-1], target_prompt=TARGET, n=3, **QUIET | {
        "other": PROMPT})  # fmt: skip
    assert (own_word.ids == ids_of(backend, OTHER)[-1]).all()


def test_what_a_control_says_is_not_claimed() -> None:
    """The other prompt's state says its own token; a source that says the same claims nothing."""
    backend = copier()
    found = dst.patchscope(
        backend, PROMPT, range(1, len(ids_of(backend, PROMPT))), target_prompt=TARGET, n=2, **QUIET
    )
    said_by_controls = {*found.plain_ids.tolist(), *found.other_ids.ravel().tolist()}
    for s in range(4):
        for j in range(len(found.positions)):
            expected = [int(i) not in said_by_controls for i in found.ids[s, j]]
            assert found.claimed[s, j].tolist() == expected
    assert found.claimed.any()
    assert not found.claimed.all()
    assert "[" in found.other_source


def test_states_go_to_a_model_of_the_same_width() -> None:
    one, two = copier(seed=0), copier(seed=1)
    shared = copier(seed=1, embedding=one.model.lm_head.weight.detach())
    assert shared.spec.weights_hash != one.spec.weights_hash
    found = dst.patchscope(one, PROMPT, "bass", target_model=shared, target_prompt=TARGET, n=2,
                           **QUIET)  # fmt: skip
    ids = ids_of(one, PROMPT)
    for j, p in enumerate(found.positions):
        assert (found.ids[:, j] == ids[p]).all()
    assert found.target_model == "copier-64-1"
    mapping = dst.fit_patchscope_map(one, two, tiny.CORPUS * 2, show_progress=False)
    assert mapping.weight.shape == (4, 64, 64)


def test_states_go_to_a_model_of_another_width_by_a_fitted_map() -> None:
    """The target's embedding is an affine image of the source's, so the map is exact."""
    one = copier()
    image = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    rows = one.model.lm_head.weight.detach() @ image
    two = copier(width=48, embedding=rows)
    scale = rows.norm(dim=-1, keepdim=True).clamp_min(1e-6)  # the row of <pad> is 0
    with torch.no_grad():  # states without the copier's normalisation: exactly linear
        two.model.model.embed_tokens.weight.copy_(rows)
        two.model.lm_head.weight.copy_(rows / scale)
    two = HooksBackend(two.model, two.tokenizer, name="image")
    with pytest.raises(InterventionError, match="64 numbers and those of image 48; expected a map"):
        dst.patchscope(one, PROMPT, "bass", target_model=two, target_prompt=TARGET, **QUIET)
    words = ["".join(chr(97 + (7 * i * k + i) % 26) for k in range(12)) for i in range(1, 60)]
    mapping = dst.fit_patchscope_map(
        one, two, [" ".join(words[i : i + 4]) for i in range(50)] + tiny.CORPUS * 3,
        show_progress=False,
    )  # fmt: skip
    assert mapping.r2.min() > 0.98
    found = dst.patchscope(
        one, PROMPT, "bass", target_model=two, target_prompt=TARGET, mapping=mapping, n=1, **QUIET
    )
    ids = ids_of(one, PROMPT)
    for j, p in enumerate(found.positions):
        assert (found.ids[:, j, 0] == ids[p]).all()
    assert found.mapping.startswith("affine, held-out R^2")
    with pytest.raises(InputError, match="The mapping belongs to other models"):
        dst.patchscope(one, PROMPT, "bass", target_prompt=TARGET, mapping=mapping, **QUIET)
    with pytest.raises(InterventionError, match="Target states are asked for beside a mapping"):
        dst.patchscope(one, PROMPT, "bass", target_model=two, mapping=mapping, target_state=1,
                       target_prompt=TARGET, **QUIET)  # fmt: skip


def test_the_map_is_least_squares_and_judged_on_held_out_texts() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(50, 6)), rng.normal(size=(50, 4))
    y = x @ rng.normal(size=(6, 4)) + 3 + 0.1 * noise
    weight, bias = least_squares(x, y)
    design = np.hstack([x, np.ones((50, 1))])
    known = np.linalg.solve(design.T @ design, design.T @ y)
    np.testing.assert_allclose(weight, known[:6].T, atol=1e-10)
    np.testing.assert_allclose(bias, known[6], atol=1e-10)
    random_map = dst.fit_patchscope_map(
        tiny.backend("llama"), tiny.backend("llama", seed=5), tiny.CORPUS, show_progress=False
    )
    assert random_map.r2[-1] < 0.9  # two random models and 64 dimensions: it cannot generalise
    few = [line[:25] for line in tiny.CORPUS]
    one = dst.fit_patchscope_map(copier(), copier(seed=1), few, show_progress=False)
    assert any("would determine it" in note for note in one.notes)


def test_target_states_are_at_the_same_share_of_depth_or_as_asked(model: Any) -> None:
    deep = tiny.backend("llama", num_hidden_layers=6)
    found = dst.patchscope(model, PROMPT, [3], target_model=deep, target_prompt=TARGET, n=1,
                           **QUIET)  # fmt: skip
    assert found.target_states.tolist() == [0, 2, 4, 6]
    one = dst.patchscope(model, PROMPT, [3], target_state=1, target_prompt=TARGET, n=1, **QUIET)
    assert one.target_states.tolist() == [1, 1, 1, 1]
    with pytest.raises(InterventionError, match="There are 2 target states and 4 states"):
        dst.patchscope(model, PROMPT, [3], target_state=[1, 2], target_prompt=TARGET, **QUIET)
    with pytest.raises(InterventionError, match="The state 4 does not exist"):
        dst.patchscope(model, PROMPT, [3], states=[4], target_prompt=TARGET, **QUIET)


def test_the_identity_prompt_is_the_published_one_or_its_form_in_known_words(model: Any) -> None:
    published = inspection_of(model, IDENTITY, -1)
    assert published.text == PROMPTS[IDENTITY]
    assert published.tokens[published.position].strip() == "?"
    assert published.notes == ()
    embedded = dst.load()
    made = inspection_of(embedded, IDENTITY, -1)
    assert made.text.count(" is ") == 3
    assert any("does not know the published" in note for note in made.notes)
    with pytest.raises(TokenError, match="The model does not know"):
        inspection_of(embedded, "description", -1)
    with pytest.raises(InterventionError, match="names 2 tokens"):
        inspection_of(model, TARGET, "drum")
    plan = Plant(alpha=1.0, context=(Route(("cue", "answer"), (2,)),), beta=1.0,
                 prior=Route(("subject", "answer"), (3,)), prior_block=1)  # fmt: skip
    planted = build(plan)
    closed = HooksBackend(planted.model, planted.tokenizer, name="planted")
    first, second = inspection_of(closed, IDENTITY, -1).text.split()[:2]
    assert first == second


def test_without_a_known_sentence_there_is_one_control_and_a_note() -> None:
    plan = Plant(alpha=1.0, context=(Route(("cue", "answer"), (2,)),), beta=1.0,
                 prior=Route(("subject", "answer"), (3,)), prior_block=1)  # fmt: skip
    planted = build(plan)
    closed = HooksBackend(planted.model, planted.tokenizer, name="planted")
    found = dst.patchscope(closed, planted.case, "subject", target_prompt="we saw a lamp", n=2)
    assert found.other_source == ""
    assert found.other_ids.shape == (0, 2)
    assert any("other=" in note for note in found.notes)


def test_agreement_is_that_of_the_patched_next_token(model: Any) -> None:
    texts = [line[:30] for line in tiny.CORPUS]
    found = dst.patchscope_agreement(
        model, texts, target_prompt=TARGET, target_position=3, show_progress=False
    )
    inspection = inspection_of(model, TARGET, 3)
    for t, text in enumerate(texts):
        ids = ids_of(model, text)
        sites = [site_of_state(s, 3) for s in range(4)]
        run = model.run([ids], capture=sites, logits_at=[-1])
        own = int(run.last_logits[0].argmax())
        for s, site in enumerate(sites):
            state = run.states[site][0, -1]
            single = generate(inspection, [(s, state)], 1, [own], ends=False)
            assert found.agrees[t, s] == (single.ids[0, 0] == own)
            assert found.surprisal[t, s] == pytest.approx(-single.first[0, 0], abs=1e-4)
            lens = model.unembed(state).log_softmax(-1)
            assert found.lens_surprisal[t, s] == pytest.approx(-float(lens[own]), abs=1e-4)
    np.testing.assert_allclose(found.lens_agrees[:, -1], True)
    assert found.precision.shape == (4,)
    assert (found.precision_low <= found.precision).all()
    assert (found.precision <= found.precision_high).all()


def test_the_last_state_at_the_last_position_says_the_models_own_token(model: Any) -> None:
    found = dst.patchscope_agreement(model, tiny.CORPUS, target_prompt=TARGET, show_progress=False)
    assert found.precision[-1] == 1
    np.testing.assert_allclose(found.surprisal[:, -1], found.lens_surprisal[:, -1], atol=1e-4)
    assert found.plain_agrees.mean() < 1


def test_what_cannot_be_done_is_said(model: Any) -> None:
    with pytest.raises(InputError, match="0 tokens are asked for"):
        dst.patchscope(model, PROMPT, [1], target_prompt=TARGET, n=0, **QUIET)
    with pytest.raises(InputError, match="the model's window"):
        dst.patchscope(model, PROMPT, [1], target_prompt=TARGET, n=500, **QUIET)
    with pytest.raises(InterventionError, match="The span 'violin' has no position"):
        dst.patchscope(model, PROMPT, "violin", target_prompt=TARGET, **QUIET)
    with pytest.raises(InputError, match="is no control"):
        dst.patchscope(model, PROMPT, [1], target_prompt=TARGET, other=PROMPT, show_progress=False)
    with pytest.raises(InputError, match="different vocabularies"):
        dst.patchscope_agreement(
            model, tiny.CORPUS, target_model=tiny.backend("llama", tiny.word_level)
        )
    with pytest.raises(InputError, match="expected 5 or more"):
        dst.fit_patchscope_map(model, model, ["a bass"])


def test_results_are_saved_and_read_back(model: Any, tmp_path: Path) -> None:
    scope = dst.patchscope(model, PROMPT, "bass", target_prompt=TARGET, n=2, **QUIET)
    agreement = dst.patchscope_agreement(
        model, tiny.CORPUS, target_prompt=TARGET, show_progress=False
    )
    mapping = dst.fit_patchscope_map(model, model, tiny.CORPUS, show_progress=False)
    for result in (scope, agreement, mapping):
        read = dst.open_result(result.save(tmp_path / type(result).__name__))
        assert read.to_records() == result.to_records()
