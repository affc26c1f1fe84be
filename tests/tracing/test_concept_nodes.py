"""Nodes against transformers' own logits: merged forms, chains of pieces, caps, words given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.case import Case
from dst.core.errors import InputError, TokenError
from dst.models.continuations import last_states
from dst.models.draws import STOP_WORDS
from dst.models.tokens import tokenize_case
from dst.tracing import concept_nodes as module
from dst.tracing import concept_reading
from dst.tracing.concept_nodes import concept_nodes
from dst.tracing.lens import read_state
from dst.tracing.reference import shipped_lens
from tests import tiny
from tests.studies.planted import PROMPT, planted

CASE = Case(
    prompt="Anna is at the lake. Anna sees a bass. The bass is a",
    contextual="fish",
    associative="guitar",
    context_words=["river"],
    competing_words=["song"],
)


def logits_after(model: Any, ids: list[int]) -> np.ndarray:
    """[state d_vocab] lens log-probabilities after some ids, by transformers and its final norm."""
    body = model.model.model
    last: list[torch.Tensor] = []
    handle = body.layers[-1].register_forward_hook(lambda _m, _i, out: last.append(out))
    with torch.no_grad():
        hidden = body(torch.tensor([ids]), output_hidden_states=True).hidden_states
        states = torch.stack([*(h[0, -1] for h in hidden[:-1]), last[0][0, -1]])
        logits = model.model.lm_head(body.norm(states))
    handle.remove()
    out: np.ndarray = logits.double().log_softmax(-1).numpy()
    return out


def test_a_word_of_one_piece_sums_its_forms() -> None:
    """The planted lens: "Anna" is the one form of Anna, logits known at every state."""
    model = planted({"fish": [2, 3, 4, 5], "bass": [1, 0, 0, 0], "Anna": 3.0}, prompt=PROMPT)
    case = Case(prompt=PROMPT, contextual="fish", associative="guitar", context_words=["bass"])
    nodes = concept_nodes(model, case, most=3)
    assert nodes.lens == "logit_lens"
    expected = logits_after(model, list(model.tokenizer(PROMPT)["input_ids"]))
    vocab = model.tokenizer.get_vocab()
    for word, token in (("fish", "fish"), ("bass", "bass"), ("Anna", "Anna")):
        i = nodes.words.index(word)
        np.testing.assert_allclose(nodes.score[:, i], expected[:, vocab[token]], atol=2e-4)
        assert nodes.token_ids[i] == vocab[token]
    assert nodes.node[:, nodes.words.index("Anna")].all()


def test_forms_of_case_and_space_are_merged() -> None:
    """After a bracket "Ben" may stand with its space and without: both count."""
    model = tiny.backend("llama")
    case = CASE.replace(prompt=f"{CASE.prompt} (", context_words=["Ben"])
    nodes = concept_nodes(model, case, most=1)
    ids = list(model.tokenizer(case.prompt)["input_ids"])
    expected = logits_after(model, ids)
    forms = model.tokenizer.convert_tokens_to_ids(["\u0120Ben", "Ben"])
    i = nodes.words.index("Ben")
    both = np.logaddexp.reduce(expected[:, forms], axis=1)
    np.testing.assert_allclose(nodes.score[:, i], both, atol=2e-4)
    assert nodes.token_ids[i] == forms[int(np.exp(expected[:, forms]).sum(axis=0).argmax())]


def test_a_word_of_several_pieces_is_scored_by_its_chain() -> None:
    """P(waterman) is the product of its pieces' lens probabilities, each after the ones before."""
    model = tiny.backend("llama")
    case = CASE.replace(context_words=["waterman"])
    ids = model.tokenizer(" waterman", add_special_tokens=False)["input_ids"]
    assert len(ids) > 2
    nodes = concept_nodes(model, case, most=1)
    prompt = list(model.tokenizer(case.prompt)["input_ids"])
    forms = []
    for spelling in (" waterman", " Waterman"):
        form = model.tokenizer(spelling, add_special_tokens=False)["input_ids"]
        if len(form) <= len(ids):
            chain = [logits_after(model, prompt + form[:k])[:, form[k]] for k in range(len(form))]
            forms.append(np.sum(chain, axis=0))
    i = nodes.words.index("waterman")
    np.testing.assert_allclose(nodes.score[:, i], np.logaddexp.reduce(forms, axis=0), atol=1e-3)
    assert nodes.tokens[i] == (" water", "m", "a", "n")
    assert "waterman" in nodes.notes[0]


