"""Yes/no questions with their twin, and variants of another length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dst.core.case import AlignedPrompt, Case
from dst.core.errors import CaseError, TokenError
from dst.core.sites import Site
from dst.models.backend import Edit
from dst.tracing.commitment import repairs
from dst.tracing.pathways import pathways
from dst.tracing.prepare import prepare
from tests import tiny


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.backend("llama", tiny.byte_bpe)


def question(word: str, **fields: Any) -> Case:
    """A yes/no prompt about a bass at the lake, with variants as long as it is."""
    text = "Anna is at the {}. Anna sees a {}. Is the {} a {}?"
    return Case(
        **{
            "prompt": text.format("lake", "bass", "bass", word),
            "contextual": "yes" if word == "fish" else "no",
            "associative": "no" if word == "fish" else "yes",
            "subject": "bass",
            "cue": "lake",
            "neutral": [text.format(c, "bass", "bass", word) for c in ("bank", "city")],
            "substitute": [text.format("lake", s, s, word) for s in ("drum", "song")],
            **fields,
        }
    )


def test_a_yes_no_case_is_half_the_difference_of_its_two_questions(model: Any) -> None:
    twin = "Anna is at the lake. Anna sees a bass. Is the bass a song?"
    together = pathways(model, question("fish", twin_question=twin), show_progress=False)
    # The two questions apart: given other words for yes and no, so that neither needs a twin.
    apart = []
    for word in ("fish", "song"):
        case = question(word, contextual="Yes", associative="No")
        apart.append(_parts(model, case))
    for name in ("contextual_removal", "contextual_insertion", "associative_removal",
                 "associative_insertion"):  # fmt: skip
        expected = (apart[0][name] - apart[1][name]) / 2
        np.testing.assert_allclose(getattr(together, name), expected, atol=2e-5)
    assert together.contrast == pytest.approx((apart[0]["ld"] - apart[1]["ld"]) / 2, abs=2e-5)


def _parts(model: Any, case: Case) -> dict[str, Any]:
    """Flows of one question alone, by the naive definition (LD of yes against no)."""
    ready = prepare(model, case)
    base = prepare(model, question("fish", twin_question="Anna is at the lake. Anna sees a bass. "
                                   "Is the bass a song?"))  # fmt: skip
    metric = base.metric

    def run(row: tuple[int, ...], **more: Any) -> tuple[float, dict[Site, torch.Tensor]]:
        sites = [Site(0, "resid_pre"), *(Site(i, "resid_post") for i in range(3))]
        out = model.run([row], capture=sites, logits_at=[-1], **more)
        return float(metric(out.last_logits)[0]), dict(out.states)

    x = ready.tokenized.ids
    found: dict[str, Any] = {}
    sites = [Site(0, "resid_pre"), *(Site(i, "resid_post") for i in range(3))]

    def swapped(row: tuple[int, ...], donor: tuple[int, ...]) -> np.ndarray:
        _, states = run(donor)
        table = np.zeros((4, len(ready.roles)))
        for s, site in enumerate(sites):
            for r, positions in enumerate(ready.positions):
                edit = Edit(site, [0], list(positions), states[site][:, list(positions)])
                table[s, r] = run(row, edits=[edit])[0]
        return table

    zeros = [row.ids for row in ready.variants.neutral]
    boths = [row.ids for row in ready.variants.neutral_substitute]
    found["ld"] = run(x)[0]
    found["contextual_removal"] = np.stack([run(x)[0] - swapped(x, z) for z in zeros])
    found["contextual_insertion"] = np.stack([swapped(z, x) - run(z)[0] for z in zeros])
    pairs = list(zip(zeros, boths, strict=True))
    found["associative_removal"] = np.stack([run(z)[0] - swapped(z, b) for z, b in pairs])
    found["associative_insertion"] = np.stack([swapped(b, z) - run(b)[0] for z, b in pairs])
    return found


def test_a_yes_no_question_without_its_twin_is_refused_with_the_way_out(model: Any) -> None:
    with pytest.raises(CaseError, match=r"without its twin.*Give twin_question"):
        pathways(model, question("fish"), show_progress=False)
    reasons = {mark.reason for mark in repairs(model, question("fish")).commitments}
    assert reasons == {"no twin of this yes/no question"}


def test_an_alignment_that_says_nothing_new_changes_nothing(model: Any) -> None:
    plain = Case(
        prompt="Anna is at the lake. Anna sees a bass. The bass is a",
        contextual="fish",
        associative="instrument",
        subject="bass",
        cue="lake",
        neutral="Anna is at the bank. Anna sees a bass. The bass is a",
        substitute="Anna is at the lake. Anna sees a drum. The drum is a",
    )
    text = "Anna is at the bank. Anna sees a bass. The bass is a"
    said = plain.replace(neutral=AlignedPrompt(text, (("lake", "bank"),)))
    one, two = (pathways(model, case, show_progress=False) for case in (plain, said))
    np.testing.assert_array_equal(one.contextual_removal, two.contextual_removal)
    np.testing.assert_array_equal(one.associative_insertion, two.associative_insertion)


def test_a_longer_variant_is_matched_through_its_spans(model: Any) -> None:
    case = Case(
        prompt="Anna is at the lake. Anna sees a bass. The bass is a",
        contextual="fish",
        associative="instrument",
        subject="bass",
        cue="the lake",
        neutral={
            "prompt": "Anna is at the bank of the city. Anna sees a bass. The bass is a",
            "aligned": [["the lake", "the bank of the city"]],
        },
        substitute="Anna is at the lake. Anna sees a drum. The drum is a",
    )
    ready = prepare(model, case)
    (row,) = ready.variants.neutral
    texts = [model.tokenizer.decode([row.ids[q]]) for q in row.places]
    assert texts[3:6] == [" the", " city", "."]  # inside the span matched from the right
    assert row.coverage == 1.0
    assert len(row.ids) == len(ready.tokenized.ids) + 3

    paths = pathways(model, case, show_progress=False)
    # One cell by hand: the cue's state 1 of x, put where the cue is in the longer neutral run.
    here = [3, 4]
    there = [row.places[p] for p in here]
    site = Site(0, "resid_post")
    x = model.run([ready.tokenized.ids], capture=[site], logits_at=[-1])
    edit = Edit(site, [0], there, x.states[site][:, here])
    by_hand = model.run([row.ids], edits=[edit], logits_at=[-1])
    plain = model.run([row.ids], logits_at=[-1])
    effect = ready.metric(by_hand.last_logits) - ready.metric(plain.last_logits)
    cell = paths.contextual_insertion[0, 1, paths.roles.index("cue")]
    assert cell == pytest.approx(float(effect[0]), abs=1e-6)
    assert np.isnan(paths.donor_error)  # no run here is as long as the prompt: not controlled


def test_another_length_without_an_alignment_shows_both_rows(model: Any) -> None:
    case = Case(
        prompt="Anna is at the lake. Anna sees a bass. The bass is a",
        contextual="fish",
        associative="instrument",
        subject="bass",
        cue="lake",
        neutral="Anna is at the bank of the city. Anna sees a bass. The bass is a",
    )
    with pytest.raises(TokenError, match=r"(?s)has 20 tokens|prompt:.*neutral:") as error:
        prepare(model, case)
    assert " lake|." in str(error.value)
    assert " bank| of| the| city|." in str(error.value)
    assert "say which spans correspond" in str(error.value)


@pytest.mark.parametrize(
    ("aligned", "message"),
    [
        ([["the lake", "the sea"]], "names 'the sea', which is not there"),
        ([["lake", "bank of the city"], ["bass", "bass"]], ""),
        ([["lake", "bank"]], "Outside its spans the neutral variant is another text"),
    ],
)
def test_an_alignment_that_does_not_fit_is_refused(
    model: Any, aligned: list[list[str]], message: str
) -> None:
    case = Case(
        prompt="Anna is at the lake. Anna sees a bass. The bass is a",
        contextual="fish",
        associative="instrument",
        subject="bass",
        cue="lake",
        neutral={
            "prompt": "Anna is at the bank of the city. Anna sees a bass. The bass is a",
            "aligned": aligned,
        },
    )
    if not message:
        assert prepare(model, case).variants.neutral[0].coverage == 1.0
        return
    with pytest.raises(TokenError, match=message):
        prepare(model, case)
