"""What a semantic map costs, beside a naive loop on the same work; and how stable maps are.

    python -m benchmarks.semantic_map

Speed: random weights at the shape of GPT-2 small, 24 tokens, all states, 20 nodes a state (two of
them the answers), 20 controls a concept. The tokenizer is made up: 32,000 words that open with a
space and 18,255 pieces that go on with one, as in GPT-2's vocabulary, so that every node is asked
whether the model makes a longer word of it. The naive loop runs the whole prompt once for every
move, with a hook, and reads the same words at the same states; it runs some random moves and is
multiplied. Its effects are compared with the map's.

Stability: the embedded model on test cases of its world, each with its paraphrases: the mean
Jaccard index of their top edges, ours and the published map's.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from benchmarks._record import SMOKE, record
from dst.analysis.semantic_map import jaccard, top_edges
from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.map_results import ConceptNodes
from dst.models.hooks import HooksBackend
from dst.models.load import load
from dst.studies.semantic_map import semantic_map
from dst.testbed import world
from dst.tracing.concept_effects import CONTROLS, Effects, concept_effects
from dst.tracing.concept_nodes import nodes_of
from dst.tracing.prepare import Prepared, prepare
from dst.tracing.published_map import published_map

NODES = 8 if SMOKE else 20
MOVES = 3 if SMOKE else 24
"""Random moves of the naive loop."""

CASES = 2 if SMOKE else 30
TOP = 20
EQUAL = 1e-4
SEED = 0


@dataclass(frozen=True)
class Seconds:
    """What a stretch of work took, by the clock on the wall and by the processor's own."""

    wall: float
    processor: float


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.started = time.perf_counter(), time.process_time()

    def __call__(self) -> Seconds:
        """Until now."""
        return Seconds(time.perf_counter() - self.started[0], time.process_time() - self.started[1])


# -- the model -----------------------------------------------------------------------------


