"""`Case`: one prompt, what its context supports, and what association would say.

A case is what a person types and what a line of a cases file holds. It knows no
tokenizer: which tokens its roles and answers become is decided in `dst.models.tokens`.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from dst.core.errors import CaseError

Message = Mapping[str, str]
"""One chat message: ``{"role": "user", "content": "..."}``."""

Prompt = str | tuple[Message, ...]
"""A prompt as text, or as chat messages that go through the model's template."""


@dataclass(frozen=True)
class AlignedPrompt:
    """A variant with more than a prompt: spans that correspond, or a prefix of its own.

    In JSON: ``{"prompt": "...", "aligned": [["at the lake", "near the old stone bridge"]]}``.

    Attributes:
        prompt: Text, or chat messages.
        aligned: For a variant of another length, the spans that correspond: (in the
            prompt, in the variant). Outside them both texts must be the same.
        prefix: Text of the reply before the answer; by default the case's.
    """

    prompt: Prompt
    aligned: tuple[tuple[str, str], ...] = ()
    prefix: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", _prompt("prompt", self.prompt))
        pairs = self.aligned if isinstance(self.aligned, (list, tuple)) else (self.aligned,)
        for pair in pairs:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise _bad(
                    "aligned", f"{pair!r}", "pairs: a span of the prompt, one of the variant"
                )
        spans = tuple(_texts("aligned", pair) for pair in pairs)
        object.__setattr__(self, "aligned", tuple((a, b) for a, b in spans))
        if self.prefix is not None:
            _text("prefix", self.prefix)


Variant = Prompt | AlignedPrompt
"""A variant of a prompt: as long in tokens as the prompt, or with its spans aligned."""

Texts = str | Sequence[str]
"""What a field of several texts takes: one of them, or some."""

Written = str | Sequence[Message] | AlignedPrompt | Mapping[str, Any]
"""A prompt or variant as it is given: text, chat messages, or aligned (as an object of JSON)."""

VARIANTS = ("swap", "neutral", "substitute", "clean")
ALIASES = {"factual_answer": "contextual", "hallucinated_answer": "associative"}


