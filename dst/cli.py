"""The command line: ``dst demo``, ``dst trace``, ``dst check``.

Exit codes: 0 done; 2 what was given is wrong (one sentence, no traceback); 1 our fault;
130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dst import __version__
from dst.core.errors import CaseError, DSTError, InputError

DEMO_FOLDER = "dst-out"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    # No advice of the libraries between the lines of a report.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = _parser()
    try:
        options = parser.parse_args(argv)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except InputError as error:
        print(f"dst: {error}", file=sys.stderr)
        return 2
    except DSTError as error:
        print(f"dst: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dst: interrupted; files already written are whole", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `dst trace ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


# -- commands ------------------------------------------------------------------------------


def demo(options: argparse.Namespace) -> int:
    """Explain a built-in hallucination of the embedded model, and its corrected twin."""
    from dst.core.case import Case
    from dst.models.load import embedded_path, load
    from dst.studies.explain import explain

    folder = _writable(options.out or DEMO_FOLDER)
    card = json.loads((embedded_path() / "card.json").read_text("utf-8"))
    model = load()
    report = explain(model, Case.from_dict(card["demo"]["hallucinated"]))
    twin = explain(model, Case.from_dict(card["demo"]["corrected"]))
    page = report.to_html(folder / "report.html")
    report.save(folder / "report.npz")
    twin_page = twin.to_html(folder / "twin.html")
    if options.json:
        _print_json({"report": _summary(report), "twin": _summary(twin), "page": str(page)})
        return 0
    _print_report(report)
    print(f"\nIts twin, which the model gets right:\n  {twin.case.text}\n  {twin.verdict[0]}")
    print(f"\nOpen {page} in a browser (the twin: {twin_page}).")
    print("Your own:  dst trace \"PROMPT\" --contextual RIGHT --associative WRONG")
    return 0


def trace(options: argparse.Namespace) -> int:
    """Explain one prompt."""
    from dst.models.load import load
    from dst.studies.explain import explain

    case = _case_of(options)
    folder = _writable(options.out) if options.out else None
    model = load(
        options.model,
        backend=options.backend,
        device=options.device,
        dtype=options.dtype,
        revision=options.revision,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
    )
    report = explain(model, case)
    written: dict[str, str] = {}
    if folder is not None:
        written = {
            "page": str(report.to_html(folder / "report.html")),
            "result": str(report.save(folder / "report.npz")),
        }
    if options.json:
        _print_json({**_summary(report), **written})
        return 0
    _print_report(report)
    if written:
        print(f"\nOpen {written['page']} in a browser; {written['result']} holds every number.")
    else:
        print("\nAdd --out DIR for the page and the numbers.")
    return 0


def check(options: argparse.Namespace) -> int:
    """Measure what holds for a model."""
    from dst.models.check import check_model
    from dst.models.load import load

    model = load(
        options.model,
        backend=options.backend,
        device=options.device,
        dtype=options.dtype,
        revision=options.revision,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
        check=False,
    )
    verdict = check_model(model)
    spec = model.spec
    if options.json:
        _print_json(
            {
                "model": spec.name,
                "weights_hash": spec.weights_hash,
                "passed": verdict.passed,
                "checks": [
                    {"name": c.name, "passed": c.passed, "error": c.error, "reason": c.reason}
                    for c in verdict.checks
                ],
            }
        )
        return 0 if verdict.passed else 2
    print(
        f"{spec.name}: {spec.family}, {spec.n_layers} layers x {spec.d_model}, "
        f"{spec.n_heads} heads ({spec.n_kv_heads} kv), vocabulary {spec.d_vocab}, {spec.dtype}"
    )
    for item in verdict.checks:
        sign = "holds" if item.passed else "FAILS"
        detail = f"{item.error:.1e}" if item.passed else item.reason
        print(f"  {sign}  {item.name}  ({detail})")
    for name, reason in getattr(model, "anatomy").missing.items():
        print(f"  not found  site {name}  ({reason})")
    return 0 if verdict.passed else 2


# -- parsing -------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one sentence with what to do."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message[:1].upper() + message[1:], do=f"See {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="dst",
        description="Why, where and when a transformer language model hallucinates.",
        epilog="Exit codes: 0 done, 2 the input is wrong, 1 a fault of dst.",
    )
    parser.add_argument("--version", action="version", version=f"dst {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    one = commands.add_parser("demo", help="a real hallucination of the embedded model, explained")
    one.add_argument("--out", metavar="DIR", help=f"where to write the pages ({DEMO_FOLDER})")
    one.add_argument("--json", action="store_true", help="print one JSON object instead")
    one.set_defaults(command=demo)

    one = commands.add_parser("trace", help="explain one prompt")
    one.add_argument("prompt", metavar="PROMPT", help="the text, ended where the answer begins")
    one.add_argument("--contextual", metavar="A", action="append", required=True,
                     help="the answer that the context supports (again for other forms)")  # fmt: skip
    one.add_argument("--associative", metavar="B", action="append", default=[],
                     help="the answer of association (default: the model's own)")  # fmt: skip
    one.add_argument("--subject", metavar="W", help="the word that carries the association")
    one.add_argument("--cue", metavar="TEXT", action="append", default=[],
                     help="text of the prompt that carries the context (again for more)")  # fmt: skip
    one.add_argument("--context-words", metavar="W,W", default="",
                     help="concept words of the context, with commas")  # fmt: skip
    one.add_argument("--competing-words", metavar="W,W", default="",
                     help="concept words of the association, with commas")  # fmt: skip
    one.add_argument("--chat", action="store_true", help="send the prompt as a chat message")
    one.add_argument("--system", metavar="TEXT", help="system message (with --chat)")
    one.add_argument("--prefix", metavar="TEXT", default="",
                     help="the reply before the answer")  # fmt: skip
    one.add_argument("--response", metavar="REPLY", help="a whole reply of the model ...")
    one.add_argument("--at", metavar="WORD", help="... and the wrong word in it")
    one.add_argument("--out", metavar="DIR", help="write report.html and report.npz there")
    one.add_argument("--json", action="store_true", help="print one JSON object instead")
    _model_options(one)
    one.set_defaults(command=trace)

    one = commands.add_parser("check", help="measure what holds for a model")
    one.add_argument("model", metavar="MODEL", help="a folder or a Hugging Face id")
    one.add_argument("--json", action="store_true", help="print one JSON object instead")
    _engine_options(one)
    one.set_defaults(command=check)
    return parser


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="ID|DIR", default="embedded",
                        help="a folder or a Hugging Face id (default: the embedded model)")  # fmt: skip
    _engine_options(parser)


def _engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", metavar="B", default="hooks", help="the engine (hooks)")
    parser.add_argument("--device", metavar="D", help="such as cuda")
    parser.add_argument("--dtype", metavar="T", help="float32 (default), bfloat16, float16")
    parser.add_argument("--revision", metavar="R", help="commit or branch on the hub")
    parser.add_argument("--allow-pickle", action="store_true",
                        help="open pickled weights, which can run code")  # fmt: skip
    parser.add_argument("--trust-remote-code", action="store_true",
                        help="run the model repository's own code")  # fmt: skip


def _case_of(options: argparse.Namespace) -> Any:
    from dst.core.case import Case

    if not options.prompt.strip():
        raise CaseError("The prompt is empty", expected="the text that the model reads")
    prefix, associative = options.prefix, options.associative
    if (options.response is None) != (options.at is None):
        raise InputError("--response and --at belong together", do="Give both, or neither")
    if options.response is not None:
        if prefix:
            raise InputError("--prefix and --response were both given", do="Give one of them")
        prefix, word = _before(options.response, options.at)
        associative = associative or [word]
    return Case(
        prompt=options.prompt,
        contextual=tuple(options.contextual),
        associative=tuple(associative),
        subject=options.subject,
        cue=tuple(options.cue),
        prefix=prefix,
        chat=options.chat,
        system=options.system,
        context_words=_words(options.context_words),
        competing_words=_words(options.competing_words),
    )


def _before(reply: str, word: str) -> tuple[str, str]:
    """The reply up to a word (its own space left to the word), and the word as it stands there."""
    from dst.core.case import mentions

    places = mentions(reply, word)
    if not places:
        raise InputError(f"The reply has no word {word!r}", expected="a word of --response")
    if len(places) > 1:
        raise InputError(
            f"The reply has {word!r} {len(places)} times",
            do="Give --at with enough words before it to name one place",
        )
    start, end = places[0]
    return reply[:start].rstrip(" "), reply[start:end]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


# -- printing ------------------------------------------------------------------------------


def _print_report(report: Any) -> None:
    from dst.report.terminal import render_text

    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = min(shutil.get_terminal_size((80, 24)).columns, 110)
    print(render_text(report, colour=colour, width=width, ascii_only=not encoding.startswith("utf")))


def _summary(report: Any) -> dict[str, Any]:
    """What ``--json`` prints of a report: everything but the states; NaN is null with a reason."""
    return {
        "case": report.case.to_dict(),
        "outcome": report.outcome,
        "answer": report.answer,
        "answer_prob": report.answer_prob,
        "contrast": report.trace.contrast,
        "tokens": list(report.trace.tokens),
        "roles": list(report.trace.roles),
        "lens": [
            row | {"top_words": list(report.lens.top_words[row["state"]])}
            for row in report.lens.to_records()
        ],
        "scores": {
            score.name: {
                "total": score.total,
                "value": score.value.tolist(),
                "unit": score.unit,
                "reasons": sorted({reason for reason in score.reasons if reason}),
                "note": score.note,
            }
            for score in report.coherence.scores
        },
        "marks": [mark.to_records()[0] | {"note": mark.note} for mark in report.markers.marks],
        "verdict": list(report.verdict),
        "notes": list(report.notes),
        "model": report.provenance.model,
        "weights_hash": report.provenance.weights_hash,
        "versions": dict(report.provenance.versions),
    }


def _print_json(value: Any) -> None:
    print(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON has no NaN: null stands for it, beside its reason."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    return value


def _writable(folder: str) -> Path:
    """A folder for output, made now so that nothing is computed for a place that cannot be."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder {folder} cannot be made ({error.strerror or error})",
            do="Give --out a folder that you may write to",
        ) from None
    if not path.is_dir() or not os.access(path, os.W_OK):
        raise InputError(
            f"The folder {folder} cannot be written to", do="Give --out one that you may write to"
        )
    return path


if __name__ == "__main__":
    sys.exit(main())