def _word(i: int) -> str:
    return "".join("abcdefghijklmnopqrstuvwxyz"[(i // 26**k) % 26] for k in range(4))


def _tokenizer(d_vocab: int) -> Any:
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    opening = int(0.64 * d_vocab)
    pieces = [f"\u2581{_word(i)}" for i in range(opening)]
    pieces += [_word(i) for i in range(d_vocab - opening - 1)]
    ids = {piece: i for i, piece in enumerate(["<unk>", *pieces])}
    made = Tokenizer(models.WordPiece(ids, unk_token="<unk>", continuing_subword_prefix=""))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    made.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<unk>", eos_token="<unk>"
    )


def gpt2_small() -> HooksBackend:
    """Random weights at GPT-2 small's shape, with a tokenizer of its size."""
    import transformers

    sizes: dict[str, Any] = {}
    if SMOKE:
        sizes = {"n_layer": 3, "n_embd": 64, "n_head": 4, "vocab_size": 500}
    torch.manual_seed(SEED)
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config).eval()
    return HooksBackend(model, _tokenizer(config.vocab_size), name="random")


def prompt() -> Case:
    """24 words of one token each."""
    words = [_word(100 + 7 * i) for i in range(24)]
    return Case(
        prompt=" ".join(words),
        cue=words[3],
        subject=words[12],
        contextual=_word(5),
        associative=_word(6),
    )


# -- the naive loop ------------------------------------------------------------------------


def naive(
    model: HooksBackend, ready: Prepared, nodes: ConceptNodes, found: Effects
) -> tuple[Seconds, float]:
    """Seconds of one move as a full run with a hook, and the largest difference of its effects."""
    rng = np.random.default_rng(SEED)
    moving = np.argwhere(np.nan_to_num(found.moved) != 0)
    picks = [tuple(moving[i]) for i in rng.choice(len(moving), MOVES, replace=False)]
    head = model.model.lm_head.weight
    rows = (head[nodes.token_ids].double() - head.mean(dim=0, dtype=torch.float64)).detach()
    ids, norm = torch.tensor([ready.x.ids]), model.model.transformer.ln_f
    plain = _states(model, ids)
    clock, worst = Clock(), 0.0
    for s, v in picks:
        state = int(found.states[s])
        move = (-found.moved[s, v] * rows[v] / rows[v].norm()).float()
        moved = _states(model, ids, state, move)
        with torch.no_grad():
            for hop, end in enumerate(found.hop_states[:, s].tolist()):
                z = norm(torch.stack([plain[end] + move, moved[end]])).double() @ rows.T
                gap = np.abs((z[0] - z[1]).numpy() - found.effects[hop, s, v])
                worst = max(worst, float(np.nanmax(gap)))
    spent = clock()
    assert worst < EQUAL, f"the naive loop differs by {worst:.1e}"
    return Seconds(spent.wall / len(picks), spent.processor / len(picks)), worst


def _states(
    model: HooksBackend, ids: torch.Tensor, at: int = -1, move: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """Every state at the last position, with a move made at one of them."""
    kept: list[torch.Tensor] = []

    def before(module: Any, args: Any, kwargs: Any) -> Any:
        hidden = args[0]
        if len(kept) == at:
            hidden = hidden.clone()
            hidden[0, -1] += move
        kept.append(hidden[0, -1])
        return (hidden, *args[1:]), kwargs

    def after(module: Any, args: Any, output: Any) -> None:
        kept.append((output if isinstance(output, torch.Tensor) else output[0])[0, -1])

    blocks = model.model.transformer.h
    handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(after))
    with torch.no_grad():
        model.model(ids, use_cache=False, logits_to_keep=1)
    for handle in handles:
        handle.remove()
    return kept


# -- tables --------------------------------------------------------------------------------


def speed() -> None:
    """All states' maps, ours and the naive loop's."""
    model, case = gpt2_small(), prompt()
    semantic_map(model, case, most=1, states=[1], controls=3, show=False)  # warm
    runs = []
    for _ in range(1 if SMOKE else 2):
        clock = Clock()
        ready = prepare(model, case)
        nodes = nodes_of(model, ready.tokenized, None, most=NODES - 2)
        words = clock()
        found = concept_effects(model, ready, nodes, show=False)
        runs.append((clock(), words))
    whole, words = min(runs, key=lambda run: run[0].processor)
    moving = np.nan_to_num(found.moved) != 0
    targets = [_reached(nodes, found, s) for s in range(len(found.states))]
    apart = sum(int(moving[s].sum()) * (1 + CONTROLS * n) for s, n in enumerate(targets))
    each, difference = naive(model, ready, nodes, found)
    n_states = int(nodes.node.sum(axis=1).max())

    def loop(moves: int) -> tuple[int, None, float, float, float]:
        return moves, None, each.processor * moves, each.wall * moves, difference

    record(
        "semantic_map",
        title="What a semantic map costs",
        about=f"Random weights at GPT-2 small's shape, float32, {len(ready.x.ids)} tokens, "
        f"{model.spec.n_layers} source states, {n_states} nodes a state, {CONTROLS} controls a "
        "concept, effects read 1 block on, 4 blocks on and at the output. At state 0 nothing "
        f"moves. {torch.get_num_threads()} thread(s), the better of two runs; *processor* is the "
        "time of the processor, which others on the machine do not lengthen as they do the "
        "*wall* clock. *Words* is what of it goes into finding the nodes. The naive loop runs the "
        f"whole prompt for every move: {MOVES} random ones, multiplied. *Difference* is the "
        "largest between its effects and the map's, in logits. Controls that are drawn for each "
        "target word apart multiply the moves; ours have the cosine to all target words of a "
        "group at once.",
        columns=("", "moves", "words (s)", "processor (s)", "wall (s)", "difference"),
        rows=[
            ("dst", found.moves, words.processor, whole.processor, whole.wall, None),
            ("naive loop, the same moves", *loop(found.moves)),
            ("naive loop, controls for each target", *loop(apart)),
        ],
        targets=[
            ("all maps, processor seconds", whole.processor, 20.0),
            ("largest difference, logits", difference, EQUAL),
        ],
        details={
            "threads": torch.get_num_threads(),
            "runs": [(asdict(whole), asdict(words)) for whole, words in runs],
            "naive_seconds_per_move": asdict(each),
            "concepts_moved": int(moving.sum()),
        },
    )


def _reached(nodes: ConceptNodes, found: Effects, s: int) -> int:
    """Target words of one source state."""
    return int(nodes.node[list(set(found.hop_states[:, s]))].any(axis=0).sum())


def stability() -> None:
    """Jaccard index of the top edges over paraphrases, ours and the published map's."""
    model, names = load(), ("kept", "tested", "tested, words only", "published")
    overlap: dict[str, list[float]] = {name: [] for name in names}
    kept, left_out = [], 0
    for case in world.cases(split="test", n=CASES, seed=SEED):
        sets: dict[str, list[Any]] = {name: [] for name in names}
        for asked in (case, *(_paraphrase(case, text) for text in case.paraphrases)):
            try:
                found = semantic_map(model, asked, show=False)
            except InputError:  # such as a cue that the paraphrase words in another way
                left_out += 1
                continue
            kept.append(int(found.kept.sum()))
            sets["kept"].append(top_edges(found, TOP))
            sets["tested"].append(top_edges(found, TOP, kept=False))
            sets["tested, words only"].append(top_edges(found, TOP, kept=False, states=False))
            theirs = sorted(published_map(model, asked).edges, key=lambda e: -abs(e["omega"]))
            published = [(e["source"], e["target"], e["state"]) for e in theirs]
            sets["published"].append(frozenset(published[:TOP]))
        for name, several in sets.items():
            pairs = jaccard(several)[np.triu_indices(len(several), 1)]
            if not np.isnan(pairs).all():
                overlap[name].append(float(np.nanmean(pairs)))
    rows = [
        (name, len(overlap[name]), float(np.mean(overlap[name])) if overlap[name] else None)
        for name in names
    ]
    record(
        "map_stability",
        title="How stable semantic maps are over paraphrases",
        about=f"The embedded model, {CASES} test cases of its world and their paraphrases (5 "
        f"each; {left_out} do not fit their case and are left out). Mean Jaccard index of the "
        f"{TOP} top edges over pairs of prompts that say the same, then over cases. *Kept*: edges "
        "at a false discovery rate of 5 %, over cases where any prompt has one; *tested*: all, by "
        "|effect - control|; *published*: by |Omega|, which has no test. Of "
        f"{len(kept)} maps, {np.mean(np.array(kept) > 0):.0%} have a kept edge, "
        f"{np.mean(kept):.1f} on average. Stable is not true: see docs/semantic_map.md.",
        columns=("edges", "cases", "Jaccard"),
        rows=rows,
        details={"kept_edges_per_map": kept},
    )


def _paraphrase(case: Case, text: Any) -> Case:
    """The same case asked in other words; its neutral prompts are drawn anew."""
    try:
        return case.replace(
            prompt=text,
            question=None,
            distractor=(),
            neutral=(),
            substitute=(),
            swap=(),
            clean=(),
            paraphrases=(),
        )
    except InputError:
        return case.replace(prompt=text, question=None, cue=(), distractor=(), neutral=(),
                            substitute=(), swap=(), clean=(), paraphrases=())  # fmt: skip


if __name__ == "__main__":
    speed()
    stability()