@dataclass(frozen=True)
class Case:
    """One prompt with its two answers, its roles and its variants (METHOD 0).

    Every field that holds several texts also takes one text. The answer is read right
    after ``prompt`` + ``prefix``.

    Attributes:
        prompt: Text, or chat messages. Text with ``chat=True`` becomes one user message.
        contextual: Forms of the answer that the context supports (A+).
        associative: Forms of the answer that association supports (A-). May be empty:
            `dst.explain` then asks the model for its own answer.
        subject: The word whose mentions carry the association; all whole-word mentions count.
        cue: Spans that carry the context; a cue may be a sentence that holds the subject.
            Like every span, it may stand in the prompt, the system message or the prefix.
        question: Span of the question, if there is one.
        distractor: Spans that are neither cue nor subject nor question.
        prefix: Text of the reply before the answer, teacher-forced.
        chat: Send a text prompt through the chat template as a user message.
        system: System message placed before the prompt (chat only).
        swap: The prompt with the cue of the other sense. One text or draws.
        neutral: The prompt with a neutral cue (x_0). One text or draws.
        substitute: The prompt with the subject replaced by an unrelated noun, cue kept
            (x_sub). One text or draws.
        clean: The prompt without distractors; compared by outcome, so its length is free.
        paraphrases: Other wordings of the same prompt.
        twin_question: For a yes/no prompt, the same prompt asking for the other sense.
        context_words: Concept words of the context (V_c), never an answer.
        competing_words: Concept words of the association (V_a), never an answer.
        label: What is known of the outcome, if anything.
        group: Unit for grouped statistics, such as the ambiguous word.
        case_id: Stable name; by default the first 12 digits of the content's SHA-256.

    Raises:
        CaseError: A field is empty, of the wrong type, or contradicts another; names the
            field, what was found and what was expected.
    """

    prompt: Prompt
    contextual: tuple[str, ...] = ()
    associative: tuple[str, ...] = ()
    subject: str | None = None
    cue: tuple[str, ...] = ()
    question: str | None = None
    distractor: tuple[str, ...] = ()
    prefix: str = ""
    chat: bool = False
    system: str | None = None
    swap: tuple[Variant, ...] = ()
    neutral: tuple[Variant, ...] = ()
    substitute: tuple[Variant, ...] = ()
    clean: tuple[Variant, ...] = ()
    paraphrases: tuple[Prompt, ...] = ()
    twin_question: Prompt | None = None
    context_words: tuple[str, ...] = ()
    competing_words: tuple[str, ...] = ()
    label: str | None = None
    group: str | None = None
    case_id: str = field(default="")

    if TYPE_CHECKING:  # what may be given; the fields above say what it becomes

        def __init__(
            self,
            prompt: str | Sequence[Message],
            contextual: Texts = (),
            associative: Texts = (),
            subject: str | None = None,
            cue: Texts = (),
            question: str | None = None,
            distractor: Texts = (),
            prefix: str = "",
            chat: bool = False,
            system: str | None = None,
            swap: Written | Sequence[Written] = (),
            neutral: Written | Sequence[Written] = (),
            substitute: Written | Sequence[Written] = (),
            clean: Written | Sequence[Written] = (),
            paraphrases: Written | Sequence[Written] = (),
            twin_question: str | Sequence[Message] | None = None,
            context_words: Texts = (),
            competing_words: Texts = (),
            label: str | None = None,
            group: str | None = None,
            case_id: str = "",
        ) -> None: ...

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("prompt", _prompt("prompt", self.prompt))
        for name in ("contextual", "associative", "cue", "distractor"):
            put(name, _texts(name, getattr(self, name)))
        for name in ("context_words", "competing_words"):
            put(name, _texts(name, getattr(self, name)))
        for name in (*VARIANTS, "paraphrases"):
            put(name, _draws(name, getattr(self, name)))
        for name in ("subject", "question", "system", "label", "group"):
            value = getattr(self, name)
            put(name, None if value is None else _filled(name, value))
        if self.twin_question is not None:
            put("twin_question", _prompt("twin_question", self.twin_question))
        for name in ("prefix", "case_id"):
            put(name, _text(name, getattr(self, name)))
        if not isinstance(self.chat, bool):
            raise _bad("chat", f"{self.chat!r}", "true or false")
        self._check_chat()
        self._check_spans()
        self._check_answers()
        self._check_word_lists()
        if not self.case_id:
            put("case_id", self.content_hash()[:12])

    # -- reading ---------------------------------------------------------------------

    @property
    def is_chat(self) -> bool:
        """Whether the prompt goes through the model's chat template."""
        return self.chat or not isinstance(self.prompt, str)

    @property
    def text(self) -> str:
        """What the user wrote: the prompt, or the contents of the messages, a line each."""
        return text_of(self.prompt)

    def messages(self, prompt: Prompt | None = None) -> tuple[Message, ...]:
        """The chat messages of ``prompt`` (by default the case's own).

        A variant given as text replaces the last user message of a case given as messages.
        """
        prompt = self.prompt if prompt is None else prompt
        if not isinstance(prompt, str):
            return prompt
        if isinstance(self.prompt, str):
            head = ({"role": "system", "content": self.system},) if self.system else ()
            return (*head, {"role": "user", "content": prompt})
        last = max(i for i, message in enumerate(self.prompt) if message["role"] == "user")
        replaced = {**self.prompt[last], "content": prompt}
        return (*self.prompt[:last], replaced, *self.prompt[last + 1 :])

    def replace(self, **changes: Any) -> Case:
        """A copy with some fields changed; its ``case_id`` is made anew unless given."""
        return dataclasses.replace(self, **{"case_id": "", **changes})

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, as JSON types; ``Case.from_dict`` reads them back."""
        values: dict[str, Any] = {}
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if value in ((), None, "", False):
                continue
            values[spec.name] = _jsonable(value)
        return values

    def content_hash(self) -> str:
        """SHA-256 of everything but the ``case_id``, as hexadecimal."""
        content = {key: value for key, value in self.to_dict().items() if key != "case_id"}
        return hashlib.sha256(
            json.dumps(content, sort_keys=True, ensure_ascii=False).encode("utf-8")
        ).hexdigest()

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Case:
        """Read the fields of a mapping; ``factual_answer`` and ``hallucinated_answer`` are aliases.

        Raises:
            CaseError: A field is unknown (the nearest known one is named), given twice
                through its alias, missing, or malformed.
        """
        if not isinstance(row, Mapping):
            raise _bad("row", f"{type(row).__name__}", "a JSON object with a prompt")
        known = [spec.name for spec in dataclasses.fields(cls)]
        values: dict[str, Any] = {}
        for key, value in row.items():
            name = ALIASES.get(key, key)
            if name not in known:
                near = difflib.get_close_matches(str(key), [*known, *ALIASES], n=1)
                hint = f"did you mean {near[0]}" if near else "one of " + ", ".join(known)
                raise _bad(str(key), "a field of this name", hint)
            if name in values:
                raise _bad(str(key), "the field and its alias", "one of the two")
            if value is not None:
                values[name] = value
        if "prompt" not in values:
            raise _bad("prompt", "no prompt", "the text that the model reads")
        return cls(**values)

    # -- checks ----------------------------------------------------------------------

    def _check_chat(self) -> None:
        if self.system is not None and not self.chat:
            raise _bad("system", "a system message without chat", "chat=True")
        if self.system is not None and not isinstance(self.prompt, str):
            raise _bad("system", "a system message beside chat messages", "it as the first message")
        if self.is_chat:
            return
        for name in (*VARIANTS, "paraphrases", "twin_question"):
            value = getattr(self, name)
            texts = value if name != "twin_question" else (value or "",)
            if not all(isinstance(prompt_of(text), str) for text in texts):
                raise _bad(name, "chat messages", "text, as the prompt is")

    def _check_spans(self) -> None:
        texts = (self.text, self.system or "", self.prefix)
        for name in ("subject", "cue", "distractor", "question"):
            value = getattr(self, name)
            for span in (value,) if isinstance(value, str) else value or ():
                if not any(_stands(text, span) for text in texts):
                    raise _bad(
                        name,
                        f"{span!r}, which is not in the prompt",
                        "text of the prompt, as it is written there",
                    )

    def _check_answers(self) -> None:
        if not self.contextual:
            raise _bad("contextual", "no answer", "what the context supports")
        shared = {_fold(form) for form in self.contextual} & {
            _fold(form) for form in self.associative
        }
        if shared:
            raise _bad(
                "associative",
                f"{sorted(shared)[0]!r}, which is also a contextual answer",
                "two different answers",
            )

    def _check_word_lists(self) -> None:
        context = {_fold(word) for word in self.context_words}
        competing = {_fold(word) for word in self.competing_words}
        if both := context & competing:
            raise _bad(
                "competing_words",
                f"{sorted(both)[0]!r}, which is also a context word",
                "two lists without a common word",
            )
        answers = {_fold(form) for form in (*self.contextual, *self.associative)}
        for name, words in (("context_words", context), ("competing_words", competing)):
            if hit := words & answers:
                raise _bad(
                    name,
                    f"{sorted(hit)[0]!r}, which is an answer",
                    "concept words that are no answers (else the score restates the output)",
                )


class CaseList(list[Case]):
    """Cases that were read, and in ``rejected`` the rows that could not be."""

    def __init__(self, cases: Sequence[Case] = (), rejected: Sequence[BadRow] = ()) -> None:
        super().__init__(cases)
        self.rejected = tuple(rejected)


@dataclass(frozen=True)
class BadRow:
    """A row that is no case: its line (1-based), the field, and why."""

    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.field}: {self.reason}"


def load_cases(
    path: str | Path, *, on_error: Literal["raise", "skip"] = "raise", limit: int | None = None
) -> CaseList:
    """Read a cases file: JSON Lines, one case a line, the fields of `Case`.

    Args:
        path: The file. Empty lines are passed over.
        on_error: ``"raise"`` reports every bad row at once; ``"skip"`` keeps the good rows
            and lists the bad in ``.rejected``.
        limit: Read at most this many cases.

    Raises:
        CaseError: The file cannot be read, holds no case, has two cases of one id, or
            (with ``on_error="raise"``) has bad rows.
    """
    if on_error not in ("raise", "skip"):
        raise CaseError(f"on_error is {on_error!r}", expected="'raise' or 'skip'")
    if limit is not None and limit < 1:
        raise CaseError(f"limit is {limit}", expected="1 or more, or None for all")
    cases: list[Case] = []
    rejected: list[BadRow] = []
    seen: dict[str, int] = {}
    for line, text in _lines(Path(path)):
        if limit is not None and len(cases) >= limit:
            break
        try:
            case = Case.from_dict(_parse(text))
            if case.case_id in seen:
                raise _bad("case_id", f"{case.case_id!r}, as on line {seen[case.case_id]}", "one")
            seen[case.case_id] = line
            cases.append(case)
        except CaseError as error:
            rejected.append(BadRow(line, error.field or "row", str(error)))
    if rejected and on_error == "raise":
        shown = "; ".join(str(row) for row in rejected[:20])
        more = f"; and {len(rejected) - 20} more" if len(rejected) > 20 else ""
        raise CaseError(
            f"{path} has {len(rejected)} bad row(s): {shown}{more}",
            do="Mend them, or read the others with on_error='skip'",
        )
    if not cases:
        bad = f", and {len(rejected)} bad row(s), first {rejected[0]}" if rejected else ""
        raise CaseError(f"{path} holds no case{bad}", expected="one JSON object a line")
    return CaseList(cases, rejected)


def prompt_of(variant: Variant) -> Prompt:
    """A variant's prompt, without its alignment."""
    return variant.prompt if isinstance(variant, AlignedPrompt) else variant


