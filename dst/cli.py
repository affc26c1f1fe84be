"""The command line: ``dst demo``, ``dst trace``, ``dst check``.

Exit codes: 0 done; 2 what was given is wrong (one sentence, no traceback); 1 our fault;
130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from dst import __version__
from dst.core.errors import CaseError, DSTError, InputError

DEMO_FOLDER = "dst-out"
SMALL_WIDTH = 256
"""Up to this width a model runs faster on one thread."""
SPARSE = 100
"""Steps of training between two lines of progress where there is no terminal."""
DEFAULT_MODEL = "a folder or a Hugging Face id (default: the embedded model)"


EXAMPLES = """\
examples:
  dst demo
  dst trace "Anna is at the lake. Anna sees a bass. So the bass is a kind of" \\
      --contextual fish --associative instrument --subject bass --cue "at the lake"
  dst trace "PROMPT" --contextual RIGHT --model DIR --out DIR

Exit codes: 0 done, 2 the input is wrong (one sentence says how), 1 a fault of dst.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    # No advice of the libraries between the lines of a report.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        try:
            options = _parser().parse_args(argv)
            _refuse_bytes(options)
            command: Callable[[argparse.Namespace], int] = options.command
            return command(options)
        finally:
            sys.stdout.flush()  # here, where a reader that has gone is still an exception
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

    with _output(options.out or DEMO_FOLDER) as folder:
        with _doing("loading the embedded model"):
            from dst.models.load import EMBEDDED, embedded_path
            from dst.studies.explain import explain

            card = json.loads((embedded_path() / "card.json").read_text("utf-8"))
            model = _load(EMBEDDED)
        with _doing("tracing"):
            report = explain(model, Case.from_dict(card["demo"]["hallucinated"]))
            twin = explain(model, Case.from_dict(card["demo"]["corrected"]))
        with _doing("writing the pages"):
            written = {
                "page": str(report.to_html(folder / "report.html")),
                "result": str(report.save(folder / "report.npz")),
                "twin_page": str(twin.to_html(folder / "twin.html")),
            }
    if options.json:
        _print_json({"report": _summary(report), "twin": _summary(twin), **written})
        return 0
    _print_report(report)
    _print(f"\nIts twin, which the model gets right:\n  {twin.case.text}\n  {twin.verdict[0]}")
    _print(f"\nOpen {written['page']} in a browser (the twin: {written['twin_page']}).")
    _print('Your own:  dst trace "PROMPT" --contextual RIGHT --associative WRONG')
    return 0


def trace(options: argparse.Namespace) -> int:
    """Explain one prompt."""
    case = _case_of(options)  # before anything heavy is imported or loaded
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_output(options.out)) if options.out else None
        model = _load(options.model, **_engine(options))
        with _doing("tracing"):
            from dst.studies.explain import explain

            accepted: Any = "proposed" if options.twin == "proposed" else None
            report = explain(
                model, case, suggest=options.suggest, twin=accepted, semantic_map=options.map,
                importance=options.importance, drift=options.drift, spans=options.spans,
            )  # fmt: skip
        written: dict[str, str] = {}
        if folder is not None:
            with _doing("writing the page"):
                written = {
                    "page": str(report.to_html(folder / "report.html")),
                    "result": str(report.save(folder / "report.npz")),
                }
    if options.json:
        _print_json({**_summary(report), **written})
        return 0
    _print_report(report)
    if written:
        _print(f"\nOpen {written['page']} in a browser; {written['result']} holds every number.")
    else:
        _print("\nAdd --out DIR for the page and the numbers.")
    return 0


def check(options: argparse.Namespace) -> int:
    """Measure what holds for a model."""
    model = _load(options.model, check=False, **_engine(options))
    with _doing("checking"):
        from dst.models.check import check_model

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
    _print(
        f"{spec.name}: {spec.family}, {spec.n_layers} layers x {spec.d_model}, "
        f"{spec.n_heads} heads ({spec.n_kv_heads} kv), vocabulary {spec.d_vocab}, {spec.dtype}"
    )
    for item in verdict.checks:
        sign = "holds" if item.passed else "FAILS"
        detail = f"{item.error:.1e}" if item.passed else item.reason
        _print(f"  {sign}  {item.name}  ({detail})")
    for name, reason in model.anatomy.missing.items():
        _print(f"  not found  site {name}  ({reason})")
    for name, reason in model.cannot.items():
        _print(f"  cannot  {name}  ({reason})")
    return 0 if verdict.passed else 2


