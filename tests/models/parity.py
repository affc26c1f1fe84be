"""What it means for two engines to agree: measures, each a largest relative difference.

`test_parity.py` asserts them; `benchmarks/backend_table.py` writes them down. The reference
is always the hooks engine on the very same weights, itself compared with what transformers
returns. Every measure first makes sure that there is something to agree on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from dst.core.sites import HEAD_KINDS, KINDS, RESIDUAL_KINDS, Site
from dst.models.backend import Cut, Edit, Receipt, Run
from tests import tiny

TOLERANCE = 1e-5
"""Of the largest logit or activation, in float32."""

ROWS = ([5, 9, 33, 2, 77, 8, 90], [4, 6, 8, 120], [11, 3, 60, 14, 7])
LAYER = 1


def tiny_model(family: str) -> Any:
    """A small random model whose biases and norm gains are random too (transformers' are 0, 1)."""
    model = tiny.model(family, len(tiny.byte_bpe()) + 3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return model


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Max |a - b| / max |b|; infinite where a is not finite."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    assert a.shape == b.shape, f"{tuple(a.shape)} is compared with {tuple(b.shape)}"
    return float((a - b).abs().max() / b.abs().max()) if bool(a.isfinite().all()) else math.inf


def sites_of(reference: Any) -> list[Site]:
    """Every site that the reference finds in this model."""
    return [
        Site(layer, kind)
        for layer in range(reference.spec.n_layers)
        for kind in KINDS
        if kind not in reference.anatomy.missing
    ]


def real(run: Run, site: Site, row: int) -> torch.Tensor:
    """A captured state of one row, at its real tokens."""
    n = int(run.lengths[row])
    state = run.states[site][row]
    return state[:, :n, :n] if site.kind == "pattern" else state[:n]


def each_logits(run: Run, other: Run) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits of two runs, row by row, at the real tokens."""
    for row, n in enumerate(run.lengths.tolist()):
        yield run.logits[row, :n], other.logits[row, :n]


def same_receipts(ours: Sequence[Receipt], theirs: Sequence[Receipt]) -> None:
    """Same places, same number of fires, same change (rounding aside)."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.where, a.fired, a.rows) == (b.where, b.fired, b.rows)
        both_nan = math.isnan(a.delta_norm) and math.isnan(b.delta_norm)
        assert both_nan or math.isclose(a.delta_norm, b.delta_norm, rel_tol=1e-4), (a, b)


def value_for(reference: Any, site: Site, seed: int = 0) -> torch.Tensor:
    """Something to write at a site: larger than what is there, of no particular direction."""
    spec = reference.spec
    width = (spec.heads_at(site.kind), spec.d_head) if site.kind in HEAD_KINDS else (spec.d_model,)
    there = reference.run([ROWS[0]], capture=[site]).states[site]
    noise = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return 3 * noise * there.float().std().cpu()


# -- the measures ------------------------------------------------------------------------


def plain_forward(reference: Any, engine: Any) -> float:
    """Logits against those of the transformers model itself."""
    worst = 0.0
    for row in ROWS:
        with torch.no_grad():
            plain = reference.model(input_ids=torch.tensor([row]), use_cache=False).logits[0]
        worst = max(worst, relative(engine.run([row]).logits[0], plain))
    return worst


def hidden_states(reference: Any, engine: Any) -> float:
    """resid_pre of every layer against transformers' hidden states."""
    sites = [Site(layer, "resid_pre") for layer in range(reference.spec.n_layers)]
    with torch.no_grad():
        seen = reference.model(
            input_ids=torch.tensor([ROWS[0]]), use_cache=False, output_hidden_states=True
        )
    states = engine.run([ROWS[0]], capture=sites).states
    return max(relative(states[site], seen.hidden_states[site.layer]) for site in sites)


def captures(kinds: Sequence[str]) -> Callable[[Any, Any], float]:
    """States of some kinds of site, at every layer and row."""

    def measure(reference: Any, engine: Any) -> float:
        sites = [site for site in sites_of(reference) if site.kind in kinds]
        assert sites
        theirs, ours = (
            model.run(ROWS, capture=sites, logits_at=[-1]) for model in (reference, engine)
        )
        assert list(ours.states) == list(theirs.states) == sites
        return max(
            relative(real(ours, site, row), real(theirs, site, row))
            for site in sites
            for row in range(len(ROWS))
        )

    return measure


def edits(kinds: Sequence[str]) -> Callable[[Any, Any], float]:
    """Logits and the state edited, after `set` and `add`, whole and head by head."""

    def measure(reference: Any, engine: Any) -> float:
        base = reference.run(ROWS)
        worst = 0.0
        for kind in kinds:
            site = Site(LAYER, kind)
            value = value_for(reference, site)
            # A row each: one list of positions for all, one for each, and a broadcast value.
            wanted = [
                Edit(site, [0, 2], [[1, -1], [-2, 2]], value),
                Edit(site, [1], [2], -0.5 * value, "add"),
            ]
            if kind in HEAD_KINDS:
                wanted.append(Edit(site, [0], [3, 4], value[-1], "set", heads=[0]))
                wanted.append(Edit(site, [2], [0], value[:1], "add", heads=[-1 % len(value)]))
            after = Site(LAYER, "resid_post")
            theirs, ours = (
                model.run(ROWS, edits=wanted, capture=[site, after])
                for model in (reference, engine)
            )
            same_receipts(ours.receipts, theirs.receipts)
            for (mine, its), (was, _) in zip(
                each_logits(ours, theirs), each_logits(base, base), strict=True
            ):
                assert relative(its, was) > 10 * TOLERANCE, f"an edit at {site} shows nothing"
                worst = max(worst, relative(mine, its))
            for seen in (site, after):
                for row in range(len(ROWS)):
                    worst = max(worst, relative(real(ours, seen, row), real(theirs, seen, row)))
        return worst

    return measure


def cuts(reference: Any, engine: Any) -> float:
    """Logits and patterns after cuts of all heads and of one, with an edit on top."""
    base = reference.run(ROWS, logits_at=[-1])
    wanted = [
        Cut(0, [0, 1, 2], [-1], [1]),
        Cut(LAYER, [0, 2], [3, 4], [2, 3], heads=[0]),
        Cut(LAYER, [1], [3], [2]),
    ]
    site = Site(LAYER, "attn_out")
    edit = Edit(site, [0], [-1], value_for(reference, site), "add")
    theirs, ours = (
        model.run(ROWS, cuts=wanted, edits=[edit], capture=[site], logits_at=[-1])
        for model in (reference, engine)
    )
    same_receipts(ours.receipts, theirs.receipts)
    assert relative(theirs.logits, base.logits) > 10 * TOLERANCE
    rows = range(len(ROWS))
    return max(
        relative(ours.logits, theirs.logits),
        *(relative(real(ours, site, row), real(theirs, site, row)) for row in rows),
    )


def cut_patterns(reference: Any, engine: Any) -> float:
    """Attention patterns after a cut: nothing at the keys cut, the rest summing to 1."""
    site = Site(LAYER, "pattern")
    cut = [Cut(LAYER, [0], [4, 5], [2, 3])]
    theirs, ours = (model.run([ROWS[0]], cuts=cut, capture=[site]) for model in (reference, engine))
    pattern = ours.states[site][0]
    assert float(pattern[:, 4:6, 2:4].abs().max()) == 0.0
    assert torch.allclose(pattern.sum(-1), torch.ones(()), atol=1e-5)
    return relative(pattern, theirs.states[site][0])


def readouts(reference: Any, engine: Any) -> float:
    """Norm, unembedding, frozen scale, directions, head outputs, biases."""
    spec = reference.spec
    sites = [Site(LAYER, kind) for kind in ("resid_post", "attn_out", "z")]
    run = reference.run([ROWS[0]], capture=sites)
    state, added, z = (run.states[site] for site in sites)
    other = 2.0 * state.roll(1, 1)
    ids = [3, 0, spec.d_vocab - 1]
    pairs = [
        (engine.unembed(state), reference.unembed(state)),
        (engine.unembed(added, state), reference.unembed(added, state)),
        (engine.unembed(state, other), reference.unembed(state, other)),
        (engine.final_norm(state), reference.final_norm(state)),
        (engine.directions(ids), reference.directions(ids)),
        (engine.directions(), reference.directions()),
        (
            engine.head_outputs(LAYER, z, added),
            reference.head_outputs(LAYER, z, added),
        ),
    ]
    assert torch.equal(engine.head_bias(ids), reference.head_bias(ids))
    return max(relative(ours, theirs) for ours, theirs in pairs)


def batch(reference: Any, engine: Any) -> float:
    """A padded batch against its rows alone, whichever side the padding is on."""
    width = max(map(len, ROWS)) + 2
    worst = 0.0
    site = Site(LAYER, "resid_post")
    alone = [engine.run([row], capture=[site]) for row in ROWS]
    for left in (False, True):
        ids = torch.full((len(ROWS), width), 7)
        mask = torch.zeros(len(ROWS), width)
        for i, row in enumerate(ROWS):
            place = slice(width - len(row), width) if left else slice(0, len(row))
            ids[i, place], mask[i, place] = torch.tensor(row), 1
        together = engine.run(ids, mask, capture=[site])
        assert together.lengths.tolist() == [len(row) for row in ROWS]
        for i, single in enumerate(alone):
            worst = max(worst, relative(real(together, site, i), real(single, site, 0)))
            n = len(ROWS[i])
            worst = max(worst, relative(together.logits[i, :n], single.logits[0]))
    return worst


def generation(reference: Any, engine: Any) -> float:
    """The same greedy tokens; 0 if they are, infinite if not."""
    theirs = reference.generate(ROWS[0], 4)
    return 0.0 if theirs and engine.generate(ROWS[0], 4) == theirs else math.inf


MEASURES: dict[str, Callable[[Any, Any], float]] = {
    "logits": plain_forward,
    "hidden states": hidden_states,
    "read residual": captures(RESIDUAL_KINDS),
    "read q k v": captures(("q", "k", "v")),
    "read z": captures(("z",)),
    "read pattern": captures(("pattern",)),
    "edit residual": edits(RESIDUAL_KINDS),
    "edit q k v": edits(("q", "k", "v")),
    "edit z": edits(("z",)),
    "cut": cuts,
    "cut pattern": cut_patterns,
    "lens": readouts,
    "batch": batch,
    "generate": generation,
}
"""What is compared, by the name it has in the table."""