def text_of(prompt: Prompt) -> str:
    """A prompt's text: itself, or its messages' contents, a line each."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(message["content"] for message in prompt)


def mentions(text: str, span: str) -> list[tuple[int, int]]:
    """Character ranges of every whole-word mention of ``span`` in ``text``, ignoring case.

    A mention begins and ends where words do: ``bass`` is found in "a bass." and not in
    "bassoon". In scripts that put no space between words it may be anywhere. Runs of white
    space in the span match any white space. Mentions do not overlap.
    """
    words = span.split()
    if not words:
        return []
    body = r"\s+".join(re.escape(word) for word in words)
    found: list[tuple[int, int]] = []
    for match in re.finditer(f"(?=({body}))", text, re.IGNORECASE):
        start, end = match.span(1)
        whole = not (_inside_word(text, start) or _inside_word(text, end))
        if whole and (not found or start >= found[-1][1]):
            found.append((start, end))
    return found


def _stands(text: str, span: str) -> bool:
    """Whether ``mentions(text, span)`` finds any; a span as it is written needs no search."""
    start = text.find(span) if span.strip() == span else -1
    if start >= 0:
        end = start + len(span)
        if not (_inside_word(text, start) or _inside_word(text, end)):
            return True
    return bool(mentions(text, span))


def unspaced(character: str) -> bool:
    """Whether a script writes this character without spaces between words."""
    return (
        unicodedata.east_asian_width(character) in ("W", "F")
        or unicodedata.name(character, "").partition(" ")[0] in _UNSPACED_SCRIPTS
    )


_UNSPACED_SCRIPTS = frozenset(("THAI", "LAO", "KHMER", "MYANMAR"))


def _inside_word(text: str, place: int) -> bool:
    """Whether a word runs on across this place; accents and vowel signs belong to it."""
    if not 0 < place < len(text):
        return False
    pair = text[place - 1 : place + 1]
    if pair.isascii():  # the same rule, without looking up each character
        return pair.replace("_", "a").isalnum()
    return all((c == "_" or unicodedata.category(c)[0] in "LMN") and not unspaced(c) for c in pair)


# -- normalising ------------------------------------------------------------------------


def _bad(name: str, found: str, expected: str = "text") -> CaseError:
    return CaseError(f"The field {name} is wrong: found {found}", expected=expected, field=name)


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _bad(name, f"{value!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _bad(name, f"{value!r}, which is no valid Unicode") from None
    return value


def _filled(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _bad(name, f"{value!r}", "text that is not empty")
    return _text(name, value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)):
        raise _bad(name, f"{value!r}", "a text or a list of texts")
    return tuple(_filled(name, item) for item in values)


def _prompt(name: str, value: Any) -> Prompt:
    if isinstance(value, str):
        if not value.strip():
            raise _bad(name, "an empty text", "the text that the model reads")
        return _text(name, value)
    if not isinstance(value, (list, tuple)) or not value:
        raise _bad(name, f"{value!r}", "text, or chat messages")
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise _bad(name, f"{message!r}", 'messages like {"role": "user", "content": "..."}')
        for part in (*message, *message.values()):
            _text(name, part)
    if not any(message["role"] == "user" for message in value):
        raise _bad(name, "messages without one of the user", "at least one user message")
    return tuple(dict(message) for message in value)


def _draws(name: str, value: Any) -> tuple[Variant, ...]:
    """One variant or several: a list of messages is one chat, a list of texts is draws."""
    one_chat = isinstance(value, (list, tuple)) and value and _is_message(value[0])
    if isinstance(value, (str, Mapping, AlignedPrompt)) or one_chat:
        value = (value,)
    if not isinstance(value, (list, tuple)):
        raise _bad(name, f"{value!r}", "a prompt or a list of prompts")
    return tuple(_variant(name, item) for item in value)


def _variant(name: str, value: Any) -> Variant:
    if isinstance(value, str):
        return _prompt(name, value)
    if isinstance(value, AlignedPrompt):
        return value
    if not isinstance(value, Mapping):
        return _prompt(name, value)
    if "prompt" not in value or not set(value) <= {"prompt", "aligned", "prefix"}:
        raise _bad(name, f"{dict(value)!r}", 'text, or {"prompt": ..., "aligned": [[from, to]]}')
    return AlignedPrompt(value["prompt"], value.get("aligned", ()), value.get("prefix"))


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and "role" in value


def _jsonable(value: Any) -> Any:
    if isinstance(value, AlignedPrompt):
        pairs = {"aligned": [list(pair) for pair in value.aligned]} if value.aligned else {}
        prefix = {} if value.prefix is None else {"prefix": value.prefix}
        return {"prompt": _jsonable(value.prompt)} | pairs | prefix
    if isinstance(value, tuple):
        items = [_jsonable(item) for item in value]
        return items[0] if len(items) == 1 and isinstance(items[0], str) else items
    return dict(value) if isinstance(value, Mapping) else value


def _parse(text: str) -> Mapping[str, Any]:
    try:
        return cast(Mapping[str, Any], json.loads(text))
    except json.JSONDecodeError as error:
        raise _bad("row", f"no JSON ({error.msg} at column {error.colno})", "one object") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 1,000 brackets
        raise _bad("row", f"JSON that cannot be read ({error})", "one object") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CaseError(f"The cases file {path} does not exist", do="Check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CaseError(
            f"The cases file {path} cannot be read ({error})", expected="UTF-8 JSON Lines"
        ) from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line