def testbed_score(options: argparse.Namespace) -> int:
    """Grade measures on planted models; what was graded before an interruption is kept."""
    for name in ("n", "workers", "per_kind"):
        if getattr(options, name) < 1:
            given = f"--{name.replace('_', '-')}"
            raise InputError(f"{given} is {getattr(options, name)}", expected="1 or more")
    if options.zoo is not None:
        return _score_on_zoo(options)
    with _output(options.out or DEMO_FOLDER) as folder:
        with _doing("planting"):
            from dst.core.files import write_text_atomic
            from dst.testbed.planted import sample
            from dst.testbed.score import MEASURES, measure_named, score, table

            measures = [measure_named(name) for name in options.measure] or MEASURES
            plans = sample(options.n, options.seed)
        found = score(
            measures, plans, backend=options.backend, workers=options.workers, show_progress=True
        )
        grades = json.dumps(_finite(found.to_dict()), indent=1)
        written = write_text_atomic(folder / "testbed_score.json", grades + "\n")
    if options.json:
        _print_json(found.to_dict())
    else:
        _print(f"{table(found)}\n\nEvery number is in {written}.")
    if found.done < found.asked:
        raise KeyboardInterrupt
    return 0


def _score_on_zoo(options: argparse.Namespace) -> int:
    """Grade scores and estimates on trained models: the zoo's."""
    with _output(options.out or DEMO_FOLDER) as folder:
        with _doing("loading"):
            import torch

            from dst.core.files import write_text_atomic
            from dst.testbed.score_zoo import score_zoo, table
        torch.set_num_threads(1)
        found = score_zoo(
            options.zoo, per_kind=options.per_kind, seed=options.seed, show_progress=True
        )
        grades = json.dumps(_finite(found.to_dict()), indent=1)
        written = write_text_atomic(folder / "testbed_score_zoo.json", grades + "\n")
    if options.json:
        _print_json(found.to_dict())
    else:
        _print(f"{table(found)}\n\nEvery number is in {written}.")
    return 0


def testbed_train(options: argparse.Namespace) -> int:
    """Train the testbed's zoo, or some of its runs; what was trained is kept."""
    if options.threads < 1:
        raise InputError(f"--threads is {options.threads}", expected="1 or more")
    with _output(options.out) as folder:
        with _doing("loading"):
            import torch

            from dst.testbed.train import StoppedError
            from dst.testbed.zoo import train_zoo
        torch.set_num_threads(options.threads)
        live = sys.stderr.isatty()

        def report(name: str, step: int, line: str) -> None:
            if live:
                print(f"\r\x1b[K{line[:110]}", end="", file=sys.stderr, flush=True)
            elif step % SPARSE == 0:
                print(line, file=sys.stderr, flush=True)

        how = {"resume": options.resume, "device": options.device, "report": report}
        try:
            written = train_zoo(folder, options.name, **how)
        except StoppedError as error:
            after = "\n" if live else ""  # the line of progress
            print(f"{after}dst: {error} Go on with the same command and --resume.", file=sys.stderr)
            return 130
    if live:
        print(file=sys.stderr)
    _print(f"The checkpoints are in {written}: dst testbed errors --zoo {written}")
    return 0


def testbed_errors(options: argparse.Namespace) -> int:
    """Compute the zoo's error table again and compare it with the cards."""
    if options.workers < 1:
        raise InputError(f"--workers is {options.workers}", expected="1 or more")
    with _doing("drawing cases"):
        import torch

        from dst.testbed.errors import Compared, compare_zoo

    torch.set_num_threads(1)  # a worker each

    def report(one: Compared) -> None:
        if not options.json:
            _print(f"{one.name}  {one.sentence()}")

    zoo, against = (Path(name) if name else None for name in (options.zoo, options.against))
    found = compare_zoo(zoo, options.name, against=against, workers=options.workers, report=report)
    agree = sum(one.agrees for one in found)
    if options.json:
        _print_json({one.name: dataclasses.asdict(one) for one in found})
    else:
        _print(f"{agree} of {len(found)} checkpoints agree.")
    return 0 if agree == len(found) else 2


