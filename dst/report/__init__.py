"""One account of one case, to be read: an offline HTML page, and a few lines of text."""

from __future__ import annotations

from dst.report.page import render_page, write_page
from dst.report.terminal import render_text

__all__ = ["render_page", "write_page", "render_text"]
