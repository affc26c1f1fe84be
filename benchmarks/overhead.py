"""What recording costs: `dst.trace` over a plain forward pass, beside other tools.

    python -m benchmarks.overhead [RUNS]

A GPT-2 of GPT-2 small's shape with random weights reads 4 prompts of 128 tokens, and every tool
records the same 37 tensors: the residual stream at 13 states and what attention and MLP add in
12 blocks, float32. Each tool has a copy of the model of its own. Time: all tools in one process,
taking turns. Memory: each tool in a process of its own, the highest resident set during the call
after a plain forward pass has warmed the model up.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks._record import SMOKE, record

LAYERS, WIDTH, HEADS, WORDS = (2, 64, 4, 1000) if SMOKE else (12, 768, 12, 50257)
ROWS, TOKENS = 4, 128
ASKED = (3 * LAYERS + 1) * ROWS * TOKENS * WIDTH * 4  # bytes
TIME_LIMIT = 1.15

Call = Callable[[], Any]


def model_and_tokenizer() -> tuple[Any, Any]:
    """Random weights; one token a word, so that a prompt of 128 words is 128 tokens."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["<unk>", *(f"w{number}" for number in range(1, WORDS))]
    words = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    with tempfile.TemporaryDirectory() as folder:  # transformer_lens asks where it is from
        fast.save_pretrained(folder)
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=LAYERS, n_embd=WIDTH, n_head=HEADS, vocab_size=WORDS, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval(), tokenizer


def prompts() -> list[str]:
    return [
        " ".join(f"w{1 + (row * 7919 + place * 104729) % (WORDS - 4)}" for place in range(TOKENS))
        for row in range(ROWS)
    ]


def plain(last_only: bool) -> tuple[Call, Call]:
    import torch

    model, tokenizer = model_and_tokenizer()
    ids = tokenizer(prompts(), return_tensors="pt")["input_ids"]
    assert tuple(ids.shape) == (ROWS, TOKENS)
    keep = {"logits_to_keep": 1} if last_only else {}

    def forward() -> Any:
        with torch.no_grad():
            return model(ids, use_cache=False, **keep).logits

    return forward, forward


def plain_last() -> tuple[Call, Call]:
    return plain(last_only=True)


def plain_all() -> tuple[Call, Call]:
    return plain(last_only=False)


def ours() -> tuple[Call, Call]:
    import torch

    import dst

    module, tokenizer = model_and_tokenizer()
    model = dst.load(module, tokenizer=tokenizer, check=False)
    cases = [
        dst.Case(prompt=p, contextual=f"w{WORDS - 1}", associative=f"w{WORDS - 2}")
        for p in prompts()
    ]

    def warm() -> Any:
        with torch.no_grad():
            return module(torch.zeros(ROWS, TOKENS, dtype=torch.long), use_cache=False,
                          logits_to_keep=1)  # fmt: skip

    def trace() -> Any:
        traces = dst.trace(model, cases)
        assert all(len(seen.ids) == TOKENS for seen in traces)
        return traces

    return trace, warm


def transformer_lens() -> tuple[Call, Call]:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    model, tokenizer = model_and_tokenizer()
    ids = tokenizer(prompts(), return_tensors="pt")["input_ids"]
    bridge = TransformerBridge.boot_transformers("gpt2", hf_model=model, tokenizer=tokenizer)
    names = {
        f"blocks.{layer}.hook_{kind}"
        for layer in range(LAYERS)
        for kind in ("resid_pre", "attn_out", "mlp_out")
    } | {f"blocks.{LAYERS - 1}.hook_resid_post"}

    def warm() -> Any:
        with torch.no_grad():
            return bridge(ids)

    def run_with_cache() -> Any:
        with torch.no_grad():
            logits, cache = bridge.run_with_cache(ids, names_filter=lambda name: name in names)
        assert len({id(cache[name]) for name in names}) == len(names)
        return logits, cache

    return run_with_cache, warm


