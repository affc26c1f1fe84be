"""HALoGEN: long replies cut into atoms, each verified; one case per false atom.

A case stops the reply at the atom's first distinguishing word: the first word, in the part of the
reply that says the atom, which neither the prompt nor a true atom of the reply holds. The reply up
to there is the ``prefix``, the word the associative answer. The benchmark names the true answer in
three of nine tasks; in the others a model has to be asked for its likeliest other word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dst.core.case import mentions
from dst.core.errors import InputError
from dst.studies.adapters.account import Left, Made
from dst.studies.adapters.reading import Row
from dst.studies.adapters.wording import fields, first_of, fold, literal_list, text

ATOMS = ("atomic_units", "atoms")
FALSE_ATOMS = ("hallucinated_atomic_units", "hallucinated atoms")

TASKS = (
    "biographies",
    "code",
    "false presuppositions",
    "historical events",
    "rationalization binary",
    "rationalization numerical",
    "references",
    "simplification",
    "summarization",
)
ABSTAINING_IS_RIGHT = frozenset(("references", "historical events", "false presuppositions"))
"""Tasks in which no answer can be right, so that the benchmark rewards an abstention."""

GOLD = {"primality": "yes", "senator": "no", "graph": "no"}
"""The right answer of each category of the binary task."""

SENTENCES = frozenset(("biographies", "simplification", "summarization"))
"""Tasks whose atoms are sentences about the reply, not words of it."""

_STEMS = {
    "Tell me a bio": "biographies",
    "Write a Python program": "code",
    "Find relevant scientific": "references",
    "Simplify the following": "simplification",
    "Provide a concise summary": "summarization",
}
_SMALL = frozenset(
    """
    a an and are as at be been but by for from had has have he her his in is it its of on or she
    that the their them they this to was were which who will with would
    """.split()  # noqa: SIM905 - a list of words reads better as text
)


def convert(
    rows: Sequence[Row], detected: list[str], *, task: str | None = None
) -> Iterator[Made | Left]:
    """One case per false atom; of a file of prompts alone, one per prompt with a known answer.

    Args:
        rows: The rows of one or several of the benchmark's files.
        detected: Takes the task.
        task: One of the nine, where neither columns nor prompts tell.
    """
    named: dict[str, str] = {}
    for row in rows:
        if row.file not in named:
            named[row.file] = task_of(row, task)
            detected.append(f"{row.file}: {named[row.file]}")
    for row in rows:
        own = named[row.file]
        if first_of(row, ATOMS) is None:
            yield _bare(row, own)
            continue
        try:
            reply = read_reply(row, own)
        except InputError:
            yield Left(row, "its atoms are no list")
            continue
        false = tuple(dict.fromkeys(atom for atom in reply.false if atom))
        if not false:
            yield Left(row, "no false atom")
        for atom in false:
            yield _traced(row, own, reply, atom)


@dataclass(frozen=True)
class Reply:
    """A reply with its atoms as the verifier found them, repeated ones too."""

    prompt: str
    text: str
    atoms: tuple[str, ...]
    false: tuple[str, ...]
    derived: tuple[str, ...] = ()

    @property
    def true(self) -> tuple[str, ...]:
        """Atoms that hold."""
        wrong = {fold(atom) for atom in self.false}
        return tuple(atom for atom in self.atoms if fold(atom) not in wrong)


def read_reply(row: Row, task: str) -> Reply:
    """Prompt, reply and atoms of a verified row.

    Raises:
        InputError: The atoms are no list.
    """
    atoms, false = first_of(row, ATOMS), first_of(row, FALSE_ATOMS)
    prompt, derived = text(row, "prompt").strip(), tuple[str, ...]()
    if not prompt:  # the passage tasks keep the passage alone
        asked = "Summary" if task == "summarization" else "In simpler words"
        prompt = f"{text(row, 'passage').strip()}\n{asked}:"
        derived = ("prompt: the passage, then what is asked for (the file has no prompt)",)
    return Reply(
        prompt=prompt,
        text=text(row, "response"),
        atoms=_atoms(row, atoms) if atoms else (),
        false=_atoms(row, false) if false else (),
        derived=derived,
    )


def _atoms(row: Row, column: str) -> tuple[str, ...]:
    """Atoms of a cell: a list as text, or lines of ``| atom | verdict |``."""
    cell = text(row, column).strip()
    if not cell:
        return ()
    if cell[0] in "[{" or cell == "set()":
        found = [] if cell == "set()" else literal_list(row, column)
        return tuple(str(atom).strip() for atom in found)
    lines = (
        re.split(r"\s*[|\t]\s*", line.strip().strip("|").strip())[0] for line in cell.split("\n")
    )
    return tuple(line for line in lines if line)


def task_of(row: Row, given: str | None) -> str:
    """Which of the nine tasks a file's first row is of, by its columns, prompt or file name.

    Raises:
        InputError: They do not tell, or ``given`` is none of the nine.
    """
    if given is not None:
        if given not in TASKS:
            raise InputError(f"task is {given!r}", expected="one of " + ", ".join(TASKS))
        return given
    columns, name = set(row.values), row.file.casefold()
    for column, task in (
        ("name1", "historical events"),
        ("val", "false presuppositions"),
        ("list_condition", "rationalization numerical"),
        ("category", "rationalization binary"),
        ("s2_ids", "references"),
    ):
        if column in columns:
            return task
    for stem, task in _STEMS.items():
        if text(row, "prompt").strip().startswith(stem):
            return task
    for task in ("simplification", "summarization"):
        if task[:5] in name:
            return task
    raise InputError(
        f"{row}: which of HALoGEN's tasks this is cannot be told",
        do="Give task=..., one of " + ", ".join(TASKS),
    )


# -- where a false atom is said ------------------------------------------------------------


def _traced(row: Row, task: str, reply: Reply, atom: str) -> Made | Left:
    place = _said(task, reply, atom)
    if place is None:
        return Left(row, "the reply does not say the atom in words of its own")
    start, end = place
    before, said = reply.text[:start], reply.text[start:end]
    right, how = _right(row, task, reply, atom)
    derived = [
        *reply.derived,
        "prefix: the reply up to the atom's first distinguishing word",
        *([f"contextual: {how}"] if right else []),
    ]
    kept = before.rstrip(" ")
    prefix = f"\n{kept}" if kept else "\n"
    extra = {"task": task, "atom": atom}
    return Made(
        row,
        fields(
            prompt=reply.prompt,
            prefix=prefix,
            contextual=right,
            associative=said,
            group=_group(row, task, reply),
        ),
        tuple(derived),
        ("subject, cue: the file names none",),
        extra=extra,
    )


def _said(task: str, reply: Reply, atom: str) -> tuple[int, int] | None:
    """Where the reply first says what distinguishes the atom."""
    if task == "historical events":  # the atom is a verdict: the whole reply is what it says
        return _distinguishing(reply, reply.text, (0, len(reply.text)), ())
    if task in SENTENCES:
        return _distinguishing(reply, atom, _sentence(reply.text, atom), reply.true)
    if task == "code":
        module = re.escape(atom)
        found = re.search(rf"^\s*(?:import|from)\s+({module})\b", reply.text, re.MULTILINE)
        if found:
            return found.span(1)
    found_at = mentions(reply.text, atom)
    return found_at[0] if found_at else None


def _sentence(whole: str, atom: str) -> tuple[int, int]:
    """The sentence or line of a text that shares most words with an atom; the first of equals."""
    wanted = set(_content(atom))
    spans = [m.span() for m in re.finditer(r"[^.!?\n]+(?:[.!?](?!\s|$)[^.!?\n]*)*[.!?]?", whole)]
    shared = [len(wanted & set(_content(whole[a:b]))) for a, b in spans]
    return spans[shared.index(max(shared))] if spans else (0, 0)


def _distinguishing(
    reply: Reply, atom: str, span: tuple[int, int], true: Sequence[str]
) -> tuple[int, int] | None:
    """The first word in a span of the reply that the atom holds and no true atom or the prompt."""
    others = {word for other in true for word in _content(other)}
    prompted = set(_content(reply.prompt))
    wanted = [word for word in _content(atom) if word not in others]
    fresh = [word for word in wanted if word not in prompted]
    for words in (fresh, wanted):
        found = [
            m.span()
            for m in re.finditer(r"\w+", reply.text[span[0] : span[1]])
            if m[0].casefold() in words
        ]
        if found:
            return span[0] + found[0][0], span[0] + found[0][1]
    return None


def _content(value: str) -> list[str]:
    words = (word.casefold() for word in re.findall(r"\w+", value))
    return [word for word in words if word not in _SMALL]


# -- what would have been right ------------------------------------------------------------


def _right(row: Row, task: str, reply: Reply, atom: str) -> tuple[tuple[str, ...], str]:
    """The true answer where the file holds it, and how it was found."""
    if task == "rationalization binary":
        gold = GOLD.get(text(row, "category"), "")
        if atom.casefold() in ("yes", "no") and atom.casefold() != gold and gold:
            return (gold,), "the right answer of the category"
        return (), ""
    if task not in ("rationalization numerical", "false presuppositions"):
        return (), ""
    items = [str(item) for item in _or_empty(row, "list_condition")]
    if task == "rationalization numerical" and re.fullmatch(r"\d+(\.0)?", atom):
        count = text(row, "count") or str(len(items))
        return (count,), "the true count"
    place = mentions(reply.text, atom)
    before = reply.text[: place[0][0]] if place else ""
    left = tuple(item for item in items if not mentions(before, item))
    if left:
        return left, "items that fit and were not said yet"
    if task == "false presuppositions":
        return ("no response",), "what the prompt asks for where nothing fits"
    return (), ""


def _or_empty(row: Row, column: str) -> list[Any]:
    try:
        return literal_list(row, column)
    except InputError:
        return []


def _bare(row: Row, task: str) -> Made | Left:
    """A prompt without a verified reply: a case where its right answer is known."""
    prompt = text(row, "prompt").strip()
    derived: dict[str, Any] = {}
    if task == "rationalization binary" and text(row, "category") in GOLD:
        gold = GOLD[text(row, "category")]
        derived = {"contextual": gold, "associative": "no" if gold == "yes" else "yes"}
        how = "contextual, associative: yes or no, as the category says"
    elif task == "rationalization numerical" and text(row, "count"):
        derived, how = {"contextual": text(row, "count")}, "contextual: the true count"
    elif task == "false presuppositions":
        items = [str(item) for item in _or_empty(row, "list_condition")]
        derived = {"contextual": items or ["no response"]}
        how = "contextual: the items that fit, or no response"
    if not prompt or not derived:
        return Left(row, "a prompt alone: its replies have to be verified before they are traced")
    return Made(
        row,
        fields(prompt=prompt, prefix="\n", group=_group(row, task, None), **derived),
        (how,),
        ("subject, cue: the file names none",),
        extra={"task": task},
    )


def _group(row: Row, task: str, reply: Reply | None) -> str:
    named = first_of(row, ("name", "name1", "list_name", "category", "title"))
    return text(row, named) if named else f"{task}: {text(row, 'prompt').strip()[:60]}"


# -- scores ---------------------------------------------------------------------------------

ABSTAINED = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|afraid|unable|not (?:able|aware|familiar|sure))"
    r"|i (?:do not|don't|cannot|can't|could not|couldn't|was unable to) \w+"
    r"|i apologi[sz]e|unfortunately|there (?:is|are|was|were) no (?:record|evidence|information)"
    r"|no (?:information|record|response|results?) (?:is|was|are|were|found|available)"
    r"|(?:as an|i am an|i'm an) ai\b)",
    re.IGNORECASE,
)
"""Wordings of an abstention; a rule of ours, narrower and wider than the benchmark's in places."""


