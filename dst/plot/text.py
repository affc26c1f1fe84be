"""Text of prompts, models and numbers, made fit to be shown.

What a model or a prompt says may hold anything: tags, terminal escapes, characters that
turn the reading direction. `visible` shows such characters instead of obeying them.
"""

from __future__ import annotations

import html
import math
import unicodedata

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Characters that reorder or break what stands around them. Zero-width joiners stay: emoji
# and several scripts are written with them.
_UNRULY = frozenset(
    "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
)


def visible(text: str, keep: str = "") -> str:
    """``text`` with control, direction-turning and unpaired surrogate characters written out.

    Args:
        text: Any text.
        keep: Characters to leave as they are, such as a line break.
    """
    return "".join(
        char if char in keep or not _is_unruly(char) else _SHORT.get(char, _escape(char))
        for char in text
    )


def word(text: str) -> str:
    """A token as a word: `visible`, without white space around it; ``␣`` if that was all."""
    return visible(text.strip(" ")) or "␣"


def short(text: str, most: int = 12) -> str:
    """A token as a word of at most ``most`` characters, the last an ellipsis if it was cut."""
    shown = word(text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def label(text: str) -> str:
    """``text`` for a figure: `visible`, and neither tags nor formulas for Plotly to read.

    Plotly reads a few HTML tags in every text, and a dollar sign as the start of a formula
    where MathJax is loaded, as it is in notebooks.
    """
    return html.escape(visible(text), quote=False).replace("$", "&#36;")


def number(value: float, digits: int = 2) -> str:
    """``value`` with a fixed number of digits and a real minus sign; ``NaN`` if undefined."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    shown = f"{value:.{digits}f}"
    if float(shown) == 0:
        shown = shown.lstrip("-")
    return shown.replace("-", "−")


def probability(value: float) -> str:
    """A probability with two digits; what would round to nothing is shown as ``<0.01``."""
    return "<0.01" if 0 < value < 0.005 else number(value)


def state_number(value: float) -> str:
    """A state, or an end of its interval, which may lie between two: ``3``, ``2.4``."""
    return number(value, 1).removesuffix(".0")


def state_name(state: float, n_layers: int | None = None) -> str:
    """A state in words: ``embedding``, or ``after block 3`` (``of 12`` where L is given)."""
    if state == 0:
        return "embedding"
    return f"after block {state:g}" + (f" of {n_layers}" if n_layers else "")


def _is_unruly(char: str) -> bool:
    return char in _UNRULY or unicodedata.category(char) in ("Cc", "Cs")


def _escape(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"
