"""Text as a model reads it: the chat template, token ids, the characters of each token.

Special tokens are exactly those that the tokenizer or its template gives; the tokenizer
itself is never changed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dst.core.case import Case, Message, Prompt
from dst.core.errors import TokenError

Span = tuple[int, int]
"""A range of characters, its end not included."""


@dataclass(frozen=True)
class Rendered:
    """The exact text that a model reads, and where in it the user's own words are.

    Attributes:
        text: The text, through the chat template where there is one, with the prefix.
        special: Whether the tokenizer adds its special tokens (a template holds them).
        content: Character ranges of what the user or the reply wrote, not the template.
        fresh: Whether a reply begins right after this text.
        notes: What was done on the way, such as switching thinking off.
    """

    text: str
    special: bool
    content: tuple[Span, ...]
    fresh: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoding:
    """Text as tokens: ids, and the characters that each token covers.

    Attributes:
        text: The text.
        ids: Token ids, special tokens as the tokenizer gives them.
        offsets: Character range per token, white space at its ends left out; empty for
            special tokens.
    """

    text: str
    ids: tuple[int, ...]
    offsets: tuple[Span, ...]

    def positions(self, spans: Sequence[Span]) -> list[int]:
        """Positions of the tokens that overlap any of the character ranges."""
        return [
            i
            for i, (start, end) in enumerate(self.offsets)
            if any(start < stop and begin < end for begin, stop in spans)
        ]


# -- prompt to text ----------------------------------------------------------------------


def render(
    tokenizer: Any, case: Case, prompt: Prompt | None = None, prefix: str | None = None
) -> Rendered:
    """The text that the model reads: prompt and prefix, by default the case's own.

    Chat messages go through the tokenizer's own template, with the generation prompt and
    with thinking switched off where the template knows the switch.

    Raises:
        TokenError: The case is chat and the tokenizer has no template, or the template
            refuses the messages.
    """
    prompt = case.prompt if prompt is None else prompt
    prefix = case.prefix if prefix is None else prefix
    if not case.is_chat:
        text = f"{prompt}{prefix}"
        return Rendered(text, special=True, content=((0, len(text)),))
    if not getattr(tokenizer, "chat_template", None):
        raise TokenError(
            "The case is a chat and this model's tokenizer has no chat template",
            do="Give the prompt as text, or use an instruction-tuned model",
        )
    messages = case.messages(prompt)
    try:
        text = _through_template(tokenizer, messages)
    except Exception as error:  # noqa: BLE001 - a template is a program with errors of its own
        raise TokenError(
            f"The chat template refuses these messages ({error})",
            do="Check the roles and their order",
        ) from None
    notes = ["the prompt went through the model's chat template"]
    if "enable_thinking" in str(tokenizer.chat_template):
        notes.append("the model's thinking was switched off (enable_thinking=False)")
    content = _content(tokenizer, messages, text)
    if len(content) < len(messages):
        notes.append("the chat template changes a message; its words count as template")
    end = len(text)
    return Rendered(
        text=f"{text}{prefix}",
        special=False,
        content=(*content, (end, end + len(prefix))),
        fresh=not prefix,
        notes=tuple(notes),
    )


def _through_template(tokenizer: Any, messages: Sequence[Message]) -> str:
    return str(
        tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
    )


def _content(tokenizer: Any, messages: Sequence[Message], text: str) -> list[Span]:
    """Where each message's own words stand in the template's text.

    The template is run once more with a mark in place of each message: a message may
    contain a word of the template ("user"), so that looking for it is not enough.
    """
    marked = [{**m, "content": f"\ue000{i}\ue001"} for i, m in enumerate(messages)]
    try:
        frame = re.split("\ue000(\\d+)\ue001", _through_template(tokenizer, marked))
    except Exception:  # noqa: BLE001 - it took the messages, so it minds the marks
        frame = []
    place, spans = 0, list[Span]()
    for i, part in enumerate(frame):
        if i % 2:
            part = messages[int(part)]["content"]
            part = part if text.startswith(part, place) else part.strip()
            spans.append((place, place + len(part)))
        if not text.startswith(part, place):
            break
        place += len(part)
    else:
        if place == len(text):
            return spans
    # The template does more than to put the messages in: find them one after the other.
    place, spans = 0, []
    for message in messages:
        body = message["content"].strip()
        found = text.find(body, place)
        if found >= 0:
            place = found + len(body)
            spans.append((found, place))
    return spans


# -- text to ids -------------------------------------------------------------------------


def encode(tokenizer: Any, text: str, *, special: bool = True) -> Encoding:
    """Tokenise, with the character range of every token.

    Raises:
        TokenError: No tokens, two leading BOS, or a tokenizer that cannot say which
            characters its tokens cover.
    """
    try:
        coded = tokenizer(
            text, add_special_tokens=special, return_offsets_mapping=True, verbose=False
        )
    except NotImplementedError:
        raise TokenError(
            f"{type(tokenizer).__name__} cannot tell which characters its tokens cover",
            expected="a fast tokenizer",
            do="Load it with use_fast=True, or convert it to a tokenizer.json",
        ) from None
    ids = tuple(int(i) for i in coded["input_ids"])
    if not ids:
        raise TokenError("The prompt has no tokens", expected="text that the tokenizer can read")
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is not None and ids[:2] == (bos, bos):
        raise TokenError(
            "The prompt begins with the start token twice",
            do="Leave it out of the text: the tokenizer or the chat template adds it",
        )
    offsets = tuple(_trim(text, int(a), int(b)) for a, b in coded["offset_mapping"])
    return Encoding(text, ids, offsets)


def _trim(text: str, start: int, end: int) -> Span:
    """A character range without the white space at its ends (byte-level BPE keeps it)."""
    piece = text[start:end]
    left = len(piece) - len(piece.lstrip())
    right = len(piece) - len(piece.rstrip())
    return (start + left, end - right) if left < len(piece) else (start, start)


def token_texts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Each token as the text it stands for, its leading space kept where it has one."""
    return tuple(_token_text(tokenizer, int(i)) for i in ids)