def nnsight() -> tuple[Call, Call]:
    import torch
    from nnsight import TransformersModel

    module, tokenizer = model_and_tokenizer()
    ids = tokenizer(prompts(), return_tensors="pt")["input_ids"]
    model = TransformersModel(module, tokenizer=tokenizer, task="text-generation")
    blocks = [part for block in model.transformer.h for part in (block, block.attn, block.mlp)]

    def warm() -> Any:
        with torch.no_grad():
            return module(ids, use_cache=False, logits_to_keep=1)

    def cache() -> Any:
        with torch.no_grad(), model.trace(ids, use_cache=False, logits_to_keep=1) as tracer:
            kept = tracer.cache(modules=[model.transformer.wte, *blocks])
        return kept

    return cache, warm


ENGINES: dict[str, tuple[Callable[[], tuple[Call, Call]], str]] = {
    "plain forward, last logits": (plain_last, ""),
    "plain forward, all logits": (plain_all, ""),
    "dst.trace": (ours, "plain forward, last logits"),
    "transformer_lens run_with_cache": (transformer_lens, "plain forward, all logits"),
    "nnsight tracer.cache": (nnsight, "plain forward, last logits"),
}
"""Name -> what makes it, and the plain forward pass that computes as many logits."""


def times(runs: int) -> dict[str, list[float]]:
    """Seconds of every call, the tools taking turns."""
    calls = {name: make()[0] for name, (make, _) in ENGINES.items()}
    for _ in range(2):
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def peak(name: str) -> int:
    """Bytes of the highest resident set during one call, in this process."""
    call, warm = ENGINES[name][0]()
    warm()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    kept = call()
    status = Path("/proc/self/status").read_text("utf-8")
    del kept
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def peaks() -> dict[str, int]:
    """`peak` of every tool, each in a process of its own; nothing where Linux's /proc is not."""
    if not Path("/proc/self/clear_refs").exists():
        return {}
    found = {}
    for name in ENGINES:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.overhead", "--peak", name],
            cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{name} failed: {done.stderr}")
        found[name] = int(json.loads(done.stdout.splitlines()[-1]))
    return found


def main(arguments: Sequence[str]) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if arguments[:1] == ["--peak"]:
        print(json.dumps(peak(arguments[1])))
        return
    runs = int(arguments[0]) if arguments else 1 if SMOKE else 15
    memory = peaks()
    seconds = times(runs)
    best = {name: min(values) for name, values in seconds.items()}
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows: list[tuple[Any, ...]] = []
    for name, (_, base) in ENGINES.items():
        extra = (memory[name] - memory[base]) / 2**20 if base and memory else None
        rows.append(
            (
                name, 1e3 * best[name], 1e3 * median[name],
                best[name] / best[base] if base else None,
                median[name] / median[base] if base else None,
                memory[name] / 2**20 if memory else None, extra,
            )
        )  # fmt: skip
    base = ENGINES["dst.trace"][1]
    targets = [
        ("`dst.trace` over a plain forward pass, min of interleaved runs",
         best["dst.trace"] / best[base], TIME_LIMIT),
    ]  # fmt: skip
    if memory:
        limit = (1.1 * memory[base] + ASKED) / 2**20
        what = "`dst.trace`, peak memory (plain + 10 % + what was asked for), MiB"
        targets.append((what, memory["dst.trace"] / 2**20, limit))
    record(
        "overhead",
        title="What recording costs",
        about=f"{LAYERS} layers, width {WIDTH}, {WORDS} words, random weights; {ROWS} prompts of "
        f"{TOKENS} tokens; {runs} interleaved runs. Each tool records the residual stream at "
        f"{LAYERS + 1} states and what attention and MLP add: {ASKED / 2**20:.0f} MiB in float32. "
        "`dst.trace` also tokenises, checks that all of it is finite, and returns NumPy arrays. "
        "Ratios are over the plain forward pass that computes as many logits: transformer_lens "
        "computes those of every position.",
        columns=("", "min ms", "median ms", "min ratio", "median ratio", "peak MiB",
                 "over plain MiB"),
        rows=rows,
        targets=targets,
        details={"seconds": seconds, "peak_bytes": memory, "asked_bytes": ASKED},
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
