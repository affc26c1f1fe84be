"""Inspection prompts: what a Patchscope puts a state into, and what it goes on with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from dst.core.errors import InputError, InterventionError
from dst.core.sites import site_of_state
from dst.models.backend import Backend, Edit
from dst.models.reference import neutral_nouns
from dst.models.text import encode, refuse_unknown, token_texts
from dst.tracing.columns import places_in
from dst.tracing.concept_vectors import knows

IDENTITY, DESCRIPTION = "identity", "description"
"""The shipped inspection prompts by name."""

PROMPTS = {
    IDENTITY: "cat -> cat; 1135 -> 1135; hello -> hello; ?",
    DESCRIPTION: (
        "Syria: Country in the Middle East, Leonardo DiCaprio: American actor, Samsung: South "
        "Korean multinational major appliance and consumer electronics corporation, x"
    ),
}
"""As published; the last token is the one that is replaced."""

IDENTITY_FORMS = (
    "{0} -> {0}; {1} -> {1}; {2} -> {2}; ?",
    "{0} -> {0} ; {1} -> {1} ; {2} -> {2} ; ?",
    "{0} is {0}. {1} is {1}. {2} is {2}. {3}",
    "{0} is {0} . {1} is {1} . {2} is {2} . {3}",
    "{0} {0} {1} {1} {2} {2} {3}",
)
"""The identity prompt for a closed vocabulary: with nouns that it knows, the first that fits."""

MOST_TOKENS = 4096
"""Tokens in one batch."""


@dataclass(frozen=True)
class Inspection:
    """A prompt of the target model with the position that a state is put in at.

    Attributes:
        model: The target model.
        text: The prompt.
        ids: Its tokens.
        position: Where the state is put.
        notes: How the prompt was chosen.
    """

    model: Backend
    text: str
    ids: tuple[int, ...]
    position: int
    notes: tuple[str, ...]

    @property
    def tokens(self) -> tuple[str, ...]:
        """The prompt's tokens as text."""
        return token_texts(self.model.tokenizer, self.ids)


@dataclass(frozen=True)
class Generated:
    """Greedy continuations of patched prompts.

    Attributes:
        ids: Tokens, -1 after the end.
        log_prob: Log-probability of each, NaN after the end.
        first: Log-probabilities of some tokens at the first step.
        fired: Places changed over all steps.
    """

    ids: Int[np.ndarray, "cell step"]
    log_prob: Float[np.ndarray, "cell step"]
    first: Float[np.ndarray, "cell token"]
    fired: Int[np.ndarray, " cell"]


Placed = tuple[int, torch.Tensor]
"""The target model's state, and the vector [d_model] that is put there."""


def inspection_of(model: Backend, prompt: str, position: int | str) -> Inspection:
    """An inspection prompt by name, or one's own text.

    The published identity prompt is taken where the tokenizer knows its words; else one of the
    same form with nouns that it knows, and a note says so.

    Raises:
        InputError: No identity prompt can be made of words that the tokenizer knows.
        TokenError: It does not know a word of the prompt.
        InterventionError: The position is not in the prompt, or there are several.
    """
    text, notes = PROMPTS.get(prompt, prompt), list[str]()
    if prompt == IDENTITY and not knows(model, text):
        text = _identity(model)
        notes.append(f"The tokenizer does not know the published inspection prompt; used: {text}")
    encoding = encode(model.tokenizer, text)
    refuse_unknown(model.tokenizer, encoding)
    span = [position] if isinstance(position, int) else position
    places = places_in(encoding, len(encoding.ids), span)
    if len(places) != 1:
        raise InterventionError(
            f"The target position {position!r} names {len(places)} tokens",
            expected="one token of the inspection prompt",
        )
    return Inspection(model, text, encoding.ids, places[0], tuple(notes))


def _identity(model: Backend) -> str:
    nouns = [noun for noun in neutral_nouns(model.spec.name) if knows(model, noun)][:4]
    if len(nouns) == 4:
        for form in IDENTITY_FORMS:
            if knows(model, text := form.format(*nouns)):
                return text
    raise InputError(
        "The tokenizer does not know the words of the identity prompt, nor four neutral nouns",
        do="Give target_prompt='...' in its own words",
    )


