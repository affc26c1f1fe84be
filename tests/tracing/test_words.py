"""z of concept words against transformers and NumPy, sentence by sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.case import Case
from dst.core.lens_results import TunedLens
from dst.models.hooks import HooksBackend
from dst.models.reference import reference_sentences
from dst.models.tokens import tokenize_case
from dst.tracing.prepare import prepare
from dst.tracing.words import ended, statistics, word_scores
from tests import tiny

CASE = Case(
    prompt="Anna is at the lake. Anna sees a bass. What is the bass? The bass is a",
    contextual="fish",
    associative="guitar",
    cue="lake",
    neutral=[
        "Anna is at the city. Anna sees a bass. What is the bass? The bass is a",
        "Anna is at the bank. Anna sees a bass. What is the bass? The bass is a",
    ],
    context_words=["river", "water"],
    competing_words=["drum", "song", "concert"],
)
SENTENCES = reference_sentences()[:12]


@pytest.fixture(scope="module")
def model() -> HooksBackend:
    return tiny.backend("llama", lambda: tiny.byte_bpe(bos=True))


@pytest.fixture(scope="module")
def lens(model: HooksBackend) -> TunedLens:
    return dst.fit_tuned_lens(model, steps=0, show=False)


def lens_logits(model: Any, ids: Any, lens: TunedLens | None = None) -> np.ndarray:
    """[state d_vocab] at the last of some ids, by transformers' own modules."""
    with torch.no_grad():
        hidden = model.model(torch.tensor([list(ids)]), output_hidden_states=True).hidden_states
        out = []
        for state, h in enumerate(hidden[:-1]):
            read = h[0, -1]
            if lens is not None:
                read = read + torch.from_numpy(lens.weight[state]) @ read
                read = read + torch.from_numpy(lens.bias[state])
            out.append(model.model.lm_head(model.model.model.norm(read)))
        out.append(model.model.lm_head(hidden[-1][0, -1]))  # normed already
    return torch.stack(out).double().numpy()


def first(model: Any, word: str) -> int:
    return int(model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0])


@pytest.mark.parametrize("tuned", [False, True])
def test_z_is_the_lens_logit_standardised_over_sentences_with_the_same_end(
    model: HooksBackend, lens: TunedLens, tuned: bool
) -> None:
    used = lens if tuned else None
    ready = prepare(model, CASE)
    (found,) = word_scores(model, ready, SENTENCES, [used])
    last = ready.tokenized.ids[-1]
    ordinary = np.stack(
        [lens_logits(model, [*model.tokenizer(s)["input_ids"], last], used) for s in SENTENCES]
    )

    def z(prompt: str, words: tuple[str, ...]) -> np.ndarray:
        ids = [first(model, word) for word in words]
        logits = lens_logits(model, model.tokenizer(prompt)["input_ids"], used)
        return (logits - ordinary.mean(0))[1:, ids] / ordinary.std(0)[1:, ids]

    neutral = [str(text) for text in CASE.neutral]
    expected = {
        "context": z(str(CASE.prompt), CASE.context_words),
        "competing": z(str(CASE.prompt), CASE.competing_words),
        "context_neutral": np.stack([z(text, CASE.context_words) for text in neutral]),
        "competing_neutral": np.stack([z(text, CASE.competing_words) for text in neutral]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name)[..., 1:, :], value, rtol=5e-3, atol=5e-3)
    assert found.left_out == ()


def test_where_every_sentence_says_the_same_there_is_no_z(model: HooksBackend) -> None:
    """Without positions, the embedding of one last token is one vector: no spread at state 0."""
    (found,) = word_scores(model, prepare(model, CASE), SENTENCES, [None])
    assert np.isnan(found.context[0]).all()
    assert np.isfinite(found.context[1:]).all()


def test_learned_positions_give_the_embedding_a_spread() -> None:
    model = tiny.backend("gpt2")
    varied = [*SENTENCES[:6], *(f"{text} And so on." for text in SENTENCES[6:])]
    (found,) = word_scores(model, prepare(model, CASE), varied, [None])
    assert np.isfinite(found.context[0]).all()


def test_sentences_end_with_the_last_token_once(model: HooksBackend) -> None:
    stop = int(model.tokenizer(".", add_special_tokens=False)["input_ids"][-1])
    rows = ended(model, CASE, stop, ["The lake is green.", "The lake is green"])
    plain = tuple(model.tokenizer("The lake is green.")["input_ids"])
    assert rows[0] == plain
    assert rows[1][-1] == stop != rows[1][-2]
    long = "The lake is green. " * 60
    assert ended(model, CASE, stop, [long]) == ()  # longer than the model's positions


def test_a_chat_case_has_its_sentences_through_the_template(model: HooksBackend) -> None:
    chat = CASE.replace(chat=True, neutral=())
    last = tokenize_case(model.tokenizer, chat).ids[-1]
    (row,) = ended(model, chat, last, SENTENCES[:1])
    text = model.tokenizer.decode(list(row))
    assert "<|user|>" in text
    assert SENTENCES[0] in text
    assert "lake" not in text
    assert text.endswith("<think></think>")


def test_statistics_are_kept_per_last_token_and_lens(
    model: HooksBackend, lens: TunedLens, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (first(model, word) for word in ("a", "the"))
    once = statistics(model, CASE, a, SENTENCES, None)
    other = statistics(model, CASE, b, SENTENCES, None)
    tuned = statistics(model, CASE, a, SENTENCES, lens)
    runs: list[int] = []
    plain = model.run

    def counted(*args: Any, **options: Any) -> Any:
        runs.append(1)
        return plain(*args, **options)

    monkeypatch.setattr(model, "run", counted)
    assert statistics(model, CASE, a, SENTENCES, None) is once
    assert statistics(model, CASE, a, SENTENCES, lens) is tuned
    assert runs == []
    assert statistics(model, CASE, a, SENTENCES[:11], None) is not once
    assert len(runs) == 1
    assert not np.allclose(once.mean, other.mean)
    monkeypatch.setattr("dst.tracing.words.MOST_KEPT", 0)
    statistics(model, CASE, b, SENTENCES[:11], None)
    assert statistics(model, CASE, a, SENTENCES, None) is not once  # forgotten, made again


def test_words_of_the_prompt_and_of_the_answers_are_left_out(model: HooksBackend) -> None:
    answer = first(model, "fish")
    same_start = "fishing"
    assert first(model, same_start) == answer
    case = CASE.replace(context_words=["Lake", "water", same_start])
    (found,) = word_scores(model, prepare(model, case), SENTENCES, [None])
    assert found.context.shape[1] == 1
    assert found.left_out == (
        "'Lake' is in the prompt",
        f"{same_start!r} begins as an answer does",
    )
