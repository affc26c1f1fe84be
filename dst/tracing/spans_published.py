"""`spans_published`: the published span scores, as intended and as coded, beside ours by name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from dst.analysis.readout import log_softmax
from dst.core.case import Case, Prompt
from dst.core.errors import CaseError, InputError
from dst.core.span_results import PublishedSpans
from dst.models.backend import Backend
from dst.models.text import encode, render, unknown_id
from dst.models.tokens import tokenize_case

MASK = "[MASK]"
WINDOWS = (3, 5, 7)

MOST_TOKENS = 4096
"""Tokens in one batch."""


def spans_published(
    model: Backend, case: Case, *, windows: Sequence[int] = WINDOWS, target: str = "associative"
) -> PublishedSpans:
    """Drop of the answer's probability when a window of words becomes "[MASK]", published form.

    The prompt is split at white space; each window of 3, 5 or 7 words in a row is replaced, word by
    word, by the literal "[MASK]". The score is the mean over the answer's tokens of p(token) on the
    prompt minus the same on the masked prompt.

    * ``drop``: the tokens' probabilities are read where the answer is said, each after the ones
      before it (teacher-forced): the method as intended.
    * ``drop_as_coded``: as in the published code the k-th token, of the answer tokenised by itself,
      is read at position k of the prompt. Under a causal mask position k sees nothing but the first
      k + 1 tokens: with a one-token answer only windows with the first word can score, and after a
      start token none.

    Args:
        model: The model.
        case: The case.
        windows: Sizes of the windows, in words.
        target: Whose probability: ``associative`` or ``contextual``; its first form.

    Returns:
        `PublishedSpans`; ``top()`` is the published list of at most ten positive windows.

    Raises:
        InputError: A window has no words, there is no such side, or the case is chat messages.
        CaseError: The case lacks that answer.
        TokenError: As `dst.trace`.

    Source: METHOD 5 (C1, stage 3). Neighbouring words only, "[MASK]" is no word of a causal model,
    a window changes the number of tokens, and nothing tells a score from that of other windows.
    `dst.spans` differs in all four.
    """
    if not windows or min(windows) < 1:
        raise InputError(f"windows are {list(windows)}", expected="sizes of 1 word or more")
    if target not in ("associative", "contextual"):
        raise InputError(f"target is {target!r}", expected="associative or contextual")
    if not isinstance(case.prompt, str):
        raise InputError("The case is chat messages", expected="a prompt as text, with chat=True")
    if not getattr(case, target):
        raise CaseError(f"The case has no {target} answer", field=target)
    tokenizer = model.tokenizer
    tokenized = tokenize_case(tokenizer, case)
    answer = getattr(tokenized, target)[0]
    alone = [int(i) for i in tokenizer(answer.form.strip(), add_special_tokens=False)["input_ids"]]
    words = case.prompt.split()
    spans = [(i, n) for n in windows for i in range(len(words) - n + 1)]
    prompts: list[Prompt] = [case.prompt]
    prompts += [" ".join([*words[:i], *[MASK] * n, *words[i + n :]]) for i, n in spans]
    rows = [_ids(model, case, prompt) for prompt in prompts]
    said, start = _probabilities(model, rows, answer.ids, alone)
    unknown = unknown_id(tokenizer)
    is_unknown = unknown is not None and unknown in encode(tokenizer, MASK, special=False).ids
    notes = [*tokenized.notes]
    if is_unknown:
        notes.append(f"The tokenizer does not know {MASK!r}: the model reads its unknown token.")
    return PublishedSpans(
        case=case,
        target=answer.form,
        windows=tuple(" ".join(words[i : i + n]) for i, n in spans),
        starts=tuple(i for i, _ in spans),
        drop=said[0] - said[1:],
        drop_as_coded=start[0] - start[1:],
        positions=_positions(tokenizer, case, words, spans),
        mask_is_unknown=is_unknown,
        notes=tuple(notes),
        provenance=model.provenance(windows=list(windows), target=target),
    )


def _ids(model: Backend, case: Case, prompt: Prompt) -> tuple[int, ...]:
    rendered = render(model.tokenizer, case, prompt)
    return encode(model.tokenizer, rendered.text, special=rendered.special).ids


def _probabilities(
    model: Backend, rows: Sequence[Sequence[int]], answer: Sequence[int], alone: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """[row], twice: mean probability of an answer's tokens.

    First after the prompt, each token after those before it; then the k-th at position k of the
    prompt, of the answer tokenised by itself. One run gives both: later tokens change no
    earlier position.
    """
    said, start = np.empty(len(rows)), np.empty(len(rows))
    tokens = [*answer, *alone]
    size = max(1, MOST_TOKENS // (max(map(len, rows)) + len(answer)))
    for done in range(0, len(rows), size):
        part = rows[done : done + size]
        ids = [[*row, *answer[:-1]] for row in part]
        places = [
            [*range(len(row) - 1, len(row) - 1 + len(answer)),
             *(min(k, len(row) - 1) for k in range(len(alone)))]
            for row in part
        ]  # fmt: skip
        logits = model.run(ids, logits_at=places).logits.float().cpu().numpy()
        prob = np.exp(log_softmax(logits))[:, np.arange(len(tokens)), tokens]
        for i, row in enumerate(part):
            said[done + i] = prob[i, : len(answer)].mean()
            start[done + i] = prob[i, len(answer) :][: len(row)].mean()
    return said, start


def _positions(
    tokenizer: object, case: Case, words: Sequence[str], spans: Sequence[tuple[int, int]]
) -> tuple[tuple[int, ...], ...]:
    """The tokens of each window in the prompt as it is, through the template where there is one."""
    rendered = render(tokenizer, case)
    encoding = encode(tokenizer, rendered.text, special=rendered.special)
    found, place = [], rendered.content[-2 if case.is_chat else 0][0] if rendered.content else 0
    for word in words:
        place = rendered.text.find(word, place)
        found.append(encoding.positions([(place, place + len(word))]))
        place += len(word)
    return tuple(tuple(dict.fromkeys(chain.from_iterable(found[i : i + n]))) for i, n in spans)