def generate(
    inspection: Inspection,
    cells: Sequence[Placed | None],
    n: int,
    tokens: Sequence[int] = (),
    tick: Callable[[int], None] = lambda n: None,
    *,
    ends: bool = True,
) -> Generated:
    """What the prompt goes on with, with each vector in place; None for the prompt as it is.

    Greedy, without a cache: every step runs the whole text so far with the vector put in again,
    so that all later tokens read it, as they would from a cache made once. A text ends at the
    tokenizer's end token.

    Args:
        inspection: The prompt.
        cells: What is put in; each is a row of its own.
        n: Tokens to generate.
        tokens: Tokens whose log-probability at the first step is wanted.
        tick: Told how many rows were just run.
        ends: Whether a text ends at the end token; else it is a token like any other.

    Raises:
        InputError: ``n`` is no positive number, or prompt and text exceed the model's window.
        InterventionError: An edit did not fire at every row.
    """
    model, length = inspection.model, len(inspection.ids)
    if n < 1:
        raise InputError(f"{n} tokens are asked for", expected="1 or more")
    if length + n - 1 > model.spec.window:
        raise InputError(
            f"The inspection prompt has {length} tokens and {n} more are asked for",
            expected=f"{model.spec.window} together, the model's window",
        )
    end = getattr(model.tokenizer, "eos_token_id", None) if ends else None
    size = max(1, MOST_TOKENS // (length + n))
    parts = [
        _generate(inspection, cells[start : start + size], n, tokens, tick, end)
        for start in range(0, len(cells), size)
    ]
    return Generated(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("ids", "log_prob", "first", "fired")
        )
    )


def _generate(
    inspection: Inspection,
    cells: Sequence[Placed | None],
    n: int,
    tokens: Sequence[int],
    tick: Callable[[int], None],
    end: int | None,
) -> Generated:
    """One batch of `generate`."""
    model = inspection.model
    edits = _edits(inspection, cells)
    rows = [list(inspection.ids) for _ in cells]
    ids = np.full((len(cells), n), -1, dtype=np.int64)
    log_prob = np.full((len(cells), n), np.nan)
    first = np.empty((len(cells), len(tokens)))
    fired = np.zeros(len(cells), dtype=np.int64)
    alive = np.ones(len(cells), dtype=bool)
    for step in range(n):
        run = model.run(rows, edits=edits, logits_at=[-1])
        for edit, receipt in zip(edits, run.receipts, strict=True):
            if receipt.fired != len(edit.rows):
                raise InterventionError(
                    f"The patch at {receipt.where} fired {receipt.fired} times",
                    expected=f"{len(edit.rows)}, once per row",
                )
            fired[list(edit.rows)] += 1
        wide = run.last_logits.float().log_softmax(dim=-1)
        if step == 0:
            first[:] = wide[:, list(tokens)].cpu().numpy()
        best = wide.argmax(dim=-1)
        said = best.cpu().numpy()
        alive &= said != (-1 if end is None else end)
        ids[alive, step] = said[alive]
        log_prob[alive, step] = wide.gather(1, best[:, None])[:, 0].cpu().numpy()[alive]
        for row, token in zip(rows, said.tolist(), strict=True):
            row.append(token)
        tick(len(cells))
        if not alive.any():
            break
    return Generated(ids, log_prob, first, fired)


def _edits(inspection: Inspection, cells: Sequence[Placed | None]) -> list[Edit]:
    """One edit per target state, for all rows that have something put in there."""
    by_state: dict[int, dict[int, torch.Tensor]] = {}
    for row, cell in enumerate(cells):
        if cell is not None:
            by_state.setdefault(cell[0], {})[row] = cell[1]
    return [
        Edit(
            site_of_state(state, inspection.model.spec.n_layers),
            list(vectors),
            [inspection.position],
            torch.stack(list(vectors.values()))[:, None],  # [row 1 d_model]
        )
        for state, vectors in by_state.items()
    ]


def known_ids(model: Backend, text: str) -> tuple[int, ...]:
    """A text's tokens.

    Raises:
        TokenError: The tokenizer does not know a word of it.
    """
    encoding = encode(model.tokenizer, text)
    refuse_unknown(model.tokenizer, encoding)
    return encoding.ids
