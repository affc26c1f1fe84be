"""The account of one case, or of two held against each other: a page, or a few lines of text."""

from __future__ import annotations

from dst.report.comparison_page import render_comparison, write_comparison
from dst.report.page import render_page, write_page
from dst.report.terminal import render_text
from dst.report.terminal_comparison import render_comparison_text

__all__ = [
    "render_comparison",
    "render_comparison_text",
    "render_page",
    "render_text",
    "write_comparison",
    "write_page",
]
