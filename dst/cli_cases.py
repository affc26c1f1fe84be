"""``dst study cases``: a public data set, or rows of one's own, as a cases file."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dst.core.errors import InputError

EXAMPLES = """\
examples:
  dst study cases memotrap --path 1-proverb-ending.csv --out cases.jsonl
  dst study cases counterfact --limit 500 --option redefine=True --out cases.jsonl
  dst study cases own --path rows.csv --column prompt=text --column contextual=gold \\
      --out cases.jsonl
"""


def register(commands: Any) -> None:
    """Add ``cases`` to the commands of ``dst study``."""
    one = commands.add_parser(
        "cases",
        help="a data set as a cases file",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.add_argument("name", metavar="NAME", help="a data set, a Hugging Face id, or a file")
    one.add_argument("--out", metavar="FILE", required=True, help="the cases file to write")
    one.add_argument("--path", metavar="P", help="its file or folder (default: the hub's)")
    one.add_argument("--config", metavar="C", help="configuration on the hub")
    one.add_argument("--split", metavar="S", help="split on the hub")
    one.add_argument("--limit", metavar="N", type=int, help="stop after N cases")
    one.add_argument("--chat", action="store_true", help="send prompts through the chat template")
    many: dict[str, Any] = {"action": "append", "default": []}
    one.add_argument("--column", metavar="FIELD=COLUMN", **many, help="of rows of your own (again)")
    one.add_argument("--option", metavar="NAME=VALUE", **many, help="of the data set (again)")
    one.add_argument("--model", metavar="ID|DIR", help="asked for answers that the file lacks")
    one.add_argument("--json", action="store_true", help="print one JSON object instead")
    one.set_defaults(command=cases)


def cases(options: argparse.Namespace) -> int:
    """Write the cases of a data set and say what became of its rows."""
    from dst.cli import _doing, _load, _print, _print_json

    columns = dict(_pairs(options.column, "--column"))
    further = {name: _literal(value) for name, value in _pairs(options.option, "--option")}
    with _doing("reading"):
        from dst.studies.datasets import load_dataset

        model = _load(options.model) if options.model else None
        found = load_dataset(
            options.name,
            options.path,
            config=options.config,
            split=options.split,
            limit=options.limit,
            column_map=columns or None,
            chat=options.chat,
            model=model,
            **further,
        )
        written = found.save(options.out)
    if options.json:
        _print_json({"cases": str(written), "kind": found.kind, "report": found.report.to_dict()})
        return 0
    _print(f"{found.report}\n\n{len(found)} cases are in {written}; their label is {found.kind}.")
    _print(f"Next:  dst study run {Path(written)} --out DIR")
    return 0


def _pairs(given: Sequence[str], option: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise InputError(f"{option} is {text!r}", expected=f"{option} NAME=VALUE")
        if name in dict(pairs):
            raise InputError(f"{option} names {name!r} twice", expected="each once")
        pairs.append((name, value))
    return pairs


def _literal(value: str) -> Any:
    """A number, True, False or a text."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
