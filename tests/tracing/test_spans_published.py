"""The published window method against its own steps in transformers, and its defect."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dst
from dst.core.case import Case
from dst.core.errors import CaseError, InputError
from dst.models.hooks import HooksBackend
from dst.tracing.spans_published import spans_published
from tests import tiny

CASE = Case(
    prompt="Anna is at the lake. Anna sees a bass. What is the bass? The bass is a",
    contextual="symphony",
    associative="octopus",
)


@pytest.fixture(scope="module")
def model() -> HooksBackend:
    return tiny.backend("llama", lambda: tiny.byte_bpe(bos=True))


def probabilities(model: HooksBackend, prompt: str, answer: list[int]) -> list[float]:
    """Of each answer token after the prompt and those before it, one forward pass each."""
    ids = model.tokenizer(prompt)["input_ids"]
    out = []
    for k, token in enumerate(answer):
        logits = model.model(torch.tensor([[*ids, *answer[:k]]])).logits[0, -1]
        out.append(float(logits.softmax(-1)[token]))
    return out


def as_coded(model: HooksBackend, prompt: str, answer: list[int]) -> float:
    """What the published code reads: token k at position k."""
    logits = model.model(torch.tensor([model.tokenizer(prompt)["input_ids"]])).logits[0]
    return float(np.mean([float(logits[k].softmax(-1)[t]) for k, t in enumerate(answer)]))


@pytest.mark.parametrize("target", ["associative", "contextual"])
def test_drops_are_those_of_the_published_steps(model: HooksBackend, target: str) -> None:
    found = spans_published(model, CASE, windows=(3, 5), target=target)
    words = str(CASE.prompt).split()
    assert found.windows[0] == "Anna is at"
    assert len(found.windows) == len(words) - 2 + len(words) - 4
    form = getattr(CASE, target)[0]
    answer = model.tokenizer(f" {form}", add_special_tokens=False)["input_ids"]
    alone = model.tokenizer(form, add_special_tokens=False)["input_ids"]
    assert len(answer) > 1
    with torch.no_grad():
        base = np.mean(probabilities(model, str(CASE.prompt), answer))
        coded = as_coded(model, str(CASE.prompt), alone)
        for i in (0, 4, 13, 20):
            size, start = len(found.windows[i].split()), found.starts[i]
            masked = " ".join([*words[:start], *["[MASK]"] * size, *words[start + size :]])
            drop = base - np.mean(probabilities(model, masked, answer))
            assert found.drop[i] == pytest.approx(drop, abs=1e-6)
            shift = coded - as_coded(model, masked, alone)
            assert found.drop_as_coded[i] == pytest.approx(shift, abs=1e-6)


def test_as_coded_nothing_but_the_first_words_can_score() -> None:
    """After a start token a one-token answer is read before any word: no window ever scores."""
    model = dst.load()
    case = Case(prompt="Leo is at the opera. Leo finds a bass. The bass is a kind of",
                contextual="instrument", associative="fish")  # fmt: skip
    found = spans_published(model, case)
    assert np.abs(found.drop_as_coded).max() < 1e-6
    assert np.abs(found.drop).max() > 0.01
    assert len(found.top()) <= 10
    drops = [drop for _, drop in found.top()]
    assert drops == sorted(drops, reverse=True)
    assert min(drops) > 0
    assert found.mask_is_unknown
    assert "unknown" in found.notes[-1]
    tokens = dst.trace(model, case).tokens
    at = {window: [tokens[p] for p in found.positions[i]] for i, window in enumerate(found.windows)}
    assert [token.strip() for token in at["at the opera."]] == ["at", "the", "opera", "."]


def test_it_is_saved_and_has_rows(model: HooksBackend, tmp_path: object) -> None:
    found = spans_published(model, CASE)
    again = dst.open_result(found.save(f"{tmp_path}/published.npz"))
    assert again.to_records() == found.to_records()
    assert {row["size"] for row in found.to_records()} == {3, 5, 7}


def test_a_chat_is_masked_inside_its_template(model: HooksBackend) -> None:
    found = spans_published(model, CASE.replace(chat=True, system="Be short."), windows=(3,))
    trace = dst.trace(model, CASE.replace(chat=True, system="Be short."))
    first = "".join(trace.tokens[p] for p in found.positions[0])
    assert first.replace(" ", "") == "Annaisat"


def test_what_cannot_be_is_refused(model: HooksBackend) -> None:
    with pytest.raises(InputError, match="windows"):
        spans_published(model, CASE, windows=(0,))
    with pytest.raises(InputError, match="target is 'both'"):
        spans_published(model, CASE, target="both")
    with pytest.raises(CaseError, match="no associative answer"):
        spans_published(model, CASE.replace(associative=()))
    chat = CASE.replace(prompt=[{"role": "user", "content": "The bass is a"}])
    with pytest.raises(InputError, match="chat messages"):
        spans_published(model, chat)
