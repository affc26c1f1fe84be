"""How long a person waits: `import dst`, and `dst trace` on the embedded model.

    python -m benchmarks.startup [RUNS]

Every command is a process of its own. The commands take turns, so that a busy moment of the
machine falls on all of them; medians are compared. Files are compiled and cached by one round
before.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks._record import SMOKE, record
from dst.models.load import embedded_path

IMPORT_LIMIT, TRACE_LIMIT = 0.3, 2.5  # seconds
LOADING = "import torch, transformers; transformers.LlamaForCausalLM"


def commands() -> dict[str, list[str]]:
    case = json.loads((embedded_path() / "card.json").read_text("utf-8"))["demo"]["hallucinated"]
    trace = [
        *("-m", "dst.cli", "trace", case["prompt"]),
        *("--contextual", case["contextual"], "--associative", case["associative"]),
    ]
    return {
        "an empty interpreter": ["-c", "pass"],
        "import dst": ["-c", "import dst"],
        "import torch, transformers.LlamaForCausalLM": ["-c", LOADING],
        "dst trace, answers only": trace,
        "dst trace, with subject and cue": [
            *trace, "--subject", case["subject"], "--cue", case["cue"],
        ],
    }  # fmt: skip


def measure(runs: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds by the clock, and of processor time, of every run of every command."""
    seconds: dict[str, list[float]] = {name: [] for name in commands()}
    processor: dict[str, list[float]] = {name: [] for name in commands()}
    # As on a person's machine: compiled files are kept.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(runs + 1):
            for name, arguments in commands().items():
                started, used = time.perf_counter(), _used()
                done = subprocess.run(
                    [sys.executable, *arguments],
                    cwd=folder, env=environment, capture_output=True, text=True, check=False,
                )  # fmt: skip
                if done.returncode:
                    raise SystemExit(f"{name} failed: {done.stderr}")
                if turn:
                    seconds[name].append(time.perf_counter() - started)
                    processor[name].append(_used() - used)
    return seconds, processor


def _used() -> float:
    """Processor seconds of the processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(arguments: Sequence[str]) -> None:
    runs = int(arguments[0]) if arguments else 1 if SMOKE else 9
    seconds, processor = measure(runs)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    empty, imported, loading, *traces = median
    over = {
        imported: median[imported] - median[empty],
        **{name: median[name] - median[loading] for name in traces},
    }
    record(
        "startup",
        title="What a person waits for",
        about=f"Processes of their own, taking turns, {runs} runs each after one to warm up: "
        "seconds. `dst trace` runs on the embedded model, with its answers only (trace, lens, "
        "scores), and with subject and cue (the two pathways and the repairs as well).",
        columns=("command", "min", "median", "max", "median over what it is compared with",
                 "median processor time"),
        rows=[
            (f"`{name}`" if name != empty else name, min(values), median[name], max(values),
             over.get(name), statistics.median(processor[name]))
            for name, values in seconds.items()
        ],
        targets=[
            ("`import dst` over an empty interpreter, seconds", over[imported], IMPORT_LIMIT),
            *(
                (f"`{name}` over importing torch and Llama, seconds", over[name], TRACE_LIMIT)
                for name in traces
            ),
        ],
        details={"seconds": seconds, "processor_seconds": processor},
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
