"""Control directions of a concept: as the concept to some words, and random to everything else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

MOST_INSIDE = 0.1
"""Share of a concept's squared norm that words with common controls hold of it, at most."""

SAME = 1e-9
"""A word this close to the span of others, as a share of its norm, lies in it."""


@dataclass(frozen=True)
class Group:
    """Words that share controls.

    Attributes:
        words: By number.
        basis: Orthonormal rows that span them.
    """

    words: Int[np.ndarray, " word"]
    basis: Float[np.ndarray, "rank d_model"]


def groups(
    direction: Float[np.ndarray, " d_model"], words: Float[np.ndarray, "word d_model"]
) -> list[Group]:
    """Words in groups that share controls: the least like the concept first.

    A control keeps what the span of its group holds of v, so a group is closed before that is
    more than `MOST_INSIDE` of |v|^2. A word that holds more by itself is alone, and its controls
    are those of METHOD 6 to the letter.

    Args:
        direction: v, of norm 1.
        words: The rows of the words.
    """
    norm = np.linalg.norm(words, axis=1, keepdims=True)
    unit = np.divide(words, norm, out=np.zeros_like(words), where=norm > 0)
    order = np.argsort(np.abs(unit @ direction), kind="stable")
    out: list[Group] = []
    members: list[int] = []
    basis, inside = unit[:0], 0.0
    for i in order.tolist():
        new = _beyond(unit[i], basis)
        held = float(((new @ direction) ** 2).sum())
        if members and inside + held > MOST_INSIDE:
            out.append(Group(np.array(members), basis))
            members, basis, inside = [], unit[:0], 0.0
            new = _beyond(unit[i], basis)
            held = float(((new @ direction) ** 2).sum())
        members.append(i)
        basis, inside = np.concatenate([basis, new]), inside + held
    return [*out, Group(np.array(members), basis)] if members else out


def matched_directions(
    direction: Float[np.ndarray, " d_model"],
    group: Group,
    n: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "n d_model"]:
    """``n`` random unit directions u with u . w = direction . w for every word w of a group.

        u = P v + |v - P v| r,   P the projection on the span of the words, r random beyond it

    So u has v's norm and v's cosine to every word at once, and is else as far from v as chance
    has it: one control serves all of them. Where v lies in their span, u is v.
    """
    basis = group.basis
    inside = basis.T @ (basis @ direction)
    beyond = rng.normal(size=(n, len(direction)))
    beyond -= beyond @ basis.T @ basis
    beyond /= np.linalg.norm(beyond, axis=1, keepdims=True)
    return inside + np.sqrt(max(0.0, 1 - float(inside @ inside))) * beyond


def _beyond(
    word: Float[np.ndarray, " d_model"], basis: Float[np.ndarray, "rank d_model"]
) -> Float[np.ndarray, "new d_model"]:
    """The direction that a word of norm 1 adds to a basis; none if it lies in it."""
    rest = word - basis.T @ (basis @ word)
    rest -= basis.T @ (basis @ rest)  # once more, against rounding
    norm = np.linalg.norm(rest)
    return rest[None][:0] if norm < SAME else rest[None] / norm
