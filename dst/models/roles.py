"""Roles: what each position of a prompt is to the case (METHOD 0)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from dst.core.case import Case, mentions
from dst.core.errors import TokenError
from dst.models.text import Encoding, Rendered, Span


def assign_roles(
    tokenizer: Any, case: Case, rendered: Rendered, encoding: Encoding, n_shared: int
) -> tuple[str, ...]:
    """One role per position, the first that fits.

    answer, bos, subject_1..n, cue, template, question, distractor, relay, rest. A relay
    lies between the first token of cue or subject and the last mention of the subject.

    Raises:
        TokenError: A subject, cue, question or distractor has no token in what the user
            or the reply wrote.
    """

    def mentioned(name: str, spans: Sequence[str | None]) -> list[list[int]]:
        """The positions of each mention of each span."""
        found: list[list[int]] = []
        for span in filter(None, spans):
            each = [encoding.positions([place]) for place in find_mentions(rendered, span)]
            if not any(each):
                raise TokenError(
                    f"The {name} {span!r} has no token of its own",
                    expected="text of the prompt, as it is written there",
                )
            found.extend(each)
        return found

    subject = mentioned("subject", [case.subject])
    cue = list(chain.from_iterable(mentioned("cue", case.cue)))
    roles = ["rest"] * (len(encoding.ids) + n_shared)

    def put(role: str, *positions: Iterable[int]) -> None:
        for i in chain.from_iterable(positions):
            roles[i] = role

    # From the weakest claim to the strongest, so that the strongest stays.
    if subject:
        every = list(chain.from_iterable(subject))
        put("relay", range(min(every + cue), max(every)))
    put("distractor", *mentioned("distractor", case.distractor))
    put("question", *mentioned("question", [case.question]))
    if case.is_chat:
        inside = set(encoding.positions(rendered.content))
        put("template", (i for i in range(len(encoding.ids)) if i not in inside))
    put("cue", cue)
    for number, positions in enumerate(subject, start=1):
        put(f"subject_{number}", positions)
    if encoding.ids[0] == getattr(tokenizer, "bos_token_id", None):
        put("bos", [0])
    put("answer", [len(roles) - 1])
    return tuple(roles)


def find_mentions(rendered: Rendered, span: str) -> list[Span]:
    """Character ranges of every mention in what the user or the reply wrote."""
    return [
        (start, end)
        for start, end in mentions(rendered.text, span)
        if any(a <= start and end <= b for a, b in rendered.content)
    ]