def testbed_default(options: argparse.Namespace) -> int:
    """Make a checkpoint of the zoo the embedded model, with its tuned lens and its reference."""
    from tempfile import TemporaryDirectory

    from dst.models.load import EMBEDDED, embedded_path
    from dst.testbed import world, zoo
    from dst.testbed.card import WITH_CUE, ordinary, read_card, ship
    from dst.testbed.export import export_default, unsuited
    from dst.tracing.reference import LENS_FILE, REFERENCE_FILE, fit_defaults

    source = zoo.folder(options.name, Path(options.zoo) if options.zoo else None)
    for reason in unsuited(read_card(source)):
        _print(f"Not what is asked of a default: {reason}.")
    folder = export_default(source, Path(options.out) if options.out else embedded_path())
    model = _load(options.out or EMBEDDED)
    cases = world.cases("tune", 50 * len(WITH_CUE), kinds=WITH_CUE, sense="both")
    with TemporaryDirectory() as made:
        fit_defaults(model, made, cases, ordinary(1000, seed=1))
        copies = (LENS_FILE, REFERENCE_FILE)
        ship(folder, {name: partial(shutil.copyfile, Path(made) / name) for name in copies})
    _print(f"{options.name}, its lens and its reference are in {folder}.")
    return 0


def _load(name: str, *, check: bool = True, **how: Any) -> Any:
    """Load a model and check it, on one thread if it is small."""
    with _doing(f"loading {name}"):
        from dst.models.check import check_model
        from dst.models.load import load

        model = load(name, check=False, **how)
        if model.spec.d_model <= SMALL_WIDTH:
            import torch

            # Threads that share matrices this small wait for each other longer than they work.
            torch.set_num_threads(1)
        if check:
            check_model(model).apply(model)
    return model


def _engine(options: argparse.Namespace) -> dict[str, Any]:
    """How the model is loaded, as the options say."""
    names = ("backend", "device", "device_map", "dtype", "revision")
    asked = ("allow_pickle", "trust_remote_code")
    given = {name: getattr(options, name) for name in (*names, *asked)}
    where: str | None = options.remote
    return {**given, "remote": where == "ndif" or where or False}


# -- parsing -------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one sentence with what to do."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message[:1].upper() + message[1:], do=f"See {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="dst",
        description="Why, where and when a transformer language model hallucinates.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dst {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    one = commands.add_parser("demo", help="a real hallucination of the embedded model, explained")
    _output_options(one, f"where to write the pages ({DEMO_FOLDER})")
    one.set_defaults(command=demo)

    one = commands.add_parser("trace", help="explain one prompt")
    one.add_argument("prompt", metavar="PROMPT", help="the text, ended where the answer begins")
    _case_options(one)
    _output_options(one, "write report.html and report.npz there")
    _asked_options(one)
    one.add_argument("--model", metavar="ID|DIR", default="embedded", help=DEFAULT_MODEL)
    _engine_options(one)
    one.set_defaults(command=trace)

    one = commands.add_parser("check", help="measure what holds for a model")
    one.add_argument("model", metavar="MODEL", help="a folder or a Hugging Face id")
    one.add_argument("--json", action="store_true", help="print one JSON object instead")
    _engine_options(one)
    one.set_defaults(command=check)

    from dst import cli_compare, cli_estimate, cli_study

    cli_compare.add_commands(commands)
    cli_estimate.add_commands(commands)
    cli_study.add_commands(commands)

    testbed = commands.add_parser("testbed", help="models whose account is known")
    _testbed_commands(testbed.add_subparsers(title="commands", metavar="COMMAND", required=True))
    return parser


