"""What a grid of patched runs costs: `run_cells` beside other tools, and beside what it needs.

    python -m benchmarks.patching

Random weights, one prompt and one donor of equal length that differ in one word. Every tool
patches the same cells on the same weights and reads the same two logits at the last position;
the largest difference between the numbers is in the table. transformer_lens runs its own
`patching.get_act_patch_resid_pre` over the whole of the first grid; elsewhere the other tools run
48 random cells and are multiplied. With a GPU in sight, a table for it is made as well.

*Needed* is the smallest number of operations that gives the exact answer (multiplications of the
blocks from the patched layer and position on, the last block's queries and MLP at the last
position only), at the rate at which this machine multiplies matrices of 2,048 rows, measured
between the runs.
"""

from __future__ import annotations

import copy
import gc
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks._record import SMOKE, record
from dst.core.files import write_text_atomic
from dst.core.sites import Site
from dst.models.hooks import HooksBackend
from dst.models.memory import MOST_BYTES, prefix_bytes
from dst.tracing.replay import Base, Cell, Change, record_base, run_cells

SAMPLE = 4 if SMOKE else 48
READ = (11, 12)
"""The ids whose logits are compared."""

EQUAL = 1e-4
ASSETS = Path(__file__).parents[1] / "docs" / "assets"

Seconds = float
Asked = tuple[str, int, int, int | None]
"""Kind of site, layer, position (all of them if below 0), head."""


# -- the models ----------------------------------------------------------------------------


def gpt2_small(**changes: Any) -> Any:
    import transformers

    sizes: dict[str, Any] = {}
    if SMOKE:
        sizes = {"n_layer": 3, "n_embd": 64, "n_head": 4, "vocab_size": 500}
    config = transformers.GPT2Config(**{**sizes, "bos_token_id": 0, "eos_token_id": 0, **changes})
    return config, transformers.GPT2LMHeadModel


def llama(width: int, layers: int, heads: int, kv: int, inner: int, words: int) -> Any:
    import transformers

    if SMOKE:
        width, layers, heads, kv, inner, words = 64, 3, 4, 2, 96, 500
    config = transformers.LlamaConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, intermediate_size=inner, vocab_size=words,
        tie_word_embeddings=True, max_position_embeddings=2048,
    )  # fmt: skip
    return config, transformers.LlamaForCausalLM


SHAPES: dict[str, Callable[[], Any]] = {
    "GPT-2 small": gpt2_small,
    "0.5 B Llama": lambda: llama(896, 24, 14, 2, 4864, 151_936),
    "1 B Llama": lambda: llama(2048, 16, 32, 8, 8192, 128_256),
}
"""Shapes of GPT-2 small, Qwen2-0.5B and Llama-3.2-1B; the last two share key/value heads."""


