"""CounterFact in its three layouts: a fact, and an object that contradicts it.

``comp-mech`` puts the contradiction into the prompt ("Redefine: X is made by B. X is made by"): the
context supports B, the fact A is the association. The other two hold the bare prompt, where A is
right; ``redefine=True`` makes of them what comp-mech has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dst.core.case import mentions
from dst.studies.adapters.account import Left, Made
from dst.studies.adapters.reading import Row
from dst.studies.adapters.wording import MISSING, aligned, fields, fold, has, text

COMP_MECH = frozenset(("prompt", "template", "target_true", "target_new"))
TRACING = frozenset(("prompt", "subject", "target_true", "target_false"))
NESTED = frozenset(("requested_rewrite",))
REDEFINE = "Redefine"


def convert(
    rows: Sequence[Row], detected: list[str], *, redefine: bool = False
) -> Iterator[Made | Left]:
    """One case a row.

    Args:
        rows: The rows.
        detected: Takes the layout's name.
        redefine: For the bare layouts: state the contradiction first, so that the context
            supports it and the fact is the association.
    """
    columns = set(rows[0].values)
    if columns >= COMP_MECH:
        detected.append("layout: comp-mech, the contradiction stands in the prompt")
        yield from map(_in_context, rows)
        return
    nested = columns >= NESTED
    name = "requested_rewrite (azhx)" if nested else "counterfact-tracing"
    detected.append(f"layout: {name}, the bare prompt" + (", redefined" if redefine else ""))
    for row in rows:
        fact = _nested(row) if nested else _flat(row)
        if fact is None:
            yield Left(row, MISSING)
        elif redefine:
            yield _redefined(row, fact)
        else:
            yield Made(
                row,
                fields(
                    prompt=fact["prompt"],
                    contextual=fact["true"],
                    associative=fact["false"],
                    subject=fact["subject"],
                    paraphrases=fact["paraphrases"],
                    group=fact["subject"],
                ),
                lacking=(NO_CUE,),
                extra={"relation_id": fact["relation"]},
            )


NO_CUE = "cue: a bare fact has no context (redefine=True states one)"


def _in_context(row: Row) -> Made | Left:
    if not has(row, *COMP_MECH):
        return Left(row, MISSING)
    true, new = text(row, "target_true"), text(row, "target_new")
    stem, base = text(row, "template"), text(row, "base_prompt")
    subject = text(row, "subject").strip()
    fact = {"prompt": base, "true": true, "false": new, "subject": subject, "relation": None}
    if text(row, "prompt") != stem.replace("{}", REDEFINE, 1).replace("{}", new, 1):
        return Left(row, "the prompt is not its template with the new object")
    return _context_case(row, fact, stem)


def _redefined(row: Row, fact: Mapping[str, Any]) -> Made | Left:
    stem = f"{{}}: {fact['prompt']}{{}}. {fact['prompt']}"
    return _context_case(row, fact, stem, ("prompt: the contradiction stated first",))


def _context_case(
    row: Row, fact: Mapping[str, Any], stem: str, derived: tuple[str, ...] = ()
) -> Made | Left:
    """The case of a stem with two gaps, the second the object that the context states."""
    head, middle, tail = stem.replace("{}", REDEFINE, 1).partition("{}")
    new, true, subject = fact["false"], fact["true"], fact["subject"]
    prompt, swap = f"{head}{new}{tail}", f"{head}{true}{tail}"
    lacking = []
    if not middle or fold(new) == fold(true):
        return Left(row, "the two objects are the same")
    if not subject:
        lacking.append("subject: this file names none")
    elif subject.endswith(".") and not mentions(prompt, subject):
        subject = subject.rstrip(".")
        derived = (*derived, "subject: its final full stop is dropped")
    cue = new.strip()
    places = mentions(prompt, cue)
    if len(places) > 1:  # the object is a word of the stem too: take the stem's last words with it
        cue = f"{head.split()[-1]} {cue}"
        derived = (*derived, "cue: the stated object with the word before it")
    else:
        derived = (*derived, "cue: the stated object")
    return Made(
        row,
        fields(
            prompt=prompt,
            contextual=new,
            associative=true,
            subject=subject,
            cue=cue,
            swap=aligned(prompt, swap),
            group=subject or fold(true),
        ),
        (*derived, "swap: the fact stated instead of the contradiction"),
        tuple(lacking),
        extra={"relation_id": fact["relation"]} if fact["relation"] else {},
    )


def _flat(row: Row) -> Mapping[str, Any] | None:
    if not has(row, *TRACING):
        return None
    return {
        "prompt": text(row, "prompt"),
        "true": text(row, "target_true"),
        "false": text(row, "target_false"),
        "subject": text(row, "subject").strip(),
        "relation": text(row, "relation_id") or None,
        "paraphrases": (),
    }


def _nested(row: Row) -> Mapping[str, Any] | None:
    asked = row.values.get("requested_rewrite")
    if not isinstance(asked, Mapping):
        return None
    true, new = asked.get("target_true"), asked.get("target_new")
    stem, subject = asked.get("prompt"), asked.get("subject")
    if not (isinstance(true, Mapping) and isinstance(new, Mapping) and stem and subject):
        return None
    if not (true.get("str") and new.get("str") and "{}" in str(stem)):
        return None
    return {
        "prompt": str(stem).replace("{}", str(subject), 1),
        "true": str(true["str"]),
        "false": str(new["str"]),
        "subject": str(subject),
        "relation": asked.get("relation_id"),
        "paraphrases": tuple(row.values.get("paraphrase_prompts") or ()),
    }