def _testbed_commands(commands: Any) -> None:
    one = commands.add_parser("score", help="grade measures on models with planted answers")
    names: dict[str, Any] = {"metavar": "NAME", "action": "append", "default": []}
    one.add_argument("--measure", **names, help="one of them (again for more; default: all)")
    one.add_argument("--n", metavar="N", type=int, default=340, help="planted models (340)")
    one.add_argument("--seed", metavar="S", type=int, default=0, help="of the plans (0)")
    one.add_argument("--backend", metavar="B", default="hooks", help="the engine (hooks)")
    workers = min(4, os.cpu_count() or 1)
    one.add_argument(
        "--workers", metavar="W", type=int, default=workers, help=f"processes ({workers})"
    )
    one.add_argument(
        "--zoo", metavar="CHECKPOINT", nargs="*", help="trained models instead (default: all)"
    )
    one.add_argument(
        "--per-kind", metavar="N", type=int, default=10, help="with --zoo: cases of a kind (10)"
    )
    _output_options(one, f"where to write testbed_score.json ({DEMO_FOLDER})")
    one.set_defaults(command=testbed_score)

    one = commands.add_parser("train", help="train the zoo: models at fixed steps of training")
    one.add_argument("name", metavar="NAME", nargs="*", help="a run of the zoo (default: all)")
    one.add_argument("--out", metavar="DIR", required=True, help="DIR/zoo will hold the models")
    one.add_argument("--resume", action="store_true", help="go on with what is in DIR")
    one.add_argument("--threads", metavar="N", type=int, default=2, help="of the processor (2)")
    one.add_argument("--device", metavar="D", default="cpu", help="cpu (default) or cuda")
    one.set_defaults(command=testbed_train)

    one = commands.add_parser(
        "errors", help="compute the zoo's error table, compare with its cards"
    )
    one.add_argument("name", metavar="NAME", nargs="*", help="a checkpoint (default: all)")
    one.add_argument("--zoo", metavar="DIR", help="the zoo (default: the repository's)")
    one.add_argument("--against", metavar="DIR", help="another zoo, whose cards to compare with")
    one.add_argument("--workers", metavar="W", type=int, default=2, help="side by side (2)")
    one.add_argument("--json", action="store_true", help="print one JSON object instead")
    one.set_defaults(command=testbed_errors)

    one = commands.add_parser("default", help="make a checkpoint of the zoo the embedded model")
    one.add_argument("name", metavar="NAME", help="of the checkpoint")
    one.add_argument("--zoo", metavar="DIR", help="the zoo (default: the repository's)")
    one.add_argument("--out", metavar="DIR", help="the folder (default: the embedded model's own)")
    one.set_defaults(command=testbed_default)


def _case_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    case = parser.add_argument_group("the answers and the words that carry them")
    texts: dict[str, Any] = {"metavar": "TEXT", "action": "append", "default": []}
    right = "the answer that the context supports (again for other forms)"
    case.add_argument("--contextual", **texts, required=required, help=right)
    case.add_argument("--associative", **texts, help="the wrong one (default: the model's own)")
    inferred = "by default inferred"
    case.add_argument(
        "--subject", metavar="WORD", help=f"what carries the association ({inferred})"
    )
    case.add_argument("--cue", **texts, help=f"text that carries the context (again; {inferred})")
    case.add_argument(
        "--no-suggest", dest="suggest", action="store_false", help="infer no cue and no subject"
    )
    case.add_argument("--question", metavar="TEXT", help="the span that asks")
    case.add_argument("--distractor", **texts, help="text that is none of these (again for more)")
    words: dict[str, Any] = {"metavar": "W,W", "default": ""}
    case.add_argument("--context-words", **words, help="concept words of the context")
    case.add_argument("--competing-words", **words, help="concept words of the association")
    other = parser.add_argument_group(
        "the prompt in other words, as long in tokens (again for more draws; default: drawn)"
    )
    other.add_argument("--neutral", **texts, help="with a neutral cue")
    other.add_argument("--substitute", **texts, help="with an unrelated noun as the subject")
    other.add_argument("--swap", **texts, help="with the cue of the other sense (never drawn)")
    other.add_argument("--clean", **texts, help="without distractors, of any length (never drawn)")
    other.add_argument(
        "--twin", metavar="TEXT",
        help="of a yes/no prompt: asking for the other sense (proposed: the one dst proposes)",
    )  # fmt: skip
    place = parser.add_argument_group("where the answer is, if not right after the prompt")
    place.add_argument("--chat", action="store_true", help="send the prompt as a chat message")
    place.add_argument("--system", metavar="TEXT", help="system message (with --chat)")
    place.add_argument("--prefix", metavar="TEXT", default="", help="the reply before the answer")
    place.add_argument("--response", metavar="REPLY", help="a whole reply of the model ...")
    place.add_argument(
        "--at", metavar="WORD", help="... and the wrong word in it (WORD#2: its second mention)"
    )


