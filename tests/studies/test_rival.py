"""Whose answer is explained when only the contextual one is given, on planted outputs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dst.core.case import Case
from dst.core.errors import CaseError
from dst.models.hooks import HooksBackend
from dst.models.tokens import tokenize_case
from dst.studies.rival import LEAST_PROBABILITY, find_rival, with_rival
from tests import tiny
from tests.studies.planted import PROMPT, planted

CASE = Case(prompt=PROMPT, contextual="fish")


def rival_of(model: Any, case: Case = CASE) -> Any:
    return find_rival(model, tokenize_case(model.tokenizer, case))


def share(model: Any, *logits: float) -> list[float]:
    """Probabilities of words with these logits; every other word has logit 0."""
    total = sum(map(math.exp, logits)) + model.spec.d_vocab - len(logits)
    return [math.exp(logit) / total for logit in logits]


def test_the_model_s_own_answer_is_taken() -> None:
    model = planted({"guitar": 6.0, "fish": 4.0})
    rival = rival_of(model)
    assert (rival.form, rival.is_contextual) == ("guitar", False)
    assert rival.probability == pytest.approx(share(model, 6, 4)[0], abs=1e-4)
    filled, (sentence,) = with_rival(model, CASE)
    assert filled.associative == ("guitar",)
    assert filled.case_id == CASE.case_id
    assert "the model's own answer 'guitar'" in sentence
    assert f"{share(model, 6, 4)[0]:.2g}" in sentence


def test_where_the_model_is_right_its_strongest_rival_is_taken() -> None:
    model = planted({"fish": 6.0, "guitar": 4.0, "drum": 3.5})
    rival = rival_of(model)
    assert (rival.form, rival.is_contextual) == ("guitar", True)
    assert rival.probability == pytest.approx(share(model, 6, 4, 3.5)[1], abs=1e-4)
    filled, (sentence,) = with_rival(model, CASE)
    assert filled.associative == ("guitar",)
    assert sentence.startswith("There is no hallucination here")
    assert "its strongest rival, 'guitar'" in sentence


def test_what_starts_no_answer_is_passed_over() -> None:
    """Stop words, punctuation and special tokens, however likely."""
    model = planted({"the": 9.0, ".": 8.5, "</s>": 8.0, "drum": 7.5, "fish": 5.0})
    assert (rival_of(model).form, rival_of(model).is_contextual) == ("drum", False)


def test_any_form_of_the_contextual_answer_is_the_contextual_answer() -> None:
    model = planted({"animal": 6.0, "drum": 5.0, "fish": 4.0})
    rival = rival_of(model, CASE.replace(contextual=("fish", "animal")))
    assert (rival.form, rival.is_contextual) == ("drum", True)


def test_a_word_with_the_first_token_of_the_answer_is_not_yet_the_answer() -> None:
    """The model goes on " bass|o|on" where the context supports " bass|e|s"."""
    tokenizer = tiny.byte_bpe()
    model = tiny.model("llama", len(tokenizer) + 3)
    start, pieces = "Anna sees a", tokenizer(" bassoon")["input_ids"]
    assert tokenizer(" basses")["input_ids"][0] == pieces[0]
    ids = [*tokenizer(start)["input_ids"], *pieces, *tokenizer(".")["input_ids"]]
    n = len(tokenizer(start)["input_ids"])
    with torch.no_grad():
        hidden = model.model(torch.tensor([ids])).last_hidden_state[0, n - 1 : -1].double()
        wanted = torch.zeros(len(ids) - n, model.config.vocab_size, dtype=torch.float64)
        wanted[range(len(ids) - n), ids[n:]] = 9.0  # each next token follows the one before
        model.lm_head.weight.copy_((torch.linalg.pinv(hidden) @ wanted).T)
    backend = HooksBackend(model, tokenizer)
    assert backend.generate(ids[:n], len(pieces)) == pieces
    case = Case(prompt=start, contextual="basses")
    assert (rival_of(backend, case).form, rival_of(backend, case).is_contextual) == (
        "bassoon",
        False,
    )
    # "bass" is the beginning of "bassoon", so the model may be on its way to it: no rival.
    with pytest.raises(CaseError, match="no other word reaches"):
        rival_of(backend, Case(prompt=start, contextual="bass"))
    with pytest.raises(CaseError, match="no other word reaches"):
        rival_of(backend, Case(prompt=start, contextual="bassoons"))


def test_another_spelling_of_the_answer_is_no_rival() -> None:
    """Given "the", the model says "The": not a form that is read, and yet the same word."""
    model = planted({"The": 6.0, "Anna": 4.0})
    case = Case(prompt=PROMPT, contextual="the")
    rival = rival_of(model, case)
    assert (rival.form, rival.is_contextual) == ("Anna", True)


def test_under_a_hundredth_the_model_has_no_answer_and_is_asked_for_one() -> None:
    model = planted({"the": 9.0, "drum": 3.0})
    p_the, p_drum = share(model, 9, 3)
    assert p_drum < LEAST_PROBABILITY
    with pytest.raises(CaseError, match="no answer here: its likeliest token is 'the'") as caught:
        with_rival(model, CASE)
    assert f"(p {p_the:.2g})" in str(caught.value)
    assert "--associative" in str(caught.value)
    assert caught.value.field == "associative"


def test_just_over_a_hundredth_it_has_one() -> None:
    model = planted({"the": 9.0, "drum": 4.5})
    assert share(model, 9, 4.5)[1] > LEAST_PROBABILITY
    assert rival_of(model).form == "drum"


def test_a_right_answer_without_any_rival_says_that_there_is_no_hallucination() -> None:
    model = planted({"fish": 9.0})
    with pytest.raises(CaseError, match=r"no hallucination here.*no other word reaches p 0\.01"):
        with_rival(model, CASE)


def test_a_given_answer_is_kept() -> None:
    case = CASE.replace(associative=("drum",))
    assert with_rival(planted({"guitar": 6.0}), case) == (case, ())