def _token_text(tokenizer: Any, token: int) -> str:
    piece = tokenizer.convert_ids_to_tokens(token)
    if piece is None:  # a row of the unembedding beyond the tokenizer's words
        return f"<{token}>"
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    spaced = piece.startswith(_SPACE_MARKS) and not text.startswith(" ")
    return f" {text}" if spaced else text or piece


_SPACE_MARKS = ("\u2581", "\u0120")
"""How SentencePiece and byte-level BPE write a leading space."""


# -- unknown words -----------------------------------------------------------------------


def unknown_id(tokenizer: Any) -> int | None:
    """The id that stands for unknown words; None where there is none.

    GPT-2's unknown token is its end token, and never means "unknown".
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    ends = (getattr(tokenizer, "bos_token_id", None), getattr(tokenizer, "eos_token_id", None))
    return None if unknown in ends else unknown


def refuse_unknown(tokenizer: Any, encoding: Encoding) -> None:
    """Refuse text with words that the tokenizer does not know.

    Raises:
        TokenError: Names the words, and for each the three nearest known ones.
    """
    unknown = unknown_id(tokenizer)
    if unknown is None or unknown not in encoding.ids:
        return
    words = [
        encoding.text[start:end]
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
        if token == unknown
    ]
    shown = "; ".join(
        f"{word!r} (near it: {', '.join(nearest_words(tokenizer, word)) or 'nothing'})"
        for word in dict.fromkeys(words)
    )
    raise TokenError(
        f"The model does not know {shown}",
        do="Use words that it knows, or another model with --model",
    )


def nearest_words(tokenizer: Any, word: str, n: int = 3) -> list[str]:
    """The ``n`` words of the vocabulary that are spelled most like ``word``."""
    special = set(tokenizer.all_special_tokens)
    known: dict[str, str] = {}
    for token in tokenizer.get_vocab():
        plain = token.lstrip("".join(_SPACE_MARKS))
        if token not in special and plain:
            known.setdefault(plain.casefold(), plain)
    close = difflib.get_close_matches(word.casefold(), known, n=n, cutoff=0.0)
    return [known[match] for match in close]
