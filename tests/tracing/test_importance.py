"""Concept importance: a planted subspace in closed form, its twin, runs made by hand, refusals."""

from __future__ import annotations

from functools import cache
from math import lgamma
from typing import Any

import numpy as np
import pytest
import torch

from dst import concept_importance, importance_published
from dst.core.case import Case
from dst.core.errors import CaseError, InputError, TokenError
from dst.core.importance_results import ConceptImportance
from dst.core.results import open_result
from dst.core.sites import Site, site_of_state
from dst.models.hooks import HooksBackend
from dst.testbed.planted import Plant, Planted, Route, build
from dst.testbed.planted_circuit import DIMENSIONS
from dst.tracing.concept_subspace import LEAST_SENTENCES, concept_subspace
from dst.tracing.importance import _toward, _toward_random
from dst.tracing.prepare import prepare
from tests import tiny
from tests.tracing import patched

ALPHA = 2.5
PLAN = Plant(
    n_layers=5,
    base=0.25,
    alpha=ALPHA,
    context=(Route(("cue", "relay_1", "answer"), (2, 4)),),
    beta=3.5,
    prior=Route(("subject", "answer"), (3,)),
    prior_block=1,
)
INERT = ("red", "blue", "old", "new", "small", "large", "warm", "cold", "soft", "hard")
"""Words of the planted vocabulary that no head reads and that write nothing."""

NOUNS = ("dark", "quiet", "loud", "bright")


def sentences(*words: str) -> list[str]:
    """64 beginnings of inert words, each followed by every word."""
    starts = [f"{a} {b}" for a in INERT[:8] for b in INERT[:8]]
    return [f"{start} {word} near" for start in starts for word in words]


def planted(**directions: dict[str, float]) -> Planted:
    """The planted model, with words whose embeddings hold named dimensions (``free`` is unused)."""
    made = build(PLAN)
    weight = made.model.get_input_embeddings().weight
    ids = made.tokenizer.get_vocab()
    with torch.no_grad():
        for word, parts in directions.items():
            for name, amount in parts.items():
                place = len(DIMENSIONS) if name == "free" else DIMENSIONS.index(name)
                weight[ids[word], place] += amount
    return made


def measure(made: Planted, words: tuple[str, ...], n: int, **options: Any) -> ConceptImportance:
    model = HooksBackend(made.model, made.tokenizer, name="planted")
    return concept_importance(
        model, made.case, words, n, sentences=sentences(*words), show_progress=False, **options
    )


