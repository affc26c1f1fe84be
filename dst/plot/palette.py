"""The colours of figures, prompts and scores.

They are Okabe and Ito's, or near them, which people with any common colour blindness can tell
apart; each has a contrast of at least 3 to 1 on white and on the dark page. No distinction
rests on colour alone: symbols, dashes and places repeat it.
"""

from __future__ import annotations

CONTEXTUAL = "#0072B2"
ASSOCIATIVE = "#D55E00"
OTHER = "#7A7F87"
SCORE_COLOURS = (CONTEXTUAL, "#A8588A", "#00805E", "#A67C00", OTHER, ASSOCIATIVE)
"""Colours of scores, in order, again from the first after the last; here none means a side."""


def side_colour(value: float) -> str:
    """Contextual above zero, associative below."""
    return CONTEXTUAL if value > 0 else ASSOCIATIVE if value < 0 else OTHER


def side_symbol(value: float) -> str:
    """The marker that repeats what `side_colour` says: a circle, a diamond below zero."""
    return "diamond" if value < 0 else "circle"
