"""Words at the answer position by the lens: single pieces, chains of them, what they grow into."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from dst.analysis.readout import log_softmax
from dst.core.lens_results import LOGIT_LENS, TUNED_LENS, TunedLens
from dst.models.backend import Backend
from dst.models.continuations import last_states
from dst.models.text import token_texts
from dst.models.tokens import TokenizedCase
from dst.tracing.concept_words import Openings, openings
from dst.tracing.lens import read_state
from dst.tracing.words import at_end

LONGEST = 5
"""Pieces at which a word is taken as it is."""

FORM_SHARE = 0.05
"""A capital or spaceless form of a word in pieces is scored where it has this share somewhere."""

MOST_LOGITS = 2**24
"""Lens logits that are held at a time."""

Ids = tuple[int, ...]
"""The pieces of one form of a word."""


class Reading:
    """The lens at the answer position and, teacher-forced, after it."""

    def __init__(self, model: Backend, tokenized: TokenizedCase, lens: TunedLens | None) -> None:
        self.model, self.lens, self.ids = model, lens, tokenized.ids
        self.lens_name = LOGIT_LENS if lens is None else TUNED_LENS
        shared = model.tokenizer.decode(list(tokenized.shared)) if tokenized.shared else ""
        self.openings = _openings(model, tokenized.encoding.text + shared)
        resid = at_end(model, [tokenized.ids])[:, 0]
        self.first = self._log_prob(resid)  # [state d_vocab]
        self.chains: dict[Ids, Float[np.ndarray, " state"]] = {}

    def likeliest_keys(self, n: int) -> tuple[Float[np.ndarray, " state"], list[str]]:
        """Probability of all words that could be nodes, per state; the n likeliest of any state."""
        keys, ids = list(self.openings.by_key), list(self.openings.by_key.values())
        key_of = np.repeat(np.arange(len(keys)), [len(tokens) for tokens in ids])
        prob = np.exp(self.first[:, [token for tokens in ids for token in tokens]])
        by_key = np.stack([np.bincount(key_of, row, len(keys)) for row in prob])
        best = np.argsort(-by_key, axis=1, kind="stable")[:, :n]
        return prob.sum(axis=1), [keys[i] for i in dict.fromkeys(best.ravel().tolist())]

    def of(self, forms: Sequence[Ids]) -> Float[np.ndarray, " state"]:
        """Log-probability of a word by its forms, nats."""
        single = [form[0] for form in forms if len(form) == 1]
        chains = [self.chains[form] for form in forms if len(form) > 1]
        return np.logaddexp.reduce([*self.first[:, single].T, *chains], axis=0)

    def likeliest(self, forms: Sequence[Ids]) -> Ids:
        """The form with the most probability, summed over states."""
        return max(forms, key=lambda form: float(np.exp(self.of([form])).sum()))

    def spelled(self, form: Ids) -> str:
        """The word that a form spells."""
        return "".join(token_texts(self.model.tokenizer, form)).strip()

    def score(self, forms: Sequence[Ids]) -> None:
        """Score forms of several pieces by their chains."""
        todo = [form for form in dict.fromkeys(forms) if len(form) > 1 and form not in self.chains]
        for form in todo:
            self.chains[form] = self.first[:, form[0]].copy()
        for k in range(1, max(map(len, todo), default=1)):
            longer = [form for form in todo if len(form) > k]
            starts = list(dict.fromkeys(form[:k] for form in longer))
            resid = last_states(self.model, self.ids, starts).numpy()
            for i, start in enumerate(starts):
                log_prob = self._log_prob(resid[:, i])
                for form in longer:
                    if form[:k] == start:
                        self.chains[form] += log_prob[:, form[k]]

    def followed(self, openings: Sequence[Sequence[Ids]]) -> list[list[Ids]]:
        """Each opening's forms, of one piece each, followed to the word that the model makes."""
        whole = [self.likeliest(forms) for forms in openings]
        growing = list(range(len(whole))) if self.openings.goes_on.any() else []
        for _ in range(LONGEST - 1):
            if not growing:
                break
            starts = [whole[i] for i in growing]
            following = self._going_on(last_states(self.model, self.ids, starts)[-1].numpy())
            pairs = [(i, t) for i, t in zip(growing, following, strict=True) if t is not None]
            for i, token in pairs:
                whole[i] = (*whole[i], token)
            growing = [i for i, _ in pairs]
        out = []
        for forms, form in zip(openings, whole, strict=True):
            others = self._common(forms) if len(form) > 1 else forms
            out.append(list(dict.fromkeys((form, *((*other, *form[1:]) for other in others)))))
        self.score([form for forms in out for form in forms])
        return out

    def _going_on(self, resid: Float[np.ndarray, "row d_model"]) -> list[int | None]:
        """The likeliest piece that goes on with a word, None where the word more likely ends."""
        size = max(1, MOST_LOGITS // self.model.spec.d_vocab)
        n_layers, pieces = self.model.spec.n_layers, np.flatnonzero(self.openings.goes_on)
        found: list[int | None] = []
        for start in range(0, len(resid), size):
            prob = np.exp(
                log_softmax(read_state(self.model, n_layers, resid[start : start + size]))
            )
            for row in prob[:, pieces]:
                found.append(int(pieces[row.argmax()]) if row.sum() > 0.5 else None)
        return found

    def _common(self, forms: Sequence[Ids]) -> list[Ids]:
        """Forms of one piece that hold `FORM_SHARE` of the word at some state."""
        whole = self.of(forms)
        return [f for f in forms if (self.of([f]) - whole).max() >= np.log(FORM_SHARE)]

    def _log_prob(
        self, resid: Float[np.ndarray, "state d_model"]
    ) -> Float[np.ndarray, "state d_vocab"]:
        """Lens log-probabilities of every state, nats."""
        logits = [read_state(self.model, l, h, self.lens) for l, h in enumerate(resid)]
        return log_softmax(np.stack(logits))


_OPENINGS: weakref.WeakKeyDictionary[Backend, dict[Any, Openings]] = weakref.WeakKeyDictionary()


def _openings(model: Backend, text: str) -> Openings:
    """`openings`, remembered per model: they depend on the kind of the text's last character."""
    known = _OPENINGS.setdefault(model, {})
    kind = text[-1:].isspace(), text[-1:].isalnum()
    if kind not in known:
        known[kind] = openings(model.tokenizer, text, model.spec.d_vocab)
    return known[kind]
