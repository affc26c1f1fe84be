"""Which places of the prompt bring which concepts: the second layer of a semantic map."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dst.core.errors import InputError
from dst.core.results import Provenance, Result, result

FORMS = ("state", "word")
"""What is replaced at a place: the residual state, or the token itself."""


@result
class PositionEffects(Result):
    """Effect of every place of the prompt on every concept's lens logit at i*, with its control.

    effect = z_w(x) - z_w(x with the place replaced by a neutral draw's), mean over draws: above
    0 the place brings the word. z_w is the lens logit of w's first token less the mean over the
    vocabulary, in logits. ``form`` says what is replaced: the residual state of the place by that
    of x_0 (``state``), or its token by a neutral noun (``word``, at state 0 only).

    Attributes:
        form: ``state`` or ``word``.
        lens: ``logit_lens`` or ``tuned_lens``.
        tokens: The prompt's tokens as text, one per position; the last is i*.
        roles: The role of each (METHOD 0).
        words: The concept words.
        word_tokens: The token of each word that is read, as text.
        states: States at which a place is replaced, ascending.
        reads: States at which the words are read, ascending; the last is L, the output.
        effects: In logits; NaN where the read is no later than the replaced state.
        control: Root mean square effect of one neutral draw against another, at the same place;
            NaN where there is one draw only.
        p: Two-sided p of the effect being one more draw-against-draw effect; NaN where the
            place is the same in every draw (the effect is then exactly 0), or the others are.
        q: The same after Benjamini-Hochberg over all of ``p``.
        differing: Draws that differ from x at a place; 0 makes its effect an exact 0.
        draws: How many neutral draws there are.
        notes: What was drawn, or could not be read.
        provenance: What it takes to compute this again.
    """

    form: str
    lens: str
    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    words: tuple[str, ...]
    word_tokens: tuple[str, ...]
    states: Int[np.ndarray, " state"]
    reads: Int[np.ndarray, " read"]
    effects: Float[np.ndarray, "read state pos concept"]
    control: Float[np.ndarray, "read state pos concept"]
    p: Float[np.ndarray, "read state pos concept"]
    q: Float[np.ndarray, "read state pos concept"]
    differing: Int[np.ndarray, "state pos"]
    draws: int
    notes: tuple[str, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"the form {self.form!r} is none of {', '.join(FORMS)}")
        _, _, n_pos, n_words = self.effects.shape
        if not len(self.tokens) == len(self.roles) == n_pos:
            raise ValueError("one token and one role per position are needed")
        if not len(self.words) == len(self.word_tokens) == n_words:
            raise ValueError("one token per word is needed")

    @property
    def effect(self) -> Float[np.ndarray, "state pos concept"]:
        """The effect on the output, state L, in logits."""
        return self.effects[-1]

    @property
    def effect_q(self) -> Float[np.ndarray, "state pos concept"]:
        """The q of `effect`."""
        return self.q[-1]

    def at(self, read: int) -> Float[np.ndarray, "state pos concept"]:
        """The effect on the lens at a state, in logits.

        Raises:
            InputError: The words were not read there.
        """
        return self.effects[self._index(read)]

    def q_at(self, read: int) -> Float[np.ndarray, "state pos concept"]:
        """The q of the effect on the lens at a state.

        Raises:
            InputError: The words were not read there.
        """
        return self.q[self._index(read)]

    def reason(self, read: int, state: int, pos: int) -> str:
        """Why an effect, or its q, is NaN; "" where both are defined.

        Args:
            read: A state of ``reads``.
            state: A state of ``states``.
            pos: A position.

        Raises:
            InputError: There is no such read or state.
        """
        self._index(read)
        if state not in self.states:
            raise InputError(
                f"Nothing was replaced at state {state}", expected=f"one of {self.states.tolist()}"
            )
        if read <= state:
            return f"no block runs between state {state} and state {read}"
        row = self.states.tolist().index(state)
        if not self.differing[row, pos]:
            return "every draw is the same as the prompt there: the effect is exactly 0, no test"
        return "one draw only: nothing to compare with" if self.draws < 2 else ""

    def edges(self, level: float = 0.05) -> list[dict[str, Any]]:
        """Rows of `to_records` with q under a level, the largest |effect| first."""
        found = [row for row in self.to_records() if row["q"] < level]
        return sorted(found, key=lambda row: -abs(row["effect"]))

    def to_records(self) -> list[dict[str, Any]]:
        """One row per read, state, position and word."""
        return [
            {
                "read": int(read),
                "state": int(state),
                "pos": pos,
                "token": self.tokens[pos],
                "role": self.roles[pos],
                "word": word,
                "effect": float(self.effects[i, j, pos, k]),
                "control": float(self.control[i, j, pos, k]),
                "p": float(self.p[i, j, pos, k]),
                "q": float(self.q[i, j, pos, k]),
                "reason": self.reason(int(read), int(state), pos),
            }
            for i, read in enumerate(self.reads)
            for j, state in enumerate(self.states)
            for pos in range(len(self.tokens))
            for k, word in enumerate(self.words)
        ]

    def _index(self, read: int) -> int:
        if read not in self.reads:
            raise InputError(
                f"The words were not read at state {read}",
                expected=f"one of {self.reads.tolist()}",
            )
        return self.reads.tolist().index(read)