def _asked_options(parser: argparse.ArgumentParser) -> None:
    asked = parser.add_argument_group("what costs more, and is left out unless asked for")
    for name, text in (
        ("map", "the concepts of every layer and their effects"),
        ("importance", "what the answer owes to the concepts"),
        ("drift", "where the prompt drifts from a matched run"),
        ("spans", "the words the answer hangs on, some thousand runs"),
    ):
        asked.add_argument(f"--{name}", action="store_true", help=text)


def _output_options(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument("--out", metavar="DIR", help=out)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def _engine_options(parser: argparse.ArgumentParser) -> None:
    engine = parser.add_argument_group("how the model is loaded")
    engine.add_argument(
        "--backend", metavar="B", default="hooks", help="hooks (default), bridge, nnsight"
    )
    engine.add_argument("--device", metavar="D", help="such as cuda")
    engine.add_argument("--device-map", metavar="M", help="spread the model, such as auto")
    engine.add_argument(
        "--remote", metavar="WHERE", help="with nnsight: ndif, the URL of a server, or local"
    )
    engine.add_argument("--dtype", metavar="T", help="float32 (default), bfloat16, float16")
    engine.add_argument("--revision", metavar="R", help="commit or branch on the hub")
    yes: dict[str, Any] = {"action": "store_true"}
    engine.add_argument("--allow-pickle", **yes, help="open pickled weights, which can run code")
    engine.add_argument("--trust-remote-code", **yes, help="run the model repository's own code")


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
        # Text and reply are one text; a chat template parts them by itself.
        if prefix and not (options.chat or options.prompt[-1].isspace() or prefix[0].isspace()):
            prefix = f" {prefix}"
        associative = associative or [word]
    return Case(
        prompt=options.prompt,
        contextual=tuple(options.contextual),
        associative=tuple(associative),
        subject=options.subject,
        cue=tuple(options.cue),
        question=options.question,
        distractor=tuple(options.distractor),
        neutral=tuple(options.neutral),
        substitute=tuple(options.substitute),
        swap=tuple(options.swap),
        clean=tuple(options.clean),
        twin_question=None if options.twin == "proposed" else options.twin,
        prefix=prefix,
        chat=options.chat,
        system=options.system,
        context_words=_words(options.context_words),
        competing_words=_words(options.competing_words),
    )


def _before(reply: str, word: str) -> tuple[str, str]:
    """The reply up to a word (its own space left to the word), and the word as it stands there.

    ``word#2`` names the second mention.
    """
    from dst.core.case import mentions

    places, number = mentions(reply, word), 1
    if not places and (counted := re.fullmatch(r"(.+)#([1-9]\d*)", word)):
        word, number = counted[1], int(counted[2])
        places = mentions(reply, word)
        if 0 < len(places) < number:
            raise InputError(f"The reply has {word!r} {len(places)} time(s), not {number}")
        places = places[number - 1 : number]
    if not places:
        raise InputError(f"The reply has no word {word!r}", expected="a word of --response")
    if len(places) > 1:
        raise InputError(
            f"The reply has {word!r} {len(places)} times",
            do=f"Say which: --at '{word}#1' to '{word}#{len(places)}'",
        )
    start, end = places[0]
    return reply[:start].rstrip(" "), reply[start:end]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


# -- printing ------------------------------------------------------------------------------


def _print(text: str) -> None:
    """Print, with escapes for what the terminal's encoding lacks."""
    encoding = sys.stdout.encoding or "ascii"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _print_report(report: Any) -> None:
    from dst.report.terminal import render_text

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = min(shutil.get_terminal_size((80, 24)).columns, 110)
    text = render_text(report, colour=colour, width=width, ascii_only=not _prints_unicode())
    _print(text.rstrip("\n"))


def _prints_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().startswith("utf")


@contextlib.contextmanager
def _doing(what: str) -> Iterator[None]:
    """Say on a terminal what is being waited for; the line is gone when it is done."""
    if not sys.stderr.isatty():
        yield
        return
    print(f"{what[:70]} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _summary(report: Any) -> dict[str, Any]:
    """What ``--json`` prints of a report: everything but the states; NaN is null with a reason."""
    return {
        "case": report.case.to_dict(),
        "outcome": report.outcome,
        "answer": report.answer,
        "answer_prob": report.answer_prob,
        "contrast": report.trace.contrast,
        "continuation": report.continuation,
        "tokens": list(report.trace.tokens),
        "roles": list(report.trace.roles),
        "lens": [
            row | {"top_words": list(report.lens.top_words[row["state"]])}
            for row in report.lens.to_records()
        ],
        "pathways": _terms(report.pathways),
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
        "suggestion": _inferred(report.suggestion),
        **{
            name: getattr(report, name).to_records()
            for name in ("semantic_map", "importance", "drift", "spans")
            if getattr(report, name) is not None
        },
        "verdict": list(report.verdict),
        "notes": list(report.notes),
        "model": report.provenance.model,
        "weights_hash": report.provenance.weights_hash,
        "versions": dict(report.provenance.versions),
    }


def _inferred(found: Any) -> dict[str, Any] | None:
    """What was inferred of the case and from what; None where it names cue and subject."""
    if found is None:
        return None
    return {
        "inferred": list(found.inferred),
        "cue": list(found.cue),
        "cue_reason": found.cue_reason,
        "subject": found.subject,
        "subject_reason": found.subject_reason,
        "kind": found.kind,
        "masked_by": found.masked_by,
        "twin": found.twin,
        "twin_reason": found.twin_reason,
        "forward_passes": found.forward_passes,
        "level": found.level,
        "candidates": found.to_records(),
    }


def _terms(paths: Any) -> dict[str, Any] | None:
    """The three terms of LD with their intervals over draws; None where they were not measured."""
    if paths is None:
        return None
    terms = {"base": paths.base, "prior": paths.prior, "total_effect": paths.total_effect}
    return {
        name: {"mean": term.mean, "low": term.low, "high": term.high, "draws": term.n}
        for name, term in terms.items()
    }


def _print_json(value: Any) -> None:
    print(json.dumps(_finite(value), ensure_ascii=not _prints_unicode(), allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them, beside its reason."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# -- what is given ---------------------------------------------------------------------------


def _refuse_bytes(options: argparse.Namespace) -> None:
    """Refuse arguments that are no text (Python hides such bytes in lone surrogates)."""
    for name, value in vars(options).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and any("\ud800" <= char <= "\udfff" for char in text):
                raise InputError(f"The argument {name} is no text", expected="UTF-8")


@contextlib.contextmanager
def _output(name: str) -> Iterator[Path]:
    """A folder for output, made now so that nothing is computed for a place that cannot be.

    If nothing comes to be written, the folders that were made are removed again.
    """
    path = Path(name)
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"The folder {name} cannot be made ({error.strerror or error})",
                do="Give --out a folder that you may write to",
            ) from None
        if not os.access(path, os.W_OK):
            raise InputError(
                f"The folder {name} cannot be written to", do="Give --out one that you may write to"
            )
        yield path
    except BaseException:
        with contextlib.suppress(OSError):  # one that holds a file stays
            for folder in new:
                folder.rmdir()
        raise


if __name__ == "__main__":
    sys.exit(main())
