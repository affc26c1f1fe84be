"""Which words and which components carry a flow: picked from results, nothing is computed anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dst.core.results import Attribution, Pathways


@dataclass(frozen=True)
class WordCarrier:
    """A role that carries a flow before the answer, and its words.

    Attributes:
        role: The role.
        words: The text at its positions, in the prompt's order; ``…`` stands between its spans.
        first: First state at which it carries the flow.
        last: Last such state; L if it still carries it then.
        state: The state at which its removal costs most.
        removal: What LD loses there when the role is replaced, mean over draws, in logits.
        control: Root mean square of the same when one neutral draw replaces another; NaN for the
            associative flow and for a single draw.
    """

    role: str
    words: str
    first: int
    last: int
    state: int
    removal: float
    control: float


@dataclass(frozen=True)
class ComponentCarrier:
    """A head, MLP or other component and its part of a flow, in logits.

    Attributes:
        name: As in `Attribution.components`.
        part: Its contextual or associative part.
        total: The same part of all components together.
    """

    name: str
    part: float
    total: float


def word_carriers(paths: Pathways, tokens: Sequence[str], flow: str) -> list[WordCarrier]:
    """Roles before the answer that carry ``flow``, from the earliest on; see `WordCarrier`.

    A role carries a flow while its removal is at half of its largest value or more, as its marks
    of arrival and departure say (METHOD 2a); one whose removal stays under the floor does not.

    Args:
        paths: The two flows.
        tokens: The prompt's tokens.
        flow: ``contextual`` or ``associative``.
    """
    marks = {(mark.name, mark.definition): mark for mark in paths.marks}
    removal = getattr(paths, f"{flow}_removal").mean(axis=0)
    found = []
    for i, role in enumerate(paths.roles):
        there = marks.get(("arrival", f"{flow} flow at {role}"))
        if role == "answer" or there is None or there.reason:
            continue
        gone = marks.get(("departure", f"{flow} flow at {role}"))
        stays = gone is None or math.isnan(gone.state)
        state = int(np.abs(removal[:, i]).argmax())
        known = flow == "contextual"
        found.append(
            WordCarrier(
                role=role,
                words=spoken(tokens, paths.positions[i]),
                first=int(there.state),
                last=len(removal) - 1 if stays or gone is None else int(gone.state) - 1,
                state=state,
                removal=float(removal[state, i]),
                control=float(paths.draw_against_draw[state, i]) if known else math.nan,
            )
        )
    return sorted(found, key=lambda one: one.first)


def component_carriers(parts: Attribution, flow: str, most: int = 5) -> list[ComponentCarrier]:
    """The components with the largest part in a flow, the largest first.

    Args:
        parts: The attribution.
        flow: ``contextual`` or ``associative``.
        most: How many; those under a hundredth of the largest are left out.
    """
    values = getattr(parts, flow)
    total, largest = float(values.sum()), float(np.abs(values).max(initial=0.0))
    order = np.argsort(-np.abs(values), kind="stable")[:most]
    return [
        ComponentCarrier(parts.components[i], float(values[i]), total)
        for i in order
        if abs(values[i]) > 0.01 * largest
    ]


def spoken(tokens: Sequence[str], positions: Sequence[int]) -> str:
    """The text at some positions, its spans apart by ``…``."""
    gap, spans = separator(tokens), list[str]()
    for before, i in zip((None, *positions), positions, strict=False):
        if before is not None and i == before + 1:
            spans[-1] += gap + tokens[i]
        else:
            spans.append(tokens[i])
    return " … ".join(span.strip() or span for span in spans)


def separator(tokens: Sequence[str]) -> str:
    """What stands between tokens when they are read as text: nothing, or a space.

    Tokens of a byte-level vocabulary bring their own leading spaces; those of a word-level
    vocabulary do not.
    """
    return "" if any(token.startswith((" ", "\n")) for token in tokens[1:]) else " "
