"""Text to token ids and back: the one path that every measurement goes through.

A case becomes ids, a role per position, an answer position i*, and the answers' first
tokens at the place where the two answers part (METHOD 0). Special tokens are exactly
those that the tokenizer gives; the tokenizer itself is never changed.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dst.core.case import Case, Prompt, mentions
from dst.core.errors import TokenError

Span = tuple[int, int]


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


@dataclass(frozen=True)
class Rendered:
    """The exact text that a model reads, and where in it the user's own words are.

    Attributes:
        text: The text, through the chat template where there is one, with the prefix.
        special: Whether the tokenizer adds its special tokens (a template holds them).
        content: Character ranges of what the user or the reply wrote, not the template.
        notes: What was done on the way, such as switching thinking off.
    """

    text: str
    special: bool
    content: tuple[Span, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """One form of an answer, tokenised in place (METHOD 0)."""

    form: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class TokenizedCase:
    """A case as a model sees it.

    Attributes:
        case: The case.
        encoding: Text, ids and offsets of prompt + prefix, without the shared tokens.
        ids: Token ids up to and with i*: prompt, prefix, shared answer tokens.
        tokens: Each id as text.
        roles: One role per position.
        shared: Ids of the answer tokens that both answers begin with (teacher-forced).
        contextual: The forms of A+ that are read at i*.
        associative: The forms of A- that are read at i*.
        dropped: Forms that are not read, each with its reason.
        notes: What was done on the way.
    """

    case: Case
    encoding: Encoding
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    shared: tuple[int, ...]
    contextual: tuple[Answer, ...]
    associative: tuple[Answer, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def answer_position(self) -> int:
        """i*, the last position."""
        return len(self.ids) - 1

    @property
    def contextual_ids(self) -> tuple[int, ...]:
        """The tokens of A+ at the first divergence, each once."""
        return _first_ids(self.contextual, len(self.shared))

    @property
    def associative_ids(self) -> tuple[int, ...]:
        """The tokens of A- at the first divergence, each once."""
        return _first_ids(self.associative, len(self.shared))

    def positions_of(self, role: str) -> list[int]:
        """Positions of a role; ``subject`` means all its mentions."""
        if role == "subject":
            return [i for i, name in enumerate(self.roles) if name.startswith("subject_")]
        return [i for i, name in enumerate(self.roles) if name == role]


def tokenize_case(tokenizer: Any, case: Case) -> TokenizedCase:
    """Ids, roles and answers of a case; both answers must be given.

    Raises:
        TokenError: A word is unknown to the tokenizer (the nearest known ones are named),
            an answer cannot be tokenised in place, or one answer is a prefix of the other.
    """
    rendered = render(tokenizer, case)
    encoding = encode(tokenizer, rendered.text, special=rendered.special)
    refuse_unknown(tokenizer, encoding)
    contextual, dropped_c = forms_in_place(tokenizer, rendered, encoding, case.contextual)
    associative, dropped_a = forms_in_place(tokenizer, rendered, encoding, case.associative)
    shared, contextual, associative, parted = first_divergence(contextual, associative)
    ids = encoding.ids + shared
    return TokenizedCase(
        case=case,
        encoding=encoding,
        ids=ids,
        tokens=token_texts(tokenizer, ids),
        roles=assign_roles(tokenizer, case, rendered, encoding, len(shared)),
        shared=shared,
        contextual=contextual,
        associative=associative,
        dropped=(*dropped_c, *dropped_a, *parted),
        notes=rendered.notes,
    )


# -- text ------------------------------------------------------------------------------


def render(tokenizer: Any, case: Case, prompt: Prompt | None = None) -> Rendered:
    """The text that the model reads for ``prompt`` (by default the case's own), with the prefix.

    Chat messages go through the tokenizer's own template, with the generation prompt and
    with thinking switched off where the template knows the switch.

    Raises:
        TokenError: The case is chat and the tokenizer has no template, or the template
            refuses the messages.
    """
    prompt = case.prompt if prompt is None else prompt
    if not case.is_chat:
        text = f"{prompt}{case.prefix}"
        return Rendered(text, special=True, content=((0, len(text)),))
    if not getattr(tokenizer, "chat_template", None):
        raise TokenError(
            "The case is a chat and this model's tokenizer has no chat template",
            do="Give the prompt as text, or use an instruction-tuned model",
        )
    messages = [dict(message) for message in case.messages(prompt)]
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except Exception as error:  # a template is a program of its own; its errors are its own
        raise TokenError(
            f"The chat template refuses these messages ({error})",
            do="Check the roles and their order",
        ) from None
    content, start = [], 0
    for message in messages:
        found = text.find(message["content"].strip(), start)
        if found >= 0:
            start = found + len(message["content"].strip())
            content.append((found, start))
    notes = ("the prompt went through the model's chat template",)
    if "enable_thinking" in tokenizer.chat_template:
        notes = (*notes, "the model's thinking was switched off (enable_thinking=False)")
    end = len(text)
    return Rendered(
        f"{text}{case.prefix}", False, (*content, (end, end + len(case.prefix))), notes
    )


def encode(tokenizer: Any, text: str, *, special: bool = True) -> Encoding:
    """Tokenise, with the character range of every token.

    Raises:
        TokenError: No tokens, two leading BOS, or a tokenizer that cannot say which
            characters its tokens cover.
    """
    try:
        coded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
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


def token_texts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Each token as the text it stands for, its leading space kept where it has one."""
    return tuple(_token_text(tokenizer, int(i)) for i in ids)


def refuse_unknown(tokenizer: Any, encoding: Encoding) -> None:
    """Refuse text with words that the tokenizer does not know.

    Raises:
        TokenError: Names the words, and for each the three nearest known ones.
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    ends = (getattr(tokenizer, "bos_token_id", None), getattr(tokenizer, "eos_token_id", None))
    if unknown is None or unknown not in encoding.ids or unknown in ends:
        return  # GPT-2's unknown token is its end token, and never means "unknown"
    words = [
        encoding.text[a:b] for i, (a, b) in zip(encoding.ids, encoding.offsets, strict=True)
        if i == unknown and b > a
    ]  # fmt: skip
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
    known = [token for token in tokenizer.get_vocab() if token not in special]
    close = difflib.get_close_matches(word.lower(), known, n=n, cutoff=0.0)
    return list(close)


# -- answers -----------------------------------------------------------------------------


def forms_in_place(
    tokenizer: Any, rendered: Rendered, encoding: Encoding, forms: Sequence[str]
) -> tuple[tuple[Answer, ...], tuple[str, ...]]:
    """Tokenise answers where they stand: ids(prompt + form) minus ids(prompt) (METHOD 0).

    To each form its variants are added (leading space, first capital) as far as they keep
    the prompt's own tokens, hold nothing unknown, decode back, and take no more tokens
    than the form as given.

    Returns:
        The forms that are used, those given first; and what was dropped, with reasons.

    Raises:
        TokenError: A given form cannot be tokenised in place at all.
    """
    used: dict[tuple[int, ...], Answer] = {}
    dropped: list[str] = []
    extra: list[Answer] = []
    for form in forms:
        kept: list[Answer] = []
        reasons: list[str] = []
        for candidate in _spellings(rendered.text, form):
            ids, reason = _in_place(tokenizer, rendered, encoding, candidate)
            if not reason and kept and len(ids) > len(kept[0].ids):
                reason = "takes more tokens than the form as given"
            if reason:
                reasons.append(f"{candidate!r}: {reason}")
            else:
                kept.append(Answer(candidate, ids))
        if not kept:
            raise _no_form(tokenizer, rendered, form, reasons)
        used.setdefault(kept[0].ids, kept[0])
        extra.extend(kept[1:])
        dropped.extend(reasons)
    for answer in extra:
        used.setdefault(answer.ids, answer)
    return tuple(used.values()), tuple(dropped)


def first_divergence(
    contextual: Sequence[Answer], associative: Sequence[Answer]
) -> tuple[tuple[int, ...], tuple[Answer, ...], tuple[Answer, ...], tuple[str, ...]]:
    """Where the two answers part: the tokens they share, and the forms that part right there.

    Returns:
        The shared leading tokens of the first given forms (teacher-forced), the forms of
        each answer that begin with them and go on differently, and what was dropped.

    Raises:
        TokenError: The first given forms are equal, or one is a prefix of the other.
    """
    if not associative:
        return (), tuple(contextual), (), ()
    plus, minus = contextual[0], associative[0]
    n_shared = 0
    while n_shared < min(len(plus.ids), len(minus.ids)) and (
        plus.ids[n_shared] == minus.ids[n_shared]
    ):
        n_shared += 1
    if n_shared == min(len(plus.ids), len(minus.ids)):
        raise TokenError(
            f"The answers {plus.form!r} and {minus.form!r} are the same tokens, or one begins "
            "with the other",
            expected="two answers that part at some token",
        )
    shared = plus.ids[:n_shared]
    dropped: list[str] = []

    def parts_here(answer: Answer) -> bool:
        if answer.ids[:n_shared] == shared and len(answer.ids) > n_shared:
            return True
        dropped.append(f"{answer.form!r}: parts from the other answer at another token")
        return False

    kept_plus = [answer for answer in contextual if parts_here(answer)]
    kept_minus = [answer for answer in associative if parts_here(answer)]
    both = {a.ids[n_shared] for a in kept_plus} & {a.ids[n_shared] for a in kept_minus}
    both -= {plus.ids[n_shared], minus.ids[n_shared]}
    ambiguous = [a for a in (*kept_plus, *kept_minus) if a.ids[n_shared] in both]
    # A further form of one answer may begin like the first form of the other.
    ambiguous += [a for a in kept_plus if a.ids[n_shared] == minus.ids[n_shared]]
    ambiguous += [a for a in kept_minus if a.ids[n_shared] == plus.ids[n_shared]]
    dropped.extend(f"{a.form!r}: begins like a form of the other answer" for a in ambiguous)
    return (
        shared,
        tuple(a for a in kept_plus if a not in ambiguous),
        tuple(a for a in kept_minus if a not in ambiguous),
        tuple(dropped),
    )


def _spellings(prompt: str, form: str) -> list[str]:
    """A form and its variants, the natural one after this prompt first."""
    bare = form.strip()
    capital = bare[:1].upper() + bare[1:]
    spaced = [f" {bare}", f" {capital}"]
    plain = [bare, capital]
    last = prompt[-1:]
    if last.isspace():
        order = plain  # a second space would be a text nobody writes
    elif _wide(last) or _wide(bare[0]) or unicodedata.category(last) in ("Ps", "Pi") or last in "\"'":
        order = plain + spaced
    elif last.isalnum() and bare[0].isalnum():
        order = spaced  # glued to the prompt's last word it would be another word
    else:
        order = spaced + plain
    return list(dict.fromkeys([form, *order] if form in order[:1] or form != bare else order))


def _wide(character: str) -> bool:
    """Whether a script writes this character without spaces between words."""
    return unicodedata.east_asian_width(character) in ("W", "F")


def _in_place(
    tokenizer: Any, rendered: Rendered, encoding: Encoding, form: str
) -> tuple[tuple[int, ...], str]:
    whole = encode(tokenizer, rendered.text + form, special=rendered.special).ids
    n_prompt = len(encoding.ids)
    ids = whole[n_prompt:]
    if whole[:n_prompt] != encoding.ids or not ids:
        return (), "changes the prompt's own tokens"
    if getattr(tokenizer, "unk_token_id", None) in ids and tokenizer.decode(ids).strip() != (
        form.strip()
    ):
        return (), "is unknown to the tokenizer"
    if tokenizer.decode(ids).strip() != form.strip():
        return (), f"decodes to {tokenizer.decode(ids)!r}"
    return ids, ""


def _no_form(tokenizer: Any, rendered: Rendered, form: str, reasons: list[str]) -> TokenError:
    if any("unknown" in reason or "decodes" in reason for reason in reasons):
        near = ", ".join(nearest_words(tokenizer, form.strip()))
        return TokenError(
            f"The model does not know the answer {form!r} (near it: {near or 'nothing'})",
            do="Give an answer that it can say",
        )
    if rendered.text[-1:].isspace():
        return TokenError(
            f"The answer {form!r} cannot follow a prompt that ends in white space",
            do="Remove the space at the end of the prompt: it belongs to the answer",
        )
    return TokenError(
        f"The answer {form!r} cannot follow this prompt ({'; '.join(reasons)})",
        expected="an answer that leaves the prompt's tokens as they are",
        do="End the prompt at the end of a word",
    )


def _first_ids(answers: Sequence[Answer], place: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(answer.ids[place] for answer in answers))


# -- roles -------------------------------------------------------------------------------


def assign_roles(
    tokenizer: Any, case: Case, rendered: Rendered, encoding: Encoding, n_shared: int
) -> tuple[str, ...]:
    """One role per position, the first that fits (METHOD 0).

    answer, bos, subject_1..n, cue, template, question, distractor, relay, rest. A relay
    lies between the first token of cue or subject and the last mention of the subject.

    Raises:
        TokenError: The subject is in the prompt but no token of it is the user's text.
    """

    def found(span: str) -> list[Span]:
        return [
            place
            for place in mentions(rendered.text, span)
            if any(a <= place[0] and place[1] <= b for a, b in rendered.content)
        ]

    roles = ["rest"] * (len(encoding.ids) + n_shared)
    subject = found(case.subject) if case.subject else []
    cue = [place for span in case.cue for place in found(span)]
    subject_tokens, cue_tokens = encoding.positions(subject), encoding.positions(cue)
    if case.subject and not subject_tokens:
        raise TokenError(
            f"The subject {case.subject!r} has no token of its own",
            expected="a word of the prompt",
        )
    if subject_tokens:
        first = min([*subject_tokens, *cue_tokens])
        for i in range(first, max(subject_tokens)):
            roles[i] = "relay"

    def put(role: str, positions: Sequence[int]) -> None:
        for i in positions:
            roles[i] = role

    # From the weakest claim to the strongest, so that the strongest stays.
    for span in case.distractor:
        put("distractor", encoding.positions(found(span)))
    if case.question:
        put("question", encoding.positions(found(case.question)))
    if case.is_chat:
        inside = set(encoding.positions(rendered.content))
        put("template", [i for i in range(len(encoding.ids)) if i not in inside])
    put("cue", cue_tokens)
    for number, place in enumerate(subject, start=1):
        put(f"subject_{number}", encoding.positions([place]))
    if encoding.ids[0] == getattr(tokenizer, "bos_token_id", None):
        put("bos", [0])
    put("answer", [len(roles) - 1])
    return tuple(roles)


# -- helpers -----------------------------------------------------------------------------


def _trim(text: str, start: int, end: int) -> Span:
    """A character range without the white space at its ends (byte-level BPE keeps it)."""
    piece = text[start:end]
    left = len(piece) - len(piece.lstrip())
    right = len(piece) - len(piece.rstrip())
    return (start + left, end - right) if left < len(piece) else (start, start)


def _token_text(tokenizer: Any, token: int) -> str:
    """One token as text; SentencePiece's and byte-level BPE's space marks become spaces."""
    piece = tokenizer.convert_ids_to_tokens(token)
    if piece is None:
        return f"<{token}>"
    text = str(tokenizer.decode([token]))
    spaced = re.match(r"^[\u2581\u0120]", piece) is not None
    return f" {text}" if spaced and not text.startswith(" ") else text or piece