def made(shape: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config, kind = SHAPES[shape]()
    return kind(config).to(device=device, dtype=dtype).eval()


class _NoTokenizer:
    """Nothing here is text."""

    name_or_path = "none"


# -- the work ------------------------------------------------------------------------------


@dataclass
class Work:
    """A prompt, a donor, and the cells that are patched."""

    model: Any
    tokens: int
    differ: int
    asked: list[Asked]

    def __post_init__(self) -> None:
        words = self.model.config.vocab_size
        generator = torch.Generator().manual_seed(1)
        self.row = torch.randint(20, words, (self.tokens,), generator=generator).tolist()
        self.donor = list(self.row)
        self.donor[self.differ] = 15
        self.engine = HooksBackend(self.model, _NoTokenizer(), name="random")
        self.device = next(self.model.parameters()).device
        kinds = sorted({kind for kind, *_ in self.asked})
        sites = [Site(layer, kind) for kind in kinds for layer in range(self.n_layers)]
        with torch.no_grad():
            self.states = self.engine.run([self.donor], capture=sites, logits_at=[-1]).states

    @property
    def n_layers(self) -> int:
        return self.engine.spec.n_layers

    def value(self, asked: Asked) -> torch.Tensor:
        """What is put in, [pos d_model] or [pos 1 d_head]."""
        kind, layer, position, head = asked
        state = self.states[Site(layer, kind)][0]
        state = state if position < 0 else state[position : position + 1]
        return state if head is None else state[:, head : head + 1]

    def positions(self, asked: Asked) -> list[int]:
        return list(range(self.tokens)) if asked[2] < 0 else [asked[2]]

    def sample(self) -> list[Asked]:
        order = torch.randperm(len(self.asked), generator=torch.Generator().manual_seed(2))
        return [self.asked[i] for i in order[:SAMPLE].tolist()]

    def needed(self) -> float:
        """Multiplications and additions that the exact answers need."""
        spec, config = self.engine.spec, self.model.config
        inner = getattr(config, "intermediate_size", None) or 4 * spec.d_model
        matrices = 3 if hasattr(config, "intermediate_size") else 2
        q, kv = spec.n_heads * spec.d_head, spec.n_kv_heads * spec.d_head
        keys, rest = 2 * spec.d_model * 2 * kv, 2 * spec.d_model * (2 * q + matrices * inner)
        total = 0.0
        for kind, layer, position, _ in self.asked:
            first = max(position, 0)
            if position < 0 or kind != "resid_pre":
                first = max(first, self.differ)
            elif position < self.differ:
                continue  # nothing differs there
            n = self.tokens - first
            reads = sum(4 * q * (key + 1) for key in range(first, self.tokens))
            whole = max(self.n_layers - 1 - layer, 0)
            total += whole * (n * (keys + rest) + reads)
            if kind == "resid_pre" and whole:  # queries, keys, values change at one position
                total -= (n - 1) * (keys + 2 * spec.d_model * q)
            total += n * keys + rest + 4 * q * self.tokens
        return total


def by_position(kind: str, n_layers: int, tokens: int) -> list[Asked]:
    return [(kind, layer, place, None) for layer in range(n_layers) for place in range(tokens)]


def by_head(n_layers: int, n_heads: int) -> list[Asked]:
    return [("z", layer, -1, head) for layer in range(n_layers) for head in range(n_heads)]


# -- the tools -----------------------------------------------------------------------------


def ours(work: Work) -> Callable[[Sequence[Asked]], list[float]]:
    base: Base = record_base(work.engine, [work.row])

    def cell(asked: Asked) -> Cell:
        kind, layer, _, head = asked
        heads = None if head is None else (head,)
        places = tuple(work.positions(asked))
        return Cell(0, (Change(Site(layer, kind), places, work.value(asked), heads=heads),))

    def run(asked: Sequence[Asked]) -> list[float]:
        record_base(work.engine, [work.row])  # the base run is part of the work
        found = run_cells(work.engine, base, [cell(one) for one in asked], tokens=READ)
        assert not [note for note in found.notes if note.startswith("Full runs")], found.notes
        return (found.logits[:, 0, 0] - found.logits[:, 0, 1]).float().tolist()

    return run


def plain_hooks(work: Work) -> Callable[[Sequence[Asked]], list[float]]:
    ids = torch.tensor([work.row], device=work.device)
    keep = {"use_cache": False, "logits_to_keep": 1}

    def run(asked: Sequence[Asked]) -> list[float]:
        out = []
        for one in asked:
            kind, layer, *_ = one
            parts, put = work.engine.anatomy.blocks[layer], _writer(work, one)

            def before(module: Any, args: Any, kwargs: Any, put: Any = put) -> Any:
                return (put(args[0]), *args[1:]), kwargs

            def after(module: Any, args: Any, output: Any, put: Any = put) -> Any:
                whole = isinstance(output, torch.Tensor)
                return put(output) if whole else (put(output[0]), *output[1:])

            if kind in ("resid_pre", "z"):
                module = parts.block if kind == "resid_pre" else parts.output_projection
                handle = module.register_forward_pre_hook(before, with_kwargs=True)
            else:
                module = parts.attn_out if kind == "attn_out" else parts.mlp_out
                assert module is not None
                handle = module.register_forward_hook(after)
            with torch.no_grad():
                logits = work.model(ids, **keep).logits[0, -1]
            handle.remove()
            out.append(float(logits[READ[0]] - logits[READ[1]]))
        return out

    return run


def _writer(work: Work, asked: Asked) -> Callable[[torch.Tensor], torch.Tensor]:
    """Puts the donor's values into a tensor [row pos width]."""
    places, value, head = work.positions(asked), work.value(asked).flatten(1), asked[3]
    width = work.engine.spec.d_head
    columns = slice(None) if head is None else slice(head * width, (head + 1) * width)

    def put(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[0, places, columns] = value
        return tensor

    return put


def lens(work: Work) -> Callable[[Sequence[Asked]], list[float]]:
    import pandas  # type: ignore[import-untyped]
    from transformer_lens import patching

    from dst.models.bridge import _boot

    bridge = _boot(copy.deepcopy(work.model))
    ids = torch.tensor([work.row], device=work.device)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(torch.tensor([work.donor], device=work.device))
    whole = by_position("resid_pre", work.n_layers, work.tokens)

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, READ[0]] - logits[0, -1, READ[1]]

    def run(asked: Sequence[Asked]) -> list[float]:
        with torch.no_grad():
            if list(asked) == whole:
                found = patching.get_act_patch_resid_pre(bridge, ids, cache, metric)
                return found.flatten().tolist()
            kind, _, _, head = asked[0]
            second = "pos" if head is None else "head"
            setter = (
                patching.layer_pos_patch_setter
                if head is None
                else patching.layer_head_vector_patch_setter
            )
            rows = [(one[1], one[2] if head is None else one[3]) for one in asked]
            found = patching.generic_activation_patch(
                bridge, ids, cache, metric, setter, kind,
                index_df=pandas.DataFrame(rows, columns=["layer", second]),
            )  # fmt: skip
            return found.flatten().tolist()

    return run


def nnsight(work: Work) -> Callable[[Sequence[Asked]], list[float]]:
    from nnsight import TransformersModel

    model = TransformersModel(
        copy.deepcopy(work.model), tokenizer=_tokenizer(), task="text-generation",
        device=work.device,
    )  # fmt: skip
    ids = torch.tensor([work.row], device=work.device)
    blocks = model.model.layers if hasattr(work.model, "model") else model.transformer.h

    def run(asked: Sequence[Asked]) -> list[float]:
        out = []
        for one in asked:
            block, place, value = blocks[one[1]], one[2], work.value(one)[0]
            with torch.no_grad(), model.trace(ids, use_cache=False, logits_to_keep=1):
                block.input[:, place] = value
                logits = model.output.logits.save()
            out.append(float(logits[0, -1, READ[0]] - logits[0, -1, READ[1]]))
        return out

    return run


def _tokenizer() -> Any:
    """One that nnsight accepts; it is never asked."""
    import transformers
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<unk>", eos_token="<unk>"
    )


