"""Correct runs of planted and random models: which they are, their margins, their doses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.lens_results import ReferenceRuns, TunedLens
from dst.models.hooks import HooksBackend
from dst.tracing import reference as module
from tests import tiny
from tests.studies.planted import PROMPT, planted

FISH, GUITAR = [2.0, 1.0, 3.0, 5.0], [0.0, 4.0, 2.5, -1.0]
CASES = [
    Case(prompt=PROMPT, contextual="fish", associative="guitar", case_id="right"),
    Case(prompt=PROMPT, contextual="guitar", associative="fish", case_id="wrong"),
    Case(prompt=PROMPT, contextual="drum", associative="song", case_id="neither"),
    Case(prompt=PROMPT, contextual="fish", case_id="open"),
    Case(prompt=f"zebra {PROMPT}", contextual="fish", associative="song", case_id="unknown"),
    Case(
        prompt=PROMPT,
        contextual="fish",
        associative="guitar",
        twin_question=PROMPT,
        question="the bass is a",
        case_id="twin",
    ),
    Case(prompt=PROMPT, contextual="fish", associative="song", case_id="right too"),
]
TEXTS = [f"{a} {b} {c} ." for a in ("Anna", "Ben") for b in ("is", "sees", "hears")
         for c in ("fish", "song", "guitar", "green")]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> HooksBackend:
    return planted({"fish": FISH, "guitar": GUITAR})


@pytest.fixture(scope="module")
def lens(model: HooksBackend) -> TunedLens:
    return dst.fit_tuned_lens(model, TEXTS, steps=0, show=False)


def test_which_runs_are_correct_and_their_margins(model: HooksBackend) -> None:
    found = dst.reference_runs(model, CASES, doses=1, show=False)
    assert found.case_ids == tuple(case.case_id for case in CASES)
    assert found.outcomes[:3] == ("correct", "hallucination", "neither")
    assert found.outcomes[3] == "left out: no associative answer"
    assert found.outcomes[4].startswith("left out: The model does not know 'zebra'")
    assert found.outcomes[5] == "left out: a yes/no question with a twin is two prompts"
    assert found.correct == ("right", "right too")
    assert found.lenses == ("logit_lens",)
    margins = found.margin_of("logit_lens")
    assert margins is not None
    np.testing.assert_allclose(margins[0], np.subtract(FISH, GUITAR), atol=1e-4)
    np.testing.assert_allclose(margins[1], FISH, atol=1e-4)  # the song's logit is 0
    assert found.margin_of("tuned_lens") is None
    np.testing.assert_array_equal(found.dose, dst.dose(model, CASES[0]).value[None])


def test_margins_are_those_of_the_readouts(model: HooksBackend, lens: TunedLens) -> None:
    found = dst.reference_runs(model, CASES, lens=lens, doses=0, show=False)
    assert found.tuned_lens == lens.fingerprint
    assert found.dose.shape == (0, 4)
    for one in (None, lens):
        readout = dst.logit_lens(model, dst.trace(model, CASES[0]), lens=one)
        margins = found.margin_of(readout.lens)
        assert margins is not None
        np.testing.assert_allclose(margins[0], readout.margin, atol=1e-5)


def test_many_cases_of_many_lengths_run_as_each_alone() -> None:
    model = tiny.backend("gpt2")
    fish = model.tokenizer(" fish")["input_ids"][0]
    with torch.no_grad():  # a model that says fish
        row = model.model.lm_head.weight[fish]
        model.model.transformer.ln_f.bias.add_(8 * row / row.norm())
    model = HooksBackend(model.model, model.tokenizer)
    words = ["lake", "roof", "concert", "bank", "harbor", "city"]
    cases = [
        Case(
            prompt=f"Anna is at the {a}. The {b} is green.{' Ben is.' * n} The bass is a",
            contextual="guitar" if a == b else "fish",
            associative="fish" if a == b else "guitar",
            case_id=f"{a} {b} {n}",
        )
        for a in words
        for b in words
        for n in range(2)
    ]
    found = dst.reference_runs(model, cases, doses=0, show=False)
    assert found.outcomes.count("hallucination") == 12
    assert len(found.correct) == 60
    for run, case_id in enumerate(found.correct):
        (case,) = (one for one in cases if one.case_id == case_id)
        readout = dst.logit_lens(model, dst.trace(model, case))
        assert readout.top_ids[-1, 0] == fish
        np.testing.assert_allclose(found.margin[0, run], readout.margin, atol=1e-4)


def test_it_comes_back_from_a_file(model: HooksBackend, lens: TunedLens, tmp_path: Path) -> None:
    found = dst.reference_runs(model, CASES, lens=lens, doses=1, show=False)
    back = dst.open_result(found.save(tmp_path / "reference.npz"))
    assert isinstance(back, ReferenceRuns)
    assert (back.case_ids, back.outcomes) == (found.case_ids, found.outcomes)
    assert np.array_equal(back.margin, found.margin)
    assert np.array_equal(back.dose, found.dose, equal_nan=True)
    rows = back.to_records()
    assert len(rows) == 2 * 2 * 4
    assert {row["case_id"] for row in rows} == {"right", "right too"}
    assert rows[3]["margin"] == back.margin[0, 0, 3]


def test_what_cannot_be_a_reference_is_refused(model: HooksBackend, lens: TunedLens) -> None:
    with pytest.raises(InputError, match="None of the 2 cases was answered correctly"):
        dst.reference_runs(model, CASES[1:3], show=False)
    other = planted({"fish": FISH, "guitar": GUITAR}, seed=1)
    with pytest.raises(InputError, match="tuned lens was fitted to planted"):
        dst.reference_runs(other, CASES, lens=lens, show=False)
    found = dst.reference_runs(model, CASES, lens=lens, doses=0, show=False)
    with pytest.raises(InputError, match=r"The reference is of planted .* other weights"):
        module.aids(other, reference=found)
    twice = dst.fit_tuned_lens(model, TEXTS, steps=0, seed=1, show=False)
    with pytest.raises(InputError, match="read with another tuned lens than the one given"):
        module.aids(model, twice, found)


# -- beside the weights -------------------------------------------------------------------------


@pytest.fixture
def named(model: HooksBackend, tmp_path: Path) -> HooksBackend:
    """The planted model under the name of an empty folder."""
    return HooksBackend(model.model, model.tokenizer, name=str(tmp_path))


def test_what_a_folder_holds_is_found_and_said(named: HooksBackend) -> None:
    folder = Path(named.spec.name)
    before = module.aids(named)
    assert (before.lens, before.reference, before.note) == (None, None, "")
    assert before.no_lens == "needs a tuned lens (dst.fit_tuned_lens)"
    assert before.no_reference == "needs correct runs"
    fitted, reference = module.fit_defaults(named, folder, CASES, TEXTS, show=False)
    assert sorted(path.name for path in folder.iterdir()) == ["reference.npz", "tuned_lens.npz"]
    found = module.aids(named)
    assert found.lens is not None
    assert found.lens.fingerprint == fitted.fingerprint == reference.tuned_lens
    assert found.reference is not None
    assert found.reference.correct == ("right", "right too")
    assert found.note == f"with the tuned lens and reference of correct runs shipped with {folder}"
    assert module.aids(named, fitted, reference).note == ""


def test_what_a_folder_holds_of_other_weights_is_not_used(named: HooksBackend) -> None:
    folder = Path(named.spec.name)
    module.fit_defaults(named, folder, CASES, TEXTS, show=False)
    other = planted({"fish": FISH, "guitar": GUITAR}, seed=1)
    found = module.aids(HooksBackend(other.model, other.tokenizer, name=str(folder)))
    assert found.lens is None
    assert found.reference is None
    assert found.no_lens == "the model's tuned_lens.npz belongs to other weights or another " \
        "number type"  # fmt: skip
    assert found.no_reference.startswith("the model's reference.npz belongs to other weights")


@pytest.mark.parametrize("name", [module.LENS_FILE, module.REFERENCE_FILE])
def test_a_file_that_cannot_be_read_is_named_and_not_used(named: HooksBackend, name: str) -> None:
    path = Path(named.spec.name) / name
    path.write_bytes(b"nothing")
    found: Any = module.aids(named)
    assert f"the model's {name} cannot be read" in (found.no_lens, found.no_reference)
    dst.trace(named, CASES[0]).save(path)
    found = module.aids(named)
    assert f"the model's {name} holds another result" in (found.no_lens, found.no_reference)


def test_margins_of_another_lens_are_no_band(named: HooksBackend, lens: TunedLens) -> None:
    reference = dst.reference_runs(named, CASES, doses=0, show=False)
    without = module.aids(named, lens, reference)
    assert without.margins("tuned_lens") == (None, "the reference was read without a tuned lens")
    own, why = without.margins("logit_lens")
    assert own is not None
    assert why == ""
    module.fit_defaults(named, named.spec.name, CASES, TEXTS, show=False)
    twice = dst.fit_tuned_lens(named, TEXTS, steps=0, seed=1, show=False)
    found = module.aids(named, twice)  # the folder's reference, another lens
    assert found.margins("tuned_lens") == (None, "the reference was read with another tuned lens")
