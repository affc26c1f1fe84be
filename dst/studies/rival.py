"""What to trace against when only the contextual answer is given: ask the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dst.analysis.readout import log_softmax
from dst.core.case import Case
from dst.core.errors import CaseError
from dst.models.backend import Backend
from dst.models.draws import STOP_WORDS
from dst.models.tokens import TokenizedCase, token_texts, tokenize_case

LEAST_PROBABILITY = 0.01
"""Under this the model's likeliest word is no answer that an explanation could rest on."""

_LONGEST_WORD = 8
"""Pieces after which a word built from the model's own continuation is taken as it is."""


@dataclass(frozen=True)
class Rival:
    """The answer that the model gives of its own accord.

    Attributes:
        form: The word.
        probability: Of its first token at i*.
        is_contextual: Whether the model's likeliest word was the contextual answer, so that
            ``form`` is only its strongest rival.
    """

    form: str
    probability: float
    is_contextual: bool


def with_rival(model: Backend, case: Case) -> tuple[Case, tuple[str, ...]]:
    """The case with an associative answer, and what was inferred, in sentences.

    The model's answer is the likeliest token that starts a word and is no stop word. If
    that is the contextual answer there is no hallucination here, and the strongest rival
    is taken.

    Raises:
        CaseError: Under p .01 the model has no answer to explain: give one.
    """
    if case.associative:
        return case, ()
    rival = find_rival(model, tokenize_case(model.tokenizer, case))
    filled = case.replace(associative=(rival.form,), case_id=case.case_id)
    if rival.is_contextual:
        return filled, (
            "There is no hallucination here: the model's own answer is the contextual one. It is "
            f"traced against its strongest rival, {rival.form!r} (p {rival.probability:.2g}).",
        )
    return filled, (
        f"The associative answer was not given: the model's own answer {rival.form!r} "
        f"(p {rival.probability:.2g}) is taken.",
    )


def find_rival(model: Backend, case: TokenizedCase) -> Rival:
    """The likeliest word at i* that is not the contextual answer; see `with_rival`."""
    run = model.run([case.ids], logits_at=[-1])
    prob = np.exp(log_softmax(run.last_logits[0].float().cpu().numpy()))
    is_contextual = False
    for token in np.argsort(-prob, kind="stable"):
        token = int(token)
        if prob[token] < LEAST_PROBABILITY:
            break
        word = _word(model, case, token)
        if _is_contextual(case, token, word):
            is_contextual = True
        elif word is not None and word.casefold() not in STOP_WORDS:
            return Rival(word, float(prob[token]), is_contextual)
    if is_contextual:
        raise CaseError(
            "There is no hallucination here: the model answers with the contextual answer, and "
            f"no other word reaches p {LEAST_PROBABILITY}",
            do="Give the answer to compare it with (--associative)",
            field="associative",
        )
    likeliest = token_texts(model.tokenizer, [int(prob.argmax())])[0]
    raise CaseError(
        f"The model has no answer here: its likeliest token is {likeliest!r} "
        f"(p {prob.max():.2g}), and no word that could be an answer reaches p {LEAST_PROBABILITY}",
        do="Give the answer to explain (--associative), or end the prompt where the answer begins",
        field="associative",
    )


def _word(model: Backend, case: TokenizedCase, token: int) -> str | None:
    """The word that ``token`` starts after the prompt, or None if it starts none."""
    if token in model.tokenizer.all_special_ids:
        return None
    pieces = [token]
    text = _said(model, case, pieces)
    if not _starts_word(case, text):
        return None
    while len(pieces) < _LONGEST_WORD:
        more = model.generate([*case.ids, *pieces], 1)
        longer = _said(model, case, [*pieces, *more]) if more else text
        if not more or not longer.startswith(text) or not longer[len(text) :].isalnum():
            break
        pieces, text = [*pieces, *more], longer
    return text.strip()


def _is_contextual(case: TokenizedCase, token: int, word: str | None) -> bool:
    """Whether the model, saying ``token``, says the contextual answer.

    Its first token alone does not tell: two names may begin alike. A word of which the answer
    is the beginning, or which is the beginning of the answer, cannot be told from it.
    """
    forms = [form.strip().casefold() for form in case.case.contextual]
    said = (word or "").casefold()
    if token not in case.contextual_ids:
        return said in forms
    return word is None or any(f.startswith(said) or said.startswith(f) for f in forms)


def _said(model: Backend, case: TokenizedCase, pieces: list[int]) -> str:
    """What ``pieces`` add to the prompt's text, with the space between if there is one."""
    before = model.tokenizer.decode(list(case.ids))
    after = model.tokenizer.decode([*case.ids, *pieces])
    return str(after[len(before) :] if after.startswith(before) else model.tokenizer.decode(pieces))


def _starts_word(case: TokenizedCase, text: str) -> bool:
    """Whether ``text`` begins a word: after white space of its own, or of the prompt's end."""
    body = text.strip()
    if not body or not body[0].isalnum():
        return False
    return text[0].isspace() or not case.encoding.text[-1:].isalnum()
