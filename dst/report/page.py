"""The report as one HTML file; its sections are listed in `dst.report.sections`."""

from __future__ import annotations

from pathlib import Path

from dst.core.files import write_text_atomic
from dst.core.results import Report
from dst.report.document import drawn, render_document, render_part
from dst.report.rows import account, headline
from dst.report.sections import SECTIONS, anchor_of


def write_page(report: Report, path: str | Path) -> Path:
    """Write the page atomically, and return where it is.

    Raises:
        ResultError: The path cannot be written.
    """
    return write_text_atomic(path, render_page(report))


def render_page(report: Report) -> str:
    """The page of one report: one HTML document of about 5 MB, nearly all of it Plotly."""
    there = [section for section in SECTIONS if section.present(report)]
    titles = {section.name: section.title_of(report) for section in there}
    sections = [
        (
            section.name,
            titles[section.name],
            render_part(
                f"sections/{section.name}.html",
                report=report,
                name=section.name,
                plot=drawn(section.figure(report)) if section.figure else None,
                **section.values(report),
            ),
        )
        for section in there
    ]
    claims = [(claim, anchor_of(claim, titles)) for claim in account(report)]
    return render_document(
        "page.html",
        title=headline(report),
        outcome=report.outcome,
        claims=[(claim, anchor, titles.get(anchor, "")) for claim, anchor in claims],
        sections=sections,
    )
