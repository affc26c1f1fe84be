"""``dst compare``: two saved reports held against each other."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from typing import Any

from dst.core.errors import InputError


def add_commands(commands: Any) -> None:
    """Register ``dst compare``."""
    one = commands.add_parser("compare", help="two saved reports: what differs, and by how much")
    one.add_argument("a", metavar="A.npz", help="a report, as `dst trace --out DIR` writes it ...")
    one.add_argument("b", metavar="B.npz", help="... and another: of the same model, or case")
    one.add_argument("--names", metavar="NAME", nargs=2, default=("A", "B"), help="of the two")
    one.add_argument("--seed", metavar="S", type=int, default=0, help="of the bootstrap (0)")
    one.add_argument("--out", metavar="DIR", help="write comparison.html and comparison.npz there")
    one.add_argument("--json", action="store_true", help="print one JSON object instead")
    one.set_defaults(command=compare)


def compare(options: argparse.Namespace) -> int:
    """Compare two reports, and write a page with both if that is asked."""
    from contextlib import ExitStack

    from dst.cli import _doing, _output, _print, _print_json, _prints_unicode
    from dst.studies.compare import compare as compared

    reports = [_report(name) for name in (options.a, options.b)]
    found = compared(*reports, names=tuple(options.names), seed=options.seed)
    written: dict[str, str] = {}
    with ExitStack() as stack:
        if options.out:
            folder = stack.enter_context(_output(options.out))
            with _doing("writing the page"):
                written = {
                    "page": str(found.to_html(folder / "comparison.html")),
                    "result": str(found.save(folder / "comparison.npz")),
                }
    if options.json:
        _print_json(
            {
                "kind": found.kind,
                "names": list(found.names),
                "sentences": list(found.sentences),
                "differences": found.to_records(),
                "notes": list(found.notes),
                **written,
            }
        )
        return 0
    from dst.report.terminal_comparison import render_comparison_text

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = min(shutil.get_terminal_size((80, 24)).columns, 110)
    text = render_comparison_text(
        found, colour=colour, width=width, ascii_only=not _prints_unicode()
    )
    _print(text.rstrip("\n"))
    if written:
        _print(f"\nOpen {written['page']} in a browser; {written['result']} holds every number.")
    else:
        _print("\nAdd --out DIR for the page and the numbers.")
    return 0


def _report(name: str) -> Any:
    """A saved report.

    Raises:
        ResultError: The file cannot be read.
        InputError: It holds another result.
    """
    from dst.core.results import Report, open_result

    found = open_result(name)
    if not isinstance(found, Report):
        raise InputError(
            f"{name} holds a {type(found).__name__}",
            expected="a report",
            do="Give report.npz of `dst trace ... --out DIR`, or what report.save wrote",
        )
    return found
