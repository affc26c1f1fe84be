"""Cuts: scores to -inf and renormalised, against attention written out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dst.core.errors import CapabilityError, InterventionError
from dst.core.sites import Site
from dst.models.backend import Cut
from tests import tiny
from tests.models.manual import recorded
from tests.models.test_hooks_sites import BOTH, LAYERS, ROWS, close


def by_hand(family: str, engine: Any, ids: list[int], cuts: list[Cut]) -> Any:
    """The manual forward with -inf put where the cuts say, positions not negative."""

    def change(layer: int, kind: str, value: torch.Tensor) -> torch.Tensor:
        if kind != "scores":
            return value
        value = value.clone()
        for cut in cuts:
            if cut.layer == layer:
                for head in range(4) if cut.heads is None else cut.heads:
                    for query in cut.queries:
                        for key in cut.keys:
                            value[head, query, key] = -math.inf
        return value

    return recorded(family, engine.model, ids, change)


CUTS = {
    "one key": [Cut(1, [0], [5, 6], [2])],
    "several keys": [Cut(0, [0], [4, 6], [1, 3])],
    "some heads": [Cut(2, [0], [6], [0, 4], heads=[1, 3])],
    "several layers": [Cut(layer, [0], [3, 4, 5, 6], [1, 2]) for layer in LAYERS],
    "two at one layer": [Cut(1, [0], [5], [2]), Cut(1, [0], [6], [3], heads=[0])],
    "itself": [Cut(1, [0], [3], [3])],
}


@BOTH
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CUTS)
def test_a_cut_is_minus_infinity_and_renormalised(
    family: str, implementation: str, name: str
) -> None:
    engine = tiny.backend(family, attn_implementation=implementation)
    sites = [Site(layer, kind) for layer in LAYERS for kind in ("z", "resid_post")]
    run = engine.run(ROWS[:2], capture=sites, cuts=CUTS[name])
    logits, seen = by_hand(family, engine, ROWS[0], CUTS[name])
    close(run.logits[0], logits)
    for site in sites:
        close(run.states[site][0], seen[site.layer, site.kind])
    untouched, _ = recorded(family, engine.model, ROWS[1])
    close(run.logits[1, :4], untouched)


@BOTH
def test_the_pattern_shows_the_cut(family: str) -> None:
    engine = tiny.backend(family)
    cuts = [Cut(1, [0], [4, 6], [2, 3], heads=[1])]
    site = Site(1, "pattern")
    (pattern,) = engine.run(ROWS[:1], capture=[site], cuts=cuts).states.values()
    _, seen = by_hand(family, engine, ROWS[0], cuts)
    close(pattern[0], seen[1, "pattern"])
    assert not pattern[0, 1, [4, 4, 6, 6], [2, 3, 2, 3]].any()
    torch.testing.assert_close(pattern.sum(-1), torch.ones(1, 4, 7))


def test_rows_are_cut_at_their_own_places() -> None:
    engine = tiny.backend("llama")
    run = engine.run(ROWS[:2], cuts=[Cut(1, [1, 0], [[-1], [5]], [[0], [-4]])])
    close(run.logits[0], by_hand("llama", engine, ROWS[0], [Cut(1, [0], [5], [3])])[0])
    close(run.logits[1, :4], by_hand("llama", engine, ROWS[1], [Cut(1, [0], [3], [0])])[0])


def test_a_receipt_counts_the_places_of_its_own_cut() -> None:
    engine = tiny.backend("gpt2")
    cuts = [
        Cut(1, [0, 1], [2, 3], [0, 1]),  # 2 rows x 2 queries x 2 keys
        Cut(1, [0], [6], [1, 2, 3], heads=[0, 2]),  # 3 pairs, whatever the heads
        Cut(0, [0], [1, 2], [2]),  # key 2 lies behind query 1
        Cut(2, [0], [3], [1]),
    ]
    receipts = engine.run(ROWS[:2], cuts=cuts).receipts
    assert [receipt.fired for receipt in receipts] == [8, 3, 1, 1]
    assert [receipt.rows for receipt in receipts] == [(0, 1), (0,), (0,), (0,)]
    assert receipts[1].where == "cut layer 1"
    assert all(math.isnan(receipt.delta_norm) for receipt in receipts)


WRONG_CUTS: dict[str, tuple[Cut, str]] = {
    "layer": (Cut(3, [0], [2], [1]), "cut at layer 3 does not exist; expected a layer from 0 to 2"),
    "negative layer": (Cut(-1, [0], [2], [1]), "cut at layer -1 does not exist"),
    "row": (Cut(0, [2], [2], [1]), "names row 2"),
    "query": (Cut(0, [1], [4], [1]), "names position 4 of a prompt with 4 tokens"),
    "key": (Cut(0, [0], [4], [7]), "names position 7 of a prompt with 7 tokens"),
    "no key": (Cut(0, [0], [4], []), "names no row or no position"),
    "head": (Cut(0, [0], [4], [1], heads=[4]), "names head 4; expected a head from 0 to 3"),
    "no head": (Cut(0, [0], [4], [1], heads=[]), "names no head, or one twice"),
    "what comes later": (Cut(0, [0], [1], [2, 3]), "cuts nothing in some row: no key lies at or"),
    "in one of the rows": (Cut(0, [0, 1], [[4], [0]], [[1], [1]]), "cuts nothing in some row"),
    "every key": (Cut(0, [0], [2], [0, 1, 2]), "leave a query without keys.* Leave the query"),
    "the only key": (Cut(0, [0], [0], [0]), "leave a query without keys"),
}


@pytest.mark.parametrize("name", WRONG_CUTS)
def test_a_cut_that_cannot_be_made_is_one_sentence(name: str) -> None:
    cut, sentence = WRONG_CUTS[name]
    with pytest.raises(InterventionError, match=sentence):
        tiny.backend("llama").run(ROWS[:2], cuts=[cut])


def test_two_cuts_together_may_not_leave_a_query_without_keys() -> None:
    cuts = [Cut(0, [0], [2], [0, 1]), Cut(0, [0], [2], [2], heads=[1])]
    with pytest.raises(InterventionError, match="leave a query without keys"):
        tiny.backend("llama").run(ROWS[:1], cuts=cuts)
    # At two layers each query has keys left.
    apart = [cuts[0], Cut(1, [0], [2], [2], heads=[1])]
    assert tiny.backend("llama").run(ROWS[:1], cuts=apart).logits.isfinite().all()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_sliding_window_leaves_fewer_keys_to_cut(implementation: str) -> None:
    engine = tiny.backend("mistral", attn_implementation=implementation)  # reads 5 keys
    with pytest.raises(InterventionError, match="cut at layer 1 never fired; expected keys that"):
        engine.run(ROWS[:1], cuts=[Cut(1, [0], [6], [0, 1])])
    (receipt,) = engine.run(ROWS[:1], cuts=[Cut(1, [0], [5, 6], [0, 1])]).receipts
    assert receipt.fired == 1  # only 5 reads 1
    with pytest.raises(InterventionError, match="cuts at layer 1 leave a query without keys"):
        engine.run(ROWS[:1], cuts=[Cut(1, [0], [6], [2, 3, 4, 5, 6])])


@tiny.families()
@pytest.mark.parametrize("implementation", [None, "eager"])  # None: the family's own choice
def test_a_key_that_nobody_reads_does_not_matter(family: str, implementation: str | None) -> None:
    engine = tiny.backend(family, attn_implementation=implementation)
    other = [ROWS[0][0], 77, *ROWS[0][2:]]
    cuts = [Cut(layer, [0, 1], range(2, 7), [1]) for layer in LAYERS]
    seen = engine.run([ROWS[0], other], cuts=cuts).logits
    close(seen[0, 2:], seen[1, 2:])
    plain = engine.run([ROWS[0], other]).logits
    assert (plain[0, 2:] - plain[1, 2:]).abs().max() > 1e-3 * plain.abs().max()


@pytest.mark.parametrize("changes", [{"alibi": True}, {"alibi": True, "multi_query": False}])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_mask_that_holds_biases_is_cut_too(changes: Any, implementation: str) -> None:
    engine = tiny.backend("falcon", attn_implementation=implementation, **changes)
    other = [ROWS[0][0], 77, *ROWS[0][2:]]
    cuts = [Cut(layer, [0, 1], range(2, 7), [1], heads=range(4)) for layer in LAYERS]
    seen = engine.run([ROWS[0], other], cuts=cuts).logits
    close(seen[0, 2:], seen[1, 2:])


def test_attention_that_takes_no_mask_cannot_be_cut() -> None:
    engine = tiny.backend("llama")
    engine.model.config._attn_implementation = "flash_attention_2"
    sentence = r"attention \(flash_attention_2\) takes no mask per query and key"
    with pytest.raises(CapabilityError, match=sentence):
        engine.run(ROWS[:1], cuts=[Cut(1, [0], [2], [1])])
