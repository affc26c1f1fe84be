"""Concept words as vectors and directions, recomputed from transformers' own hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch

import dst
from dst.core.case import Case
from dst.core.errors import TokenError
from dst.tracing import concept_vectors as concepts
from tests import tiny
from tests.studies.planted import PROMPT, planted

LAKE = "Anna is at the lake. Anna sees a bass. What is the bass? The bass is a"
CONCERT = "Ben is at the concert. Ben hears a bass. What is the bass? The bass is a"


def traced(model: Any, prompt: str = LAKE) -> Any:
    return dst.trace(model, Case(prompt=prompt, contextual="fish", associative="guitar"))


def states_of(model: Any, ids: Sequence[int]) -> np.ndarray:
    """[state pos d_model] before the final norm, from transformers and a hook on the last block."""
    last: list[torch.Tensor] = []
    body = model.model.model if hasattr(model.model, "model") else model.model.transformer
    blocks = body.layers if hasattr(body, "layers") else body.h
    handle = blocks[-1].register_forward_hook(lambda _m, _i, out: last.append(out))
    with torch.no_grad():
        hidden = body(torch.tensor([list(ids)]), output_hidden_states=True).hidden_states
    handle.remove()
    output = last[0] if isinstance(last[0], torch.Tensor) else last[0][0]
    return torch.stack([*(state[0] for state in hidden[:-1]), output[0]]).numpy()


def unembedding(model: Any) -> np.ndarray:
    return model.model.lm_head.weight.detach().numpy()


def ids_of(model: Any, text: str) -> list[int]:
    """Token ids without special tokens."""
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


# -- vectors as published ---------------------------------------------------------------------


def test_as_published_a_word_in_the_middle_of_a_prompt_is_not_found() -> None:
    """Byte-level BPE: "bass" is ba|ss, " bass" is one token, so the word is run alone.

    Its vector is then the same whatever the prompt says: the published DSS of such words does
    not depend on the prompt.
    """
    model = tiny.backend("gpt2")
    assert len(ids_of(model, "bass")) == 2
    assert len(ids_of(model, " bass")) == 1
    lake, concert = traced(model, LAKE), traced(model, CONCERT)
    words = ["bass", "lake", "guitar"]
    vectors = concepts.published_vectors(model, lake, words)
    assert np.array_equal(vectors, concepts.published_vectors(model, concert, words))
    for place, word in enumerate(words):
        alone = states_of(model, ids_of(model, word)).mean(axis=1)
        np.testing.assert_allclose(vectors[:, place], alone, rtol=1e-4, atol=1e-4)
    # ... while the same word read in the prompt does, by far more than rounding (1e-7):
    one, two = (concepts.in_context_vectors(model, seen, ["bass"]) for seen in (lake, concert))
    assert np.abs(one - two)[1:].max() > 1e-3 * np.abs(one).max()


def test_a_word_run_alone_is_run_with_the_tokenizer_s_special_tokens() -> None:
    model = tiny.backend("llama", lambda: tiny.byte_bpe(bos=True))
    vectors = concepts.published_vectors(model, traced(model), ["guitar"])
    ids = model.tokenizer("guitar")["input_ids"]
    assert ids[0] == model.tokenizer.bos_token_id
    np.testing.assert_allclose(
        vectors[:, 0], states_of(model, ids).mean(axis=1), rtol=1e-4, atol=1e-4
    )


def test_as_published_a_word_that_is_found_is_the_mean_over_its_tokens() -> None:
    """The first word has no space before it, so its pieces are in the prompt."""
    model = tiny.backend("gpt2")
    prompt = "bass of the lake. The bass is a"
    pieces = ids_of(model, "bass")
    seen = traced(model, prompt)
    assert seen.ids.tolist()[: len(pieces)] == pieces
    states = states_of(model, seen.ids.tolist())
    vectors = concepts.published_vectors(model, seen, ["bass"])
    expected = states[:, : len(pieces)].mean(axis=1)
    np.testing.assert_allclose(vectors[:, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokenizer", [tiny.word_level, tiny.sentencepiece_like])
def test_where_words_are_whole_tokens_the_first_mention_is_found(
    tokenizer: Callable[[], Any],
) -> None:
    model = tiny.backend("llama", tokenizer)
    seen = traced(model, "Anna sees a bass . the bass is a")
    place = [token.strip() for token in seen.tokens].index("bass")
    vectors = concepts.published_vectors(model, seen, ["bass"])
    assert np.array_equal(vectors[:, 0], seen.resid[:, place])


# -- vectors in the prompt ---------------------------------------------------------------------


def test_a_word_in_context_is_the_last_token_of_its_first_mention() -> None:
    model = tiny.backend("gpt2")
    seen = traced(model, "The bass of a song is in songs. Anna sees songs. The bass is a")
    vectors = concepts.in_context_vectors(model, seen, ["BASS", "songs", "lake"])
    assert np.array_equal(vectors[:, 0], seen.resid[:, seen.tokens.index(" bass")])
    # "songs" is song|s: the last piece of its first mention, not the "song" before that
    song = seen.tokens.index(" song", seen.tokens.index(" song") + 1)
    assert seen.tokens[song : song + 2] == (" song", "s")
    assert np.array_equal(vectors[:, 1], seen.resid[:, song + 1])
    assert np.isnan(vectors[:, 2]).all()


def test_the_mean_residual_leaves_out_first_positions_and_padding() -> None:
    model = tiny.backend("llama", tiny.word_level)
    texts = ["the bass is a fish .", "Anna sees a bass", "the bat is an animal . the bass"]
    rows = [
        states_of(model, model.tokenizer(text)["input_ids"])[:, 1:].astype(np.float64)
        for text in texts
    ]
    expected = np.concatenate(rows, axis=1).mean(axis=1)
    found = concepts.mean_residual(model, texts)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    many = concepts.mean_residual(model, texts * 15)  # more than one batch
    np.testing.assert_allclose(many, expected, rtol=1e-4, atol=1e-5)


def test_what_the_tokenizer_knows() -> None:
    model = tiny.backend("llama", tiny.word_level)
    assert concepts.knows(model, "the bass")
    assert not concepts.knows(model, "the zebra")


# -- directions ---------------------------------------------------------------------------------


def test_published_directions_are_mean_rows_of_the_unspaced_word() -> None:
    model = tiny.backend("llama")
    rows = concepts.published_directions(model, ["bass", "guitar"])
    U = unembedding(model)
    for row, word in zip(rows, ["bass", "guitar"], strict=True):
        np.testing.assert_allclose(row, U[ids_of(model, word)].mean(axis=0), atol=1e-6)


def test_concept_directions_are_centred_rows_of_the_word_said_next() -> None:
    model = tiny.backend("llama")
    U = unembedding(model)
    words = ["bass", "songs"]
    rows = concepts.concept_directions(model, traced(model), words)
    for row, word in zip(rows, words, strict=True):
        expected = (U - U.mean(axis=0))[ids_of(model, f" {word}")].mean(axis=0)
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_concept_probability_is_the_mass_on_first_tokens() -> None:
    model = tiny.backend("llama")
    seen = traced(model)
    prob = scipy.special.softmax(
        model.unembed(torch.from_numpy(seen.resid[:, -1])).double().numpy(), axis=-1
    )
    first = [ids_of(model, f" {word}")[0] for word in ("bass", "bassoon", "song")]
    assert first[0] == first[1]  # counted once
    expected = prob[:, [first[0], first[2]]].sum(axis=-1)
    found = concepts.concept_probability(model, seen, ["bass", "bassoon", "song"])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_concept_probability_by_hand() -> None:
    """Logits 2 and 1 on two words, 0 on all others, at every state."""
    model = planted({"song": 2.0, "drum": 1.0})
    seen = dst.trace(model, Case(prompt=PROMPT, contextual="fish", associative="guitar"))
    found = concepts.concept_probability(model, seen, ["song", "drum"])
    mass = np.exp(2) + np.exp(1)
    assert found == pytest.approx(np.full(4, mass / (mass + model.spec.d_vocab - 2)), abs=1e-4)


def test_normed_is_the_final_norm() -> None:
    model = tiny.backend("gpt2")
    seen = traced(model)
    h = seen.resid[:, -1].astype(np.float64)
    norm = model.model.transformer.ln_f
    centred = h - h.mean(axis=-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + norm.eps)
    expected = expected * norm.weight.detach().numpy() + norm.bias.detach().numpy()
    np.testing.assert_allclose(concepts.normed(model, seen.resid[:, -1]), expected, atol=1e-5)


# -- nothing, and the unknown -------------------------------------------------------------------


def test_no_words_give_no_vectors() -> None:
    model = tiny.backend("gpt2")
    seen = traced(model)
    assert concepts.published_vectors(model, seen, []).shape == (4, 0, 64)
    assert concepts.in_context_vectors(model, seen, []).shape == (4, 0, 64)
    assert concepts.published_directions(model, []).shape == (0, 64)
    assert concepts.concept_directions(model, seen, []).shape == (0, 64)
    assert np.isnan(concepts.concept_probability(model, seen, [])).all()


@pytest.mark.parametrize("measure", [concepts.concept_directions, concepts.concept_probability])
def test_an_unknown_concept_word_is_refused_with_the_nearest_known(
    measure: Callable[..., Any],
) -> None:
    model = tiny.backend("llama", tiny.word_level)
    seen = traced(model, PROMPT)
    with pytest.raises(TokenError, match=r"'guitars' \(near it: guitar, ") as caught:
        measure(model, seen, ["song", "guitars"])
    assert str(caught.value).count(",") >= 2  # three of them
