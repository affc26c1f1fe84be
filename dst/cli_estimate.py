"""``dst estimate``: what a prompt or a file of cases will cost, before it starts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dst.core.errors import InputError


def add_commands(commands: Any) -> None:
    """Register ``dst estimate``."""
    from dst.cli import _case_options, _engine_options

    one = commands.add_parser(
        "estimate", help="forward passes, time and memory of a trace or a study, beforehand"
    )
    one.add_argument(
        "prompt", metavar="CASES.jsonl|PROMPT",
        help="a cases file, as `dst study run` takes it, or a prompt, with the options of "
        "`dst trace`",
    )  # fmt: skip
    one.add_argument("--model", metavar="ID|DIR", default="embedded", help="(default: embedded)")
    one.add_argument("--draws", metavar="N", type=int, default=8, help="variants to draw (8)")
    one.add_argument("--limit", metavar="N", type=int, help="of a file: only the first N cases")
    one.add_argument("--failure", action="store_true", help="of a file: with failure modes")
    one.add_argument("--infer", action="store_true", help="of a file: infer cues and subjects")
    one.add_argument("--json", action="store_true", help="print one JSON object instead")
    _case_options(one, required=False)
    _engine_options(one)
    one.set_defaults(command=estimate)


def estimate(options: argparse.Namespace) -> int:
    """Say what a file of cases, or one prompt, will cost."""
    from dst.cli import _doing, _engine, _load, _print, _print_json

    if options.draws < 1:
        raise InputError(f"--draws is {options.draws}", expected="1 or more")
    cases, how = _asked(options)
    model = _load(options.model, **_engine(options))
    with _doing("estimating"):
        from dst.studies.estimate import estimate as cost

        found = cost(model, cases, draws=options.draws, **how)
    if options.json:
        _print_json({**found.to_records()[0], "notes": list(found.notes)})
        return 0
    _print(str(found))
    for note in found.notes:
        _print(note)
    return 0


def _asked(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The cases of a file, or the one that the options make, and how it is measured."""
    from dst.cli import _case_of
    from dst.core.case import load_cases

    if not options.contextual:
        if not Path(options.prompt).is_file() and not options.prompt.endswith(".jsonl"):
            raise InputError(
                "This is no cases file, and no answer was given",
                expected="a cases file, or a prompt with --contextual",
            )
        cases = load_cases(options.prompt, limit=options.limit)
        return cases, {"failure": options.failure, "suggest": options.infer}
    case = _case_of(options)
    if options.twin == "proposed":
        from dst.core.errors import CaseError

        raise CaseError("A twin that is only proposed cannot be counted", do="Give the twin itself")
    return case, {"suggest": options.suggest}
