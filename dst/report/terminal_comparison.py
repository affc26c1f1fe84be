"""A comparison in a few lines of a terminal: sentences, then a row per quantity."""

from __future__ import annotations

from dst.core.comparison_results import Comparison
from dst.plot.text import visible
from dst.report.comparison_page import KINDS, grouped, spread_of, told, value_of
from dst.report.lines import Piece, cut, fit, painted, side, wrapped
from dst.report.terminal import in_ascii

_NAME = 32


def render_comparison_text(
    found: Comparison, *, colour: bool, width: int, ascii_only: bool = False
) -> str:
    """A comparison in about 30 lines.

    Args:
        found: What to tell.
        colour: Use terminal colours; nothing is said by colour alone.
        width: Columns to fill; under 72 is taken as 72.
        ascii_only: Use ASCII only, for terminals with another encoding.
    """
    width = max(width, 72)
    first, *rest = found.sentences
    blocks = [
        [*wrapped(first, width, "bold"), *_sides(found, width)],
        [line for text in rest for line in wrapped(text, width)],
        _table(found, width),
        [line for note in found.notes for line in wrapped(f"note: {note}", width, "dim")],
    ]
    text = "\n\n".join(
        "\n".join(painted(line, colour).rstrip() for line in block) for block in blocks if block
    )
    return (in_ascii(text) if ascii_only else text) + "\n"


def _sides(found: Comparison, width: int) -> list[list[Piece]]:
    """Which case and which model each of the two is."""
    lines: list[list[Piece]] = [[(KINDS.get(found.kind, found.kind), "dim")]]
    for name, report in zip(found.names, (found.a, found.b), strict=True):
        told_of = f"  {name}: {report.provenance.model or 'model'}: {report.case.text}"
        lines.append([(cut(visible(told_of), width), "dim")])
    return lines


def _table(found: Comparison, width: int) -> list[list[Piece]]:
    """A row per quantity that has a difference; the rest is on the page."""
    shown = [one for _, group in grouped(found) for one in group if one.value == one.value]
    head = f"{'':{_NAME}}{found.names[0][:8]:>8}{found.names[1][:8]:>8}  {'difference':<24}"
    lines: list[list[Piece]] = [[(head, "dim")]]
    for one in shown:
        a, b, value = (value_of(number, one.unit) for number in (one.a, one.b, one.value))
        if spread := spread_of(one.low, one.high, one.unit):
            value = f"{value} ({spread})"
        sign = "" if one.method == "exact" else told(one)
        lines.append(
            [
                (fit(one.name, _NAME), ""),
                (f"{a:>8}", ""),
                (f"{b:>8}", ""),
                (f"  {value:<24}", side(one.value) if one.told_apart else "dim"),
                (cut(f" {sign}", max(width - _NAME - 42, 0)), "dim"),
            ]
        )
    return lines
