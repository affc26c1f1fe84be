"""Effects over many cases: single grids put together, and planted effects found again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dst
from dst.analysis.bootstrap import Resampling
from dst.analysis.effects import effect_map
from dst.core.case import Case
from dst.core.errors import InputError
from dst.tracing.columns import positions_of
from dst.tracing.prepare import prepare
from tests import tiny
from tests.tracing.patched import TEXT, case

WORDS = ("lake", "river", "harbor", "bank", "city", "water")
FAST: dict[str, Any] = {"resamples": 200, "controls": 1, "show_progress": False}


def cases() -> list[Case]:
    made = []
    for i, word in enumerate(WORDS):
        prompt = TEXT.format(word, "bass", "bass")
        made.append(
            case(
                prompt=prompt,
                cue=word,
                swap=TEXT.format("concert", "bass", "bass"),
                neutral=TEXT.format("song", "bass", "bass"),
                substitute=TEXT.format(word, "drum", "drum"),
                group=f"group {i // 2}",
            )
        )
    return made


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.backend("llama")


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_effects_are_those_of_single_grids(model: Any, direction: Any) -> None:
    found = dst.patch_effects(model, cases(), direction=direction, **FAST)
    assert found.case_ids == tuple(one.case_id for one in cases())
    assert found.groups == ("group 0",) * 2 + ("group 1",) * 2 + ("group 2",) * 2
    for i, one in enumerate(cases()):
        grid = dst.patch(model, one, by="role", direction=direction, show_progress=False)
        order = [grid.columns.index(name) for name in found.columns]
        np.testing.assert_allclose(found.effects[i], grid.effect()[:, order], atol=1e-5)
    assert found.self_patch_error < 1e-4
    assert found.donor_error < 1e-3
    assert found.failures == ()


def test_the_random_donor_is_another_case_of_one_cycle(model: Any) -> None:
    found = dst.patch_effects(model, cases(), **FAST)
    order = np.random.default_rng(0).permutation(len(cases()))
    for k, i in enumerate(order):
        donor = cases()[order[(k + 1) % len(order)]]
        grid = dst.patch(model, cases()[i], donor=donor, by="role", show_progress=False)
        columns = [grid.columns.index(name) for name in found.columns]
        np.testing.assert_allclose(found.random_effects[i], grid.effect()[:, columns], atol=1e-5)


def test_statistics_are_those_of_the_effect_map(model: Any) -> None:
    found = dst.patch_effects(model, cases(), **FAST)
    known = effect_map(
        found.effects,
        control=found.random_effects,
        clusters=found.groups,
        axes=("layer", "column"),
        resampling=Resampling(n_resamples=200, n_permutations=200, seed=0),
    )
    np.testing.assert_array_equal(found.p, known.p)
    np.testing.assert_array_equal(found.low, known.low)
    np.testing.assert_allclose(found.mean, found.effects.mean(axis=0))


def test_a_case_that_fails_is_listed_and_roles_of_one_case_are_left_out(model: Any) -> None:
    lone = case(prompt="Ben sees a bass. The bass is a", cue=(), swap=(), neutral=(), substitute=())
    found = dst.patch_effects(model, [*cases(), lone], **FAST)
    assert len(found.case_ids) == len(cases())
    (failure,) = found.failures
    assert failure.startswith(f"{lone.case_id}: The case has no swap variant")
    assert found.notes == ("1 of 7 cases failed.",)
    assert found.columns[-1] == "answer"
    with pytest.raises(InputError, match=r"1 of 2 cases could be patched .*expected two or more"):
        dst.patch_effects(model, [cases()[0], lone], **FAST)
    with pytest.raises(InputError, match="The donor 'noise'"):
        dst.patch_effects(model, cases(), donor="noise", **FAST)


def test_roles_are_columns_whatever_the_length(model: Any) -> None:
    longer = case(
        prompt="Ben and Anna is at the lake. Ben hears a bass. The bass is a",
        swap="Ben and Anna is at the concert. Ben hears a bass. The bass is a",
        neutral=(),
        substitute=(),
    )
    found = dst.patch_effects(model, [*cases(), longer], **FAST)
    assert found.failures == ()
    ready = prepare(model, longer)
    assert set(ready.roles) >= set(found.columns) - {"bos"}
    grid = dst.patch(model, longer, by="role", show_progress=False)
    cue = found.columns.index("cue")
    assert positions_of(ready.tokenized, "cue") == grid.column_positions[grid.columns.index("cue")]
    np.testing.assert_allclose(
        found.effects[-1, :, cue], grid.effect()[:, grid.columns.index("cue")], atol=1e-5
    )