@pytest.fixture(autouse=True)
def inert_nouns(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "planted" in request.node.name:
        monkeypatch.setattr("dst.tracing.concept_subspace.neutral_nouns", lambda name: NOUNS)


def cells(found: ConceptImportance) -> dict[tuple[int, str], float]:
    """Importance over rounding, by (state, role)."""
    return {
        (l, found.roles[r]): round(float(found.mean[l, r]), 3)
        for l, r in np.argwhere(np.abs(found.mean) > 1e-3).tolist()
    }


# -- planted ---------------------------------------------------------------------------------


def test_planted_subspace_is_found_where_it_is_and_its_share_is_exact() -> None:
    cos, sin = 0.8, 0.6
    found = measure(planted(music={"sense": cos, "free": sin}), ("music",), 1)
    # P is the word's own direction: cos^2 of the sense goes out with it, and LD is linear in it.
    assert cells(found) == {(0, "cue"): 1.6, (1, "cue"): 1.6}
    assert pytest.approx(1.6) == ALPHA * cos**2
    cue = found.roles.index("cue")
    np.testing.assert_allclose(found.removed[:2, cue], cos, atol=1e-5)
    assert found.rank.tolist() == [1] * 6
    assert found.variance[0, 0] == pytest.approx(1)


def test_planted_subspace_follows_the_route() -> None:
    words = {"music": {"sense": 1.0}, "sound": {"context_1": 1.0}}
    found = measure(planted(**words), ("music", "sound"), 10)
    route = [(0, "cue"), (1, "cue"), (2, "relay"), (3, "relay")]
    assert cells(found) == dict.fromkeys(route, ALPHA)
    assert found.rank.tolist() == [2] * 6  # two words, two directions
    significant = np.argwhere(found.q < 0.05).tolist()
    assert {(l, found.roles[r]) for l, r in significant} == set(route)


def test_planted_excess_is_the_closed_form() -> None:
    """A random line, moved as far, takes |<r, sense>| of it: E|r_1| on the sphere in R^d."""
    found = measure(planted(music={"sense": 1.0}), ("music",), 1, controls=400)
    d, cue = 48, found.roles.index("cue")
    expected = np.exp(lgamma(d / 2) - lgamma((d + 1) / 2)) / np.sqrt(np.pi)
    error = 4 * ALPHA * np.sqrt(1 / d - expected**2) / np.sqrt(400)
    assert found.control_mean[0, cue] == pytest.approx(ALPHA * expected, abs=error)
    assert found.excess[0, cue] == pytest.approx(ALPHA * (1 - expected), abs=error)
    assert found.q[0, cue] < 0.01
    assert found.low[0, cue] > 0


def test_planted_twin_without_the_sense_has_none() -> None:
    found = measure(planted(music={"free": 1.0}), ("music",), 1)
    assert cells(found) == {}
    assert np.abs(found.excess).max() < 1e-3
    assert not (found.q < 0.05).any()


def test_planted_concepts_that_are_nothing_in_context_have_no_direction() -> None:
    found = measure(planted(), ("music",), 3)
    assert found.rank.tolist() == [0] * 6
    assert np.isnan(found.p).all()
    assert "do not differ" in found.why(0, "cue")


@pytest.mark.full
def test_planted_random_directions_are_found_as_often_as_stated() -> None:
    hits, n = 0, 60
    made = build(PLAN)
    model = HooksBackend(made.model, made.tokenizer, name="planted")
    weight = made.model.get_input_embeddings().weight
    word = made.tokenizer.get_vocab()["music"]
    rng = np.random.default_rng(0)
    for seed in range(n):
        with torch.no_grad():  # the ballast, dimension 0, is the norm's
            weight[word, 1:] = torch.from_numpy(rng.normal(size=47) / 7).float()
        found = concept_importance(
            model, made.case, ("music",), 1,
            sentences=sentences("music"), seed=seed, show_progress=False,
        )  # fmt: skip
        hits += bool(found.p[0, found.roles.index("cue")] < 0.05)
    assert hits <= 9  # 5 % of 60 is 3; ten or more has a chance of 1 in 1,000


# -- the same numbers by hand ----------------------------------------------------------------


@cache
def on_tiny() -> tuple[Any, Case, ConceptImportance, list[str]]:
    model, case = tiny.backend("gpt2"), patched.case()
    texts = [f"Anna has {i} and a {word} there" for i in range(60) for word in ("drum", "song")]
    found = concept_importance(
        model, case, ("drum", "song"), 3, sentences=texts, show_progress=False
    )
    return model, case, found, texts


def test_importance_is_that_of_full_runs() -> None:
    model, case, found, texts = on_tiny()
    space = concept_subspace(model, ("drum", "song"), 3, sentences=texts)
    ready = prepare(model, case)
    x = list(ready.x.ids)
    for draw, row in enumerate(ready.variants.neutral):
        for state in range(model.spec.n_layers + 1):
            site = site_of_state(state, model.spec.n_layers)
            own, theirs = patched.state(model, x, site), patched.state(model, list(row.ids), site)
            p = torch.from_numpy(space.basis[state])
            value = own + (theirs - own) @ p @ p.T
            for r, inside in enumerate(ready.positions):
                logits = patched.put(model, x, [(site, inside, value[list(inside)], None)])
                wanted = found.contrast - patched.contrast(model, logits)
                assert found.importance[draw, state, r] == pytest.approx(wanted, abs=2e-5)


def test_the_subspace_is_the_words_displacement_from_the_nouns() -> None:
    model, _, _, texts = on_tiny()
    space = concept_subspace(model, ("drum", "song"), 3, sentences=texts)
    p = space.basis.transpose(0, 2, 1) @ space.basis
    np.testing.assert_allclose(p, np.broadcast_to(np.eye(3), p.shape), atol=1e-5)
    assert (np.diff(space.share, axis=1) <= 1e-9).all()
    assert space.sentences.tolist() == [60, 60]


def test_a_random_move_is_as_long_as_the_concepts_at_every_position() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(2, 8, 3)))[0].astype(np.float32)
    basis[0, :, 1:] = 0  # one direction at state 0
    random = np.linalg.qr(rng.normal(size=(4, 8, 3)))[0].astype(np.float32)
    difference = torch.from_numpy(rng.normal(size=(2, 4, 5, 8)).astype(np.float32))
    difference[:, :, 2] = 0
    ours, theirs = _toward(basis)(difference), _toward_random(basis, random)(difference)
    np.testing.assert_allclose(ours.norm(dim=-1), theirs.norm(dim=-1), rtol=1e-5)
    assert not theirs[:, :, 2].any()
    # In the subspace, and in its first direction alone where P has one.
    for row in range(4):
        span = torch.from_numpy(random[row])
        np.testing.assert_allclose(theirs[1, row], theirs[1, row] @ span @ span.T, atol=1e-5)
        one = span[:, :1]
        np.testing.assert_allclose(theirs[0, row], theirs[0, row] @ one @ one.T, atol=1e-5)