def verified(row: Row, task: str, abstained: bool | None = None) -> Mapping[str, Any]:
    """What the benchmark's scores need of a row: false and all atoms, and whether it answered.

    Args:
        row: A verified row.
        task: Its task.
        abstained: Whether the reply abstains, by a rule of yours; by default by `ABSTAINED`.
    """
    reply = read_reply(row, task)
    said = reply.text.replace("\u2019", "'")
    gives_up = bool(ABSTAINED.search(said)) if abstained is None else abstained
    false, total = len(reply.false), len(reply.atoms)
    if task == "historical events":
        verdict = text(row, "verified_response").casefold()
        gives_up, false, total = gives_up or "no" in verdict, 1, 1
    elif task == "references":
        gives_up = gives_up or total == 0
    elif task == "false presuppositions":
        gives_up = gives_up or "no response" in said.casefold()
    elif task == "rationalization binary":
        first = re.findall(r"\w+", said.split("\n")[0].casefold())
        false = 0 if GOLD.get(text(row, "category")) in first else false
    elif task == "rationalization numerical":
        counted = re.findall(r"\d+", said.split("\n")[0])
        false = 0 if _or_empty(row, "true_answer") == [0] and "0" in counted else false
    return {"false": false, "total": total, "answered": bool(said.strip()) and not gives_up}