TOOLS: dict[str, Callable[[Work], Callable[[Sequence[Asked]], list[float]]]] = {
    "transformer_lens": lens,
    "nnsight": nnsight,
    "plain hooks": plain_hooks,
}


# -- measuring -----------------------------------------------------------------------------


def clock(device: torch.device) -> Seconds:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def rate(work: Work) -> float:
    """Multiplications and additions a second, of 2,048 rows with a block's widest matrix."""
    width, dtype = work.engine.spec.d_model, next(work.model.parameters()).dtype
    a = torch.randn(2048, width, device=work.device, dtype=dtype)
    b = torch.randn(width, 4 * width, device=work.device, dtype=dtype)
    best = 0.0
    for _ in range(5):
        started = clock(work.device)
        for _ in range(4):
            a @ b
        best = max(best, 8 * 2048 * 4 * width**2 / (clock(work.device) - started))
    return best


def timed(call: Callable[[], list[float]], device: torch.device) -> tuple[Seconds, list[float]]:
    gc.collect()
    started = clock(device)
    out = call()
    return clock(device) - started, out


def measure(work: Work, tools: Sequence[str], whole: Sequence[str] = ()) -> dict[str, Any]:
    """Seconds of every tool for the whole grid, the largest difference, what is needed."""
    run, index = ours(work), {one: i for i, one in enumerate(work.asked)}
    run(work.asked[: min(8, len(work.asked))])  # warm
    rates = [rate(work)]
    seconds, known = timed(lambda: run(work.asked), work.device)
    rates.append(rate(work))
    found: dict[str, Any] = {"cells": len(work.asked), "dst": seconds, "difference": 0.0}
    for name in tools:
        some = work.asked if name in whole else work.sample()
        other = TOOLS[name](work)
        other(some[:2])  # warm
        spent, values = timed(lambda other=other, some=some: other(some), work.device)  # type: ignore[misc]
        found[name] = spent * len(work.asked) / len(some)
        gaps = [abs(value - known[index[one]]) for one, value in zip(some, values, strict=True)]
        found["difference"] = max(found["difference"], *gaps)
        del other
    again, _ = timed(lambda: run(work.asked), work.device)
    rates.append(rate(work))
    found["dst"] = (found["dst"] + again) / 2
    found["rate"] = statistics.median(rates)
    found["needed"] = work.needed() / found["rate"]
    return found