def test_the_published_form_is_kl_with_the_edit_made() -> None:
    model, case = tiny.backend("llama"), patched.case()
    words = ("drum", "song", "fish")
    found = importance_published(model, case, words, 2)
    ids = patched.ids_of(model, case.text)
    with torch.no_grad():
        before = model.model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
    for layer in range(model.spec.n_layers):
        site = Site(layer, "resid_post")
        alone = [patched.state(model, patched.ids_of(model, w), site).mean(0) for w in words]
        vectors = torch.stack(alone).double()
        mean = vectors.mean(0)
        values, directions = torch.linalg.eigh((vectors - mean).T @ (vectors - mean))
        top = directions[:, values.argsort(descending=True)[:2]]
        h = patched.state(model, ids, site).double()
        value = h - (h - mean) @ top @ top.T
        after = patched.put(model, ids, [(site, range(len(ids)), value.float(), None)])
        after = after.double().log_softmax(-1)
        assert found[layer] == pytest.approx(float((before.exp() * (before - after)).sum()), 1e-3)
    assert (found > 0).all()  # as coded it would be 0


# -- what is undefined, what is refused --------------------------------------------------------


def test_too_few_sentences_make_it_nan_with_the_reason() -> None:
    texts = [f"Anna has {i} and a drum" for i in range(LEAST_SENTENCES - 1)]
    found = concept_importance(
        tiny.backend("gpt2"), patched.case(), ("drum",), sentences=texts, show_progress=False
    )
    assert found.words == ()
    assert np.isnan(found.excess).all()
    assert np.isnan(found.q).all()
    assert found.reason == "'drum' has 49 sentences, 50 are needed"
    assert not np.isnan(found.published).any()


def test_a_word_with_too_few_sentences_is_left_out() -> None:
    texts = [f"Anna has {i} and a drum" for i in range(60)] + ["A song"]
    found = concept_importance(
        tiny.backend("gpt2"), patched.case(), ("drum", "song"), sentences=texts, show_progress=False
    )
    assert found.words == ("drum",)
    assert "'song' has 1 sentences, 50 are needed" in found.notes
    assert not np.isnan(found.excess).any()


def test_equal_beginnings_count_once() -> None:
    texts = ["Anna has a drum" for _ in range(80)]
    found = concept_importance(
        tiny.backend("gpt2"), patched.case(), ("drum",), sentences=texts, show_progress=False
    )
    assert found.reason == "'drum' has 1 sentences, 50 are needed"


def test_without_a_cue_it_is_nan_with_the_reason() -> None:
    found = concept_importance(
        tiny.backend("gpt2"), patched.case(cue=(), neutral=()), ("drum",), show_progress=False
    )
    assert np.isnan(found.importance).all()
    assert "no cue" in found.reason
    assert {row["reason"] for row in found.to_records()} == {found.reason}


@pytest.mark.parametrize(
    ("words", "options", "error", "match"),
    [
        (None, {}, CaseError, "no concept words"),
        (("drum",), {"controls": 2}, InputError, "2 controls"),
        (("drum",), {"n": 0}, InputError, "n is 0"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(
    words: tuple[str, ...] | None, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        concept_importance(tiny.backend("gpt2"), patched.case(), words, **options)


def test_an_unknown_word_is_named() -> None:
    model = tiny.backend("llama", tiny.word_level)
    case = Case(prompt="the bass is a", contextual="fish", associative="instrument")
    with pytest.raises(TokenError, match="zither"):
        concept_importance(model, case, ("zither",))


def test_the_library_makes_the_sentences_itself() -> None:
    import dst
    from dst.testbed import world

    model: Any = dst.load()
    case = world.cases(split="test", n=1, seed=0)[0]
    before = {name: w.clone() for name, w in model.model.state_dict().items()}
    found = concept_importance(model, case, draws=4, controls=4, show_progress=False)
    assert found.reason == ""
    assert set(found.words) == {*case.context_words, *case.competing_words}
    assert (found.sentences == LEAST_SENTENCES).all()
    assert all(torch.equal(w, before[name]) for name, w in model.model.state_dict().items())


def test_it_is_saved_and_read_back(tmp_path: Any) -> None:
    found = on_tiny()[2]
    again = open_result(found.save(tmp_path / "importance"))
    np.testing.assert_array_equal(again.importance, found.importance)
    assert len(found.to_records()) == found.p.size
    assert again.roles == found.roles