@pytest.mark.parametrize(("after", "word"), [("ar", "guitar"), (".", "guit")])
def test_a_piece_is_followed_to_the_word_that_the_model_makes_of_it(
    after: str, word: str, monkeypatch: Any
) -> None:
    """Sure of "ar" after " guit", the model makes guitar of it; sure of ".", guit."""
    model = tiny.backend("llama")
    guit, following = model.tokenizer.convert_tokens_to_ids(["\u0120guit", after])
    case = Case(prompt=CASE.prompt, contextual="fish", associative="song")
    true_lens, prompt = read_state, list(model.tokenizer(case.prompt)["input_ids"])
    states = last_states(model, prompt, [[guit]])[:, 0].numpy()

    def sure(model: Any, state: int, resid: np.ndarray, lens: Any = None) -> np.ndarray:
        """The lens, but " guit" is likely at i*, and the next token is certain after it."""
        logits = true_lens(model, state, resid, lens)
        rows = np.atleast_2d(logits)
        for row, h in zip(rows, np.atleast_2d(resid), strict=True):
            if np.allclose(h, states[state], atol=1e-4):
                row[following] = row.max() + 50
            else:
                row[guit] = row.max() + 2
        return rows.reshape(logits.shape)

    monkeypatch.setattr(concept_reading, "read_state", sure)
    nodes = concept_nodes(model, case, most=2)
    assert {"guit", "guitar"} & set(nodes.words) == {word}
    i = nodes.words.index(word)
    assert nodes.node[:, i].all()
    assert nodes.side[i] == "other"
    assert not nodes.given[i]


def test_nodes_hold_the_mass_or_are_at_the_cap_and_no_stop_word_is_one() -> None:
    model = dst.load()
    from dst.testbed import world

    (case,) = world.cases(split="test", n=1, seed=3)
    for most, mass in ((30, 0.9), (2, 0.9), (30, 0.5)):
        nodes = concept_nodes(model, case, most=most, mass=mass)
        own = nodes.node & ~nodes.given
        assert (own.sum(axis=1) <= most).all()
        assert ((nodes.covered >= mass) | (own.sum(axis=1) == most)).all()
        assert not set(nodes.words) & STOP_WORDS - {w.casefold() for w in case.contextual}
        # Without its least likely own node, a state would hold less.
        for state in np.flatnonzero(own.any(axis=1)):
            least = np.exp(nodes.score[state, own[state]].min())
            held = nodes.covered[state] - least / nodes.on_words[state]
            assert held < mass
    assert nodes.lens == "tuned_lens"


def test_words_given_are_always_nodes_and_know_their_side() -> None:
    nodes = concept_nodes(tiny.backend("gpt2"), CASE, most=1)
    given = {word: nodes.side[i] for i, word in enumerate(nodes.words) if nodes.given[i]}
    assert given == {
        "river": "contextual",
        "song": "associative",
        "fish": "contextual",
        "guitar": "associative",
    }
    assert nodes.node[:, nodes.given].all()
    assert [nodes.words[i] for i in np.flatnonzero(nodes.answer)] == ["fish", "guitar"]
    assert set(nodes.side) <= {"contextual", "associative", "other"}


def test_a_word_is_told_apart_by_the_first_piece_that_no_other_has() -> None:
    assert module._distinguishing([(1, 2), (1, 3), (4, 5)]) == [2, 3, 4]
    assert module._distinguishing([(1,), (1, 2), (2, 1)]) == [1, 1, 2]  # every piece is shared


def test_an_answer_inside_a_word_is_read_where_the_answers_part() -> None:
    """Both begin with " ba": i* is after it, and the answers are read by what follows."""
    model = tiny.backend("llama")
    case = CASE.replace(contextual="bard", associative="baker", context_words=[])
    nodes = concept_nodes(model, case, most=1)
    tokenized = tokenize_case(model.tokenizer, case)
    assert tokenized.shared
    i = nodes.words.index("bard")
    assert nodes.token_ids[i] == tokenized.contextual[0].ids[len(tokenized.shared)]
    assert any("part inside a word" in note for note in nodes.notes)


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(TokenError, match="does not know 'zebra'"):
        concept_nodes(
            tiny.backend("llama", tiny.word_level),
            Case(PROMPT, contextual="fish", associative="guitar", context_words=["zebra"]),
        )
    with pytest.raises(InputError, match="at least 1"):
        concept_nodes(tiny.backend("gpt2"), CASE, most=0)
    lens, _ = shipped_lens(dst.load())
    with pytest.raises(InputError, match="other weights"):
        concept_nodes(tiny.backend("gpt2"), CASE, lens=lens)