# -- tables --------------------------------------------------------------------------------

EVERY = tuple(TOOLS)


def speed() -> None:
    """The table beside the other tools."""
    rows: list[Sequence[Any]] = []
    targets: list[tuple[str, float, float]] = []
    details: dict[str, Any] = {"threads": torch.get_num_threads()}

    def line(
        shape: str, model: Any, kind: str, tokens: int, differ: int, tools: Sequence[str],
        limit: float = 0.0, whole: Sequence[str] = (), *, share: bool = False,
    ) -> None:  # fmt: skip
        n_layers = model.config.num_hidden_layers
        heads = model.config.num_attention_heads
        asked = by_head(n_layers, heads) if kind == "z" else by_position(kind, n_layers, tokens)
        found = measure(Work(model, tokens, differ, asked), tools, whole)
        peers = [found.get(name) for name in EVERY]
        fastest = found["transformer_lens"] / found["dst"]
        what = f"{shape}, {kind if kind != 'z' else 'z by head'}, {tokens} tokens, "
        what += "first word" if not differ else f"word {differ + 1}"
        rows.append((
            what, found["cells"], found["dst"], *peers, fastest,
            found["needed"], found["needed"] / found["dst"], found["difference"],
        ))  # fmt: skip
        details[what] = found
        if limit:
            targets.append((
                f"{what}: time over transformer_lens'", found["dst"] / found["transformer_lens"],
                1 / limit,
            ))  # fmt: skip
        if share:
            targets.append((f"{what}: time over what is needed", found["dst"] / found["needed"],
                            1 / 0.8))  # fmt: skip
        targets.append((f"{what}: largest difference", found["difference"], EQUAL))
        print(f"{what}: {found}", file=sys.stderr, flush=True)

    short, longer, longest = (6, 8, 10) if SMOKE else (24, 64, 256)
    model = made("GPT-2 small")
    full = ("transformer_lens",)
    line("GPT-2 small", model, "resid_pre", short, 0, EVERY, 10, full)
    line("GPT-2 small", model, "resid_pre", short, short // 3, full, 15)
    line("GPT-2 small", model, "attn_out", short, 0, ("transformer_lens", "plain hooks"), 5)
    line("GPT-2 small", model, "mlp_out", short, 0, ("transformer_lens", "plain hooks"), 5)
    line("GPT-2 small", model, "z", short, 0, ("transformer_lens", "plain hooks"), 5)
    line("GPT-2 small", model, "resid_pre", longer, 0, full, share=True)
    line("GPT-2 small", model, "resid_pre", longest, longest // 3, full, share=True)
    del model
    model = made("0.5 B Llama")
    line("0.5 B Llama", model, "resid_pre", short, 0, EVERY, 8)
    line("0.5 B Llama", model, "resid_pre", short, short // 3, full, 15)
    line("0.5 B Llama", model, "resid_pre", longer, longer // 3, full, share=True)
    record(
        "patching",
        title="What a grid of patched runs costs",
        about="Random weights, float32; a prompt and a donor that differ in one word. Seconds for "
        "the whole grid: every layer by every position, or by every head; other tools run "
        f"{SAMPLE} random cells and are multiplied, transformer_lens runs the first grid as a "
        "whole; dst is the mean of two runs. *needed* is what the fewest operations that give the "
        "exact answer take at the rate of "
        "matrix multiplication measured in the same run. *difference* is the largest between any "
        "two tools, in logits. Where prompts differ later than at the first word, cells before "
        "are exact no-ops and are not run.",
        columns=("grid", "cells", "dst", *EVERY, "transformer_lens / dst", "needed",
                 "needed / dst", "difference"),
        rows=rows,
        targets=targets,
        details=details,
    )  # fmt: skip


def gpu() -> None:
    """The same beside plain hooks and transformer_lens on a GPU."""
    rows: list[Sequence[Any]] = []
    details: dict[str, Any] = {"device": torch.cuda.get_device_name()}
    for dtype in (torch.float32, torch.bfloat16):
        model = made("1 B Llama", "cuda", dtype)
        for tokens in (6, 8) if SMOKE else (128, 512):
            for differ in (0, tokens // 3):
                asked = by_position("resid_pre", model.config.num_hidden_layers, tokens)
                found = measure(Work(model, tokens, differ, asked), EVERY)
                kind = str(dtype).removeprefix("torch.")
                what = f"{kind}, {tokens} tokens, word {differ + 1}"
                details[what] = found
                rows.append((
                    what, found["cells"], found["dst"], *(found[name] for name in EVERY),
                    found["transformer_lens"] / found["dst"], found["needed"] / found["dst"],
                    found["difference"],
                ))  # fmt: skip
                print(f"{what}: {found}", file=sys.stderr, flush=True)
        del model
        torch.cuda.empty_cache()
    record(
        "patching_gpu",
        title="What a grid of patched runs costs on a GPU",
        about=f"{details['device']}; 1 B Llama shape, random weights, resid_pre at every layer and "
        f"position; seconds, other tools run {SAMPLE} random cells and are multiplied. Equal to "
        "rounding in float32; in bfloat16 batches of another size round otherwise.",
        columns=("grid", "cells", "dst", *EVERY, "transformer_lens / dst", "needed / dst",
                 "difference"),
        rows=rows,
        details=details,
    )  # fmt: skip


def growth() -> None:
    """Seconds against layers, positions and cases, one at a time."""

    def seconds(layers: int, tokens: int, cases: int) -> Seconds:
        import transformers

        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            hidden_size=64 if SMOKE else 512, num_hidden_layers=layers, num_attention_heads=8,
            num_key_value_heads=4, intermediate_size=96 if SMOKE else 1408, vocab_size=1000,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config).eval()
        engine = HooksBackend(model, _NoTokenizer(), name="random")
        rows = torch.randint(20, 1000, (2 * cases, tokens)).tolist()
        base = record_base(engine, rows)
        cells = [
            Cell(row, (Change(Site(layer, "resid_pre"), (p,), base.states[layer, cases + row, p]),))
            for row in range(cases)
            for layer in range(layers)
            for p in range(tokens)
        ]

        def run() -> list[float]:
            found = run_cells(engine, base, cells, tokens=READ)
            return found.logits[:, 0, 0].tolist()

        return min(timed(run, engine.model.device)[0] for _ in range(1 if SMOKE else 2))

    # The work grows with layers and with positions as their square: layers after the patched one,
    # positions after it.
    sweeps: dict[str, list[tuple[int, Seconds]]] = {
        "layers": [(n, seconds(n, 16, 2)) for n in (2, 4, 8, 16)],
        "positions": [(n, seconds(6, n, 2)) for n in (8, 16, 32, 64)],
        "cases": [(n, seconds(6, 16, n)) for n in (1, 2, 4, 8)],
    }
    power = {"layers": 2, "positions": 2, "cases": 1}
    rows = [
        (what, n, spent, spent / points[-1][1], (n / points[-1][0]) ** power[what])
        for what, points in sweeps.items()
        for n, spent in points
    ]
    if not SMOKE:
        ASSETS.mkdir(exist_ok=True)
        write_text_atomic(ASSETS / "patching_growth.svg", drawing(sweeps, power))
    record(
        "patching_growth",
        title="How the cost of a grid grows",
        about="Llama of width 512, resid_pre at every layer and position; one of layers, positions "
        "and cases is changed, the others stay at 6 layers, 16 positions, 2 cases. The work grows "
        "as the square of layers and of positions (all of those after the patched one), and as the "
        "number of cases. [Drawn](assets/patching_growth.svg).",
        columns=("changed", "to", "seconds", "share of the largest", "work, share of the largest"),
        rows=rows,
    )


def drawing(sweeps: dict[str, list[tuple[int, Seconds]]], power: dict[str, int]) -> str:
    """Three panels, doubling by doubling: measured (dots) and as the work grows (line)."""
    import math

    out = []
    for panel, (what, points) in enumerate(sweeps.items()):
        left, end = 60 + 250 * panel, points[-1]

        def place(n: float, spent: float, left: int = left, end: Any = end) -> tuple[float, float]:
            return left + 180 + 55 * math.log2(n / end[0]), 60 - 22 * math.log2(spent / end[1])

        work = [place(n, end[1] * (n / end[0]) ** power[what]) for n, _ in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in work)
        out.append(f'<polyline points="{path}" fill="none" stroke="#999"/>')
        for n, spent in points:
            x, y = place(n, spent)
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#1f5fa8"/>')
            out.append(
                f'<text x="{x:.1f}" y="{y - 9:.1f}" text-anchor="middle">{spent:.2g} s</text>'
            )
            out.append(f'<text x="{x:.1f}" y="245" text-anchor="middle">{n}</text>')
        out.append(f'<text x="{left + 100}" y="270" text-anchor="middle">{what}</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="830" height="290" '
        'font-family="sans-serif" font-size="12"><rect width="830" height="290" fill="white"/>'
        '<text x="20" y="20">Seconds for a grid (dots), and as the work grows (line); '
        "both axes double by double</text>" + "".join(out) + "</svg>\n"
    )


# -- memory --------------------------------------------------------------------------------


def peak() -> dict[str, float]:
    """Bytes of a long prompt patched by role and at every 64th position, in this process."""
    tokens = 96 if SMOKE else 1024
    config, kind = gpt2_small()
    torch.manual_seed(0)
    engine = HooksBackend(kind(config).eval(), _NoTokenizer(), name="random")
    rows = torch.randint(20, config.vocab_size, (2, tokens)).tolist()
    base = record_base(engine, rows)
    edges = [0, tokens // 16, tokens // 4, tokens // 2, tokens - 1, tokens]
    groups = [tuple(range(a, b)) for a, b in itertools.pairwise(edges)]
    groups += [(p,) for p in range(0, tokens, 64)]
    layers = range(0, engine.spec.n_layers, 3)
    cells = [
        Cell(0, (Change(Site(n, "resid_pre"), group, base.states[n, 1, list(group)]),))
        for n in layers
        for group in groups
    ]
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started = time.perf_counter()
    run_cells(engine, base, cells, tokens=READ)
    return {
        "cells": len(cells), "tokens": tokens, "seconds": time.perf_counter() - started,
        "before": before, "peak": _status("VmHWM"),
        "bound": before + 2 * MOST_BYTES + prefix_bytes(engine, tokens),
    }  # fmt: skip


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text("utf-8")
    return int(text.partition(f"{name}:")[2].split()[0]) * 1024


def memory() -> None:
    """`peak`, in a process of its own; nothing where Linux's /proc is not."""
    if not Path("/proc/self/clear_refs").exists():
        return
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.patching", "--peak"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"--peak failed: {done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    mib = {name: found[name] / 2**20 for name in ("before", "peak", "bound")}
    record(
        "patching_memory",
        title="What a grid of a long prompt takes",
        about=f"GPT-2 small's shape, a prompt of {found['tokens']} tokens patched in five spans "
        "and at every 64th position, at every third layer. The bound is the memory in use before, "
        "1 GiB for a batch, as much for keys and values, and one row's of those.",
        columns=("cells", "seconds", "MiB before", "peak MiB", "bound MiB"),
        rows=[(found["cells"], found["seconds"], *mib.values())],
        targets=[("peak memory, MiB", mib["peak"], mib["bound"])],
        details=found,
    )


def main(arguments: Sequence[str]) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if arguments[:1] == ["--peak"]:
        print(json.dumps(peak()))
        return
    parts = {"speed": speed, "growth": growth, "memory": memory}
    if torch.cuda.is_available():
        parts["gpu"] = gpu
    for name in arguments or parts:
        parts[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
