"""Patched cells against one whole run each, and against the closed forms of planted models."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.case import AlignedPrompt, Case
from dst.core.errors import (
    CapabilityError,
    CaseError,
    InputError,
    InterventionError,
    NumericalError,
    TokenError,
)
from dst.core.patch_results import PatchGrid
from dst.core.sites import Site
from dst.models.hooks import HooksBackend
from dst.models.load import embedded_path
from dst.testbed.planted import KINDS, Plant, Route, build, sample
from dst.testbed.planted_flows import NEUTRAL, SUBSTITUTE, SWAP, X, flows
from dst.testbed.planted_prompt import layout
from dst.tracing import grid as grid_module
from dst.tracing import patching
from dst.tracing.columns import window_of
from dst.tracing.prepare import prepare
from tests import tiny
from tests.tracing.patched import PROMPT, SWAPPED, TEXT, case, contrast, ids_of, put, state

SITES = ("resid_pre", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    # GPT-2's first weights are so small that its attention would be uniform.
    return tiny.backend(request.param, scale=12.0 if request.param == "gpt2" else 3.0)


def run(model: Any, given: Case | None = None, **asked: Any) -> PatchGrid:
    return dst.patch(model, given or case(), **{"show_progress": False, "controls": 2, **asked})


def by_hand(model: Any, grid: PatchGrid, base: str, donor: str) -> np.ndarray:
    """LD of every cell of a grid between two texts of equal length, one whole run each."""
    own, other = ids_of(model, base), ids_of(model, donor)
    sites = [Site(l, grid.site) for l in range(model.spec.n_layers)]
    theirs = model.run([other], capture=sites).states
    out = np.empty(grid.values.shape[2:])
    for i, layer in enumerate(grid.layers):
        for j, positions in enumerate(grid.column_positions):
            changes = []
            for l in window_of(int(layer), grid.window, model.spec.n_layers):
                site, head = Site(l, grid.site), grid.column_heads[j]
                heads = None if head < 0 else [head]
                value = theirs[site][0, list(positions)]
                changes.append(
                    (site, positions, value if heads is None else value[:, heads], heads)
                )
            out[i, j] = contrast(model, put(model, own, changes))
    return out


# -- one whole run per cell ----------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_every_cell_is_a_whole_run_with_the_state_put_in(
    model: Any, site: str, direction: str
) -> None:
    grid = run(model, site=site, direction=direction)
    texts = (PROMPT, SWAPPED)
    base, donor = texts if direction == "noising" else texts[::-1]
    assert grid.columns == prepare(model, case()).tokenized.tokens
    np.testing.assert_allclose(grid.value(), by_hand(model, grid, base, donor), atol=1e-4)
    assert np.abs(grid.effect()).max() > 0.005  # there is something to compare
    lds = [contrast(model, put(model, ids_of(model, text), [])) for text in (base, donor)]
    assert (grid.base[0, 0], grid.donor[0, 0]) == pytest.approx(lds, abs=1e-4)


@pytest.mark.parametrize("site", ["z", "q", "k", "v"])
@pytest.mark.parametrize("by", [None, "role"])
def test_heads_are_patched_one_by_one(site: str, by: str | None) -> None:
    model = tiny.backend("llama")  # grouped queries: 4 heads, 2 of keys and values
    grid = run(model, site=site, heads="each", by=by)
    n_heads = model.spec.heads_at(site)
    n_groups = 1 if by is None else len(prepare(model, case()).roles)
    assert grid.column_kind == ("head" if by is None else "head x role")
    assert grid.column_heads == tuple(h for h in range(n_heads) for _ in range(n_groups))
    known = by_hand(model, grid, PROMPT, SWAPPED)
    np.testing.assert_allclose(grid.value(), known, atol=1e-4)
    some = run(model, site=site, heads=[1], by=by)
    of_head = [i for i, head in enumerate(grid.column_heads) if head == 1]
    np.testing.assert_allclose(some.value(), grid.value()[:, of_head], atol=1e-5)


@pytest.mark.parametrize("window", [2, 3, 5])
def test_a_window_changes_the_layers_around_its_own(model: Any, window: int) -> None:
    grid = run(model, site="mlp_out", by="role", window=window)
    known = by_hand(model, grid, PROMPT, SWAPPED)
    np.testing.assert_allclose(grid.value(), known, atol=1e-4)


def test_windows_are_those_of_rome() -> None:
    # layers max(0, l - w // 2) up to min(L, l - (-w // 2)), as its code has it
    for n_layers in (3, 24):
        for window in (1, 2, 3, 5, 10):
            for layer in range(n_layers):
                rome = range(max(0, layer - window // 2), min(n_layers, layer - (-window // 2)))
                assert window_of(layer, window, n_layers) == tuple(rome)


def test_a_pattern_is_put_in_while_v_stays(model: Any) -> None:
    grid = run(model, site="pattern", heads="each", by=[[-1], [3, 4]])
    own, other = ids_of(model, PROMPT), ids_of(model, SWAPPED)
    for i in range(model.spec.n_layers):
        pattern = state(model, other, Site(i, "pattern"))
        v = state(model, own, Site(i, "v"))
        for j, positions in enumerate(grid.column_positions):
            head = grid.column_heads[j]
            kv = head * model.spec.n_kv_heads // model.spec.n_heads
            z = torch.stack([pattern[head, q] @ v[:, kv] for q in positions])
            changes = [(Site(i, "z"), positions, z[:, None], [head])]
            known = contrast(model, put(model, own, changes))
            assert grid.value()[i, j] == pytest.approx(known, abs=1e-4)
    assert np.abs(grid.effect()).max() > 0.01
    assert grid.controls.donor_reason == "patterns alone do not make the donor's run"


@tiny.families()
def test_every_family(family: str) -> None:
    """Residual, component and head, with the controls that each run brings."""
    model = tiny.backend(family)
    for site in ("resid_pre", "attn_out", "mlp_out", "z"):
        if site in model.anatomy.missing:
            continue
        grid = run(model, site=site, by="role", layers=[1])
        known = by_hand(model, grid, PROMPT, SWAPPED)
        np.testing.assert_allclose(grid.value(), known, atol=2e-4)
        assert grid.controls.self_patch_error < 1e-4
        assert grid.controls.donor_error < 1e-3


# -- what a cell is ------------------------------------------------------------------------------


def test_a_cell_that_changes_nothing_is_exact(model: Any) -> None:
    """Before the first token that differs both runs have the same states."""
    grid = run(model)
    own, other = ids_of(model, PROMPT), ids_of(model, SWAPPED)
    differ = next(i for i, (a, b) in enumerate(zip(own, other, strict=True)) if a != b)
    assert differ > 3
    assert (grid.effect()[:, :differ] == 0).all()
    assert (grid.delta_norm[..., :differ] == 0).all()
    assert (grid.fired[..., :differ] == 1).all()
    assert (grid.effect()[0, differ + 1 :] == 0).all()  # the same embeddings
    assert not grid.flips[0, 0, differ + 1]
    # everything that brings the donor is at the word that differs
    assert grid.value()[0, differ] == pytest.approx(grid.donor[0, 0], abs=1e-4)
    assert grid.recovery[0, differ] == pytest.approx(1, abs=1e-3) or grid.recovery_reason


def test_the_receipt_of_a_cell_is_its_change(model: Any) -> None:
    grid = run(model, by="role", site="resid_post")
    own, other = ids_of(model, PROMPT), ids_of(model, SWAPPED)
    for i in range(model.spec.n_layers):
        site = Site(i, "resid_post")
        delta = state(model, other, site) - state(model, own, site)
        for j, positions in enumerate(grid.column_positions):
            norm = float(delta[list(positions)].norm())
            assert grid.delta_norm[0, i, j] == pytest.approx(norm, rel=1e-4, abs=1e-5)
            assert grid.fired[0, i, j] == len(positions)


def test_flip_and_recovery_follow_from_the_contrasts(model: Any) -> None:
    grid = run(model, donor="neutral", by="role")
    ld, base, donor = grid.values[0], grid.base[0], grid.donor[0]
    assert ld.shape[0] == 2  # two draws
    signs = (ld > 0) != (base > 0)[:, None, None]
    np.testing.assert_array_equal(grid.flips, signs)
    np.testing.assert_allclose(grid.flip, signs.mean(axis=0))
    whole = (donor - base).mean()
    if abs(whole) >= 1:
        known = (ld - base[:, None, None]).mean(axis=0) / whole
        np.testing.assert_allclose(grid.recovery, known, atol=1e-12)
        assert grid.recovery_reason == ""
    else:
        assert np.isnan(grid.recovery).all()
        assert "less than 1 nat" in grid.recovery_reason


def test_several_donors_are_draws(model: Any) -> None:
    both = run(model, donor="substitute", by="role")
    for i, text in enumerate(case().substitute):
        one = run(model, case(substitute=text), donor="substitute", by="role")
        np.testing.assert_allclose(both.values[:, i], one.values[:, 0], atol=1e-5)
        np.testing.assert_allclose(both.donor[:, i], one.donor[:, 0], atol=1e-5)
    np.testing.assert_allclose(both.effect(), both.effects().mean(axis=0))


def test_drawn_variants_are_said() -> None:
    model = dst.load()
    demo = json.loads((embedded_path() / "card.json").read_text("utf-8"))["demo"]["hallucinated"]
    given = Case.from_dict(demo).replace(neutral=(), substitute=(), case_id="")
    grid = run(model, given, donor="neutral", by="role", draws=3)
    assert grid.values.shape[1] == 3
    assert "Drawn with seed 0: 3 neutral" in " ".join(grid.notes)
    assert run(model, Case.from_dict(demo), by="role").notes == ()


def test_layers_and_spans_are_rows_and_columns_of_the_whole(model: Any) -> None:
    whole = run(model)
    positions = prepare(model, case()).tokenized.positions_of("subject")
    cue = prepare(model, case()).tokenized.positions_of("cue")
    grid = run(model, layers=[2, 0], by=["lake", "subject", [-1], "Anna sees"])
    assert grid.layers.tolist() == [2, 0]
    assert grid.columns == ("lake", "subject", "-1", "Anna sees")
    assert grid.column_positions[:3] == (tuple(cue), tuple(positions), (len(whole.columns) - 1,))
    np.testing.assert_allclose(grid.value()[:, 0], whole.value()[[2, 0], cue[0]], atol=1e-5)
    np.testing.assert_allclose(grid.value()[:, 2], whole.value()[[2, 0], -1], atol=1e-5)


# -- donors --------------------------------------------------------------------------------------


def test_a_text_and_a_case_are_donors_as_a_variant_is(model: Any) -> None:
    text = SWAPPED
    swapped = run(model, by="role")
    for donor in (text, case(prompt=text, cue="concert", swap=())):
        grid = run(model, donor=donor, by="role")
        np.testing.assert_array_equal(grid.values, swapped.values)
    assert run(model, donor=text, by="role").source == "text"


def test_a_donor_of_another_length_is_matched_through_its_spans(model: Any) -> None:
    longer = TEXT.format("river bank lake", "bass", "bass")
    aligned = AlignedPrompt(longer, aligned=(("lake", "river bank lake"),))
    grid = run(model, donor=aligned, site="resid_post")
    own, other = ids_of(model, PROMPT), ids_of(model, longer)
    shift = len(other) - len(own)
    assert shift > 0
    cue = prepare(model, case()).tokenized.positions_of("cue")[-1]
    for i in range(model.spec.n_layers):
        site = Site(i, "resid_post")
        for p in range(len(own)):
            q = p if p < cue else p + shift
            changes = [(site, [p], state(model, other, site)[[q]], None)]
            known = contrast(model, put(model, own, changes))
            assert grid.value()[i, p] == pytest.approx(known, abs=1e-4)
    assert (grid.coverage == 1).all()
    assert grid.controls.donor_reason == "the runs are of different length"
    # the other way round: the longer run is changed, at the places that match
    back = run(model, donor=aligned, direction="denoising", by="role")
    assert np.isfinite(back.value()).all()
    assert back.base[0, 0] == pytest.approx(grid.donor[0, 0], abs=1e-4)


def test_a_case_of_another_length_is_matched_by_role_from_the_right(model: Any) -> None:
    text = "Ben and Anna saw the bass at the concert. The bass is a"
    other = Case(
        prompt=text,
        contextual="instrument",
        associative="fish",
        subject="bass",
        cue="the concert",
    )
    grid = run(model, donor=other, by="role")
    ready, theirs = prepare(model, case()), prepare(model, other)
    own_ids, other_ids = ids_of(model, PROMPT), ids_of(model, text)
    assert len(own_ids) != len(other_ids)
    for j, role in enumerate(grid.columns):
        here = ready.positions[ready.roles.index(role)]
        there = theirs.positions[theirs.roles.index(role)] if role in theirs.roles else ()
        n = min(len(here), len(there))
        assert grid.coverage[j] == pytest.approx(n / len(here))
        if not n:
            assert np.isnan(grid.value()[:, j]).all()
            assert grid.reasons[j] == "the other run has no such position"
            continue
        site = Site(1, "resid_pre")
        value = state(model, other_ids, site)[list(there[-n:])]
        known = contrast(model, put(model, own_ids, [(site, here[-n:], value, None)]))
        assert grid.value()[1, j] == pytest.approx(known, abs=1e-4)
    assert 0 < grid.coverage.min() < 1 or (grid.coverage == 0).any()


def test_draws_of_unequal_length_are_run_together_as_apart(model: Any) -> None:
    """Rows are padded in one batch; the side that the tokenizer pads on says nothing."""
    longer = AlignedPrompt(
        TEXT.format("river bank city", "bass", "bass"), aligned=(("lake", "river bank city"),)
    )
    draws = [TEXT.format("bank", "bass", "bass"), longer]
    asked: dict[str, Any] = {"donor": "neutral", "by": "role", "site": "attn_out"}
    for direction in ("noising", "denoising"):
        both = run(model, case(neutral=draws), direction=direction, **asked)
        for i, draw in enumerate(draws):
            one = run(model, case(neutral=[draw]), direction=direction, **asked)
            np.testing.assert_allclose(both.values[:, i], one.values[:, 0], atol=1e-4)
            np.testing.assert_allclose(both.base[:, i], one.base[:, 0], atol=1e-4)
    model.tokenizer.padding_side = "left"
    left = run(model, case(neutral=draws), direction="denoising", **asked)
    model.tokenizer.padding_side = "right"
    np.testing.assert_array_equal(left.values, both.values)


def test_a_yes_no_question_is_half_the_difference_of_its_two_questions(model: Any) -> None:
    text = "Anna is at the {}. Anna sees a {}. Is the {} a {}?"

    def question(word: str, **fields: Any) -> Case:
        return Case(
            prompt=text.format("lake", "bass", "bass", word),
            subject="bass",
            cue="lake",
            swap=text.format("concert", "bass", "bass", word),
            **fields,
        )

    twin = text.format("lake", "bass", "bass", "song")
    together = run(
        model, question("fish", contextual="yes", associative="no", twin_question=twin), by="role"
    )
    apart = [
        run(model, question(word, contextual="yes", associative="no"), by="role")
        for word in ("fish", "song")
    ]
    for name in ("values", "base", "donor"):
        one, two = (getattr(grid, name)[0] for grid in apart)
        np.testing.assert_allclose(getattr(together, name)[0], (one - two) / 2, atol=5e-5)


# -- planted -------------------------------------------------------------------------------------

SAMPLE = sample(len(KINDS), seed=11)


@pytest.mark.parametrize("plan", SAMPLE, ids=lambda plan: f"{plan.body}-{plan.name}")
@pytest.mark.parametrize(
    ("donor", "reading"), [("swap", SWAP), ("neutral", NEUTRAL), ("substitute", SUBSTITUTE)]
)
def test_flows_are_those_planted(plan: Plant, donor: str, reading: Any) -> None:
    if donor == "substitute" and plan.one_noun_context:
        return  # another noun takes the context away as well: not a flow of the formula
    planted = build(plan)
    model = HooksBackend(planted.model, planted.tokenizer, name="planted")
    where, names = layout(plan), planted.truth.role_names
    for direction, pair, site, first in (
        ("noising", (X, reading), "resid_pre", 0),
        ("denoising", (reading, X), "resid_post", 1),
    ):
        grid = run(model, planted.case, donor=donor, site=site, by="role", direction=direction)
        known = flows(plan, where, *pair)[first : first + plan.n_layers]
        order = [grid.columns.index(name) for name in names]
        np.testing.assert_allclose(grid.effect()[:, order], known, atol=2e-3)


def test_a_planted_cue_is_found_at_its_own_position() -> None:
    plan = Plant(
        n_layers=4, alpha=3.0, base=1.0, context=(Route(("cue", "relay_1", "answer"), (2, 4)),)
    )
    planted = build(plan)
    model = HooksBackend(planted.model, planted.tokenizer, name="planted")
    grid = run(model, planted.case, site="resid_pre")
    share = grid.recovery
    # Before the relay reads it (block 2 of 4) it is at the cue, afterwards at the relay.
    roles = [planted.truth.roles[int(np.argmax(row))] for row in share]
    assert roles == ["cue", "cue", "relay", "relay"]
    np.testing.assert_allclose(share.max(axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(np.sort(share, axis=1)[:, :-1], 0, atol=1e-3)
    assert grid.floor() < abs(grid.effect()).max()


# -- controls ------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_everything_patched_is_the_donor_and_own_states_are_the_base(model: Any, site: str) -> None:
    found = run(model, site=site, by="role").controls
    assert found.self_patch_error < 1e-4
    assert found.donor_error < 1e-3
    assert found.donor_reason == ""


def test_a_model_whose_states_do_not_hold_everything_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny.backend("llama")
    monkeypatch.setattr(patching, "everything", lambda kind, n_layers: (Site(0, "mlp_out"),))
    with pytest.raises(NumericalError, match="Patching everything misses the donor's LD by"):
        run(model, site="mlp_out", by="role")
    model.spec = model.spec.__class__(**{**model.spec.__dict__, "dtype": "bfloat16"})
    assert run(model, site="mlp_out", by="role").controls.donor_error > 1e-3  # said, not judged


def test_random_cells_are_drawn_from_the_grid_and_from_the_seed(model: Any) -> None:
    grid = run(model, by="role", controls=30, metric=("LD", "prob"))
    found = grid.controls
    assert found.random_donor.shape == found.random_direction.shape == (2, 30)
    assert set(found.random_layers.tolist()) == {0, 1, 2}
    norm = grid.delta_norm[0][found.random_layers, found.random_columns]
    assert (norm > 0).all()  # cells that change nothing have no floor
    again = run(model, by="role", controls=30, metric=("LD", "prob")).controls
    np.testing.assert_array_equal(found.random_donor, again.random_donor)
    other = run(model, by="role", controls=30, seed=1).controls
    assert not np.array_equal(found.random_donor[0], other.random_donor[0])
    floor = np.quantile(np.abs(found.random_donor), 0.95, axis=1)
    np.testing.assert_allclose(found.random_donor_floor, floor)
    assert grid.floor() == max(found.random_donor_floor[0], found.random_direction_floor[0])
    assert np.abs(found.random_donor[0]).max() > 0.01
    none = run(model, by="role", controls=0)
    assert np.isnan(none.floor())
    assert none.controls.self_patch_error < 1e-4


def test_a_random_direction_has_the_donor_s_norm_at_every_position(model: Any) -> None:
    from dst.tracing.patch_controls import _turned
    from dst.tracing.placing import Placing

    ready = prepare(model, case())
    site = Site(1, "resid_pre")
    own, other = (
        patching.record_for(model, ready, rows, "resid_pre")
        for rows in ([ready.x], ready.variants.swap)
    )
    (cell,) = Placing(own, other).plan(0, [site], [5, 8, 9])
    turned = _turned(cell, own, np.random.default_rng(0))
    here = own.states[site][0, [5, 8, 9]]
    before, after = cell.changes[0].value - here, turned.changes[0].value - here
    torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1), rtol=1e-4, atol=1e-6)
    cosine = torch.nn.functional.cosine_similarity(before, after, dim=1)
    assert float(cosine.abs().max()) < 0.6


def test_half_precision_is_measured_and_not_judged() -> None:
    tokenizer = tiny.byte_bpe()
    model = HooksBackend(
        tiny.model("llama", len(tokenizer) + 3).to(torch.bfloat16), tokenizer, name="tiny"
    )
    grid = run(model, site="attn_out", by="role")
    assert np.isfinite(grid.values).all()
    assert np.isfinite(grid.controls.donor_error)
    full = run(tiny.backend("llama"), site="attn_out", by="role")
    np.testing.assert_allclose(grid.values, full.values, atol=0.2)


# -- what is kept --------------------------------------------------------------------------------


def test_nothing_of_the_model_is_changed(model: Any) -> None:
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())
    run(model, site="z", by="role")
    with pytest.raises(InterventionError):
        run(model, donor=PROMPT)
    after = model.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert hooks == sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules()
    )


def test_an_interrupt_leaves_nothing_behind(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run(model, site="mlp_out", by="role")

    @contextlib.contextmanager
    def interrupted(*args: Any, **kwargs: Any) -> Any:
        def tick(n: int) -> None:
            if n > 0:
                raise KeyboardInterrupt

        yield tick

    with monkeypatch.context() as patched:
        patched.setattr(grid_module, "progress", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(model, site="mlp_out", by="role")
    modules = list(model.model.modules())
    assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    np.testing.assert_array_equal(run(model, site="mlp_out", by="role").values, before.values)


def test_a_grid_is_saved_and_read_back(model: Any, tmp_path: Any) -> None:
    grid = run(model, by="role", metric=("prob", "kl"))
    again = dst.open_result(grid.save(tmp_path / "grid"))
    assert isinstance(again, PatchGrid)
    np.testing.assert_array_equal(again.values, grid.values)
    assert again.case == grid.case
    assert repr(again.to_records()) == repr(grid.to_records())  # NaN is not NaN
    row = grid.to_records()[4]
    assert {"layer", "column", "LD", "prob", "kl", "effect", "recovery", "fired"} <= set(row)
    settings = grid.provenance.settings
    assert (settings["site"], settings["direction"], settings["window"]) == (
        "resid_pre",
        "noising",
        1,
    )


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"site": "resid_mid"}, InterventionError, r"The site 'resid_mid' does not exist"),
        ({"layers": [7]}, InterventionError, r"The layer 7 does not exist; expected .* 0 to 2"),
        ({"layers": []}, InterventionError, r"No layer is named"),
        ({"window": 0}, InputError, r"The window is 0"),
        ({"by": [[]]}, InterventionError, r"An empty set of positions is named"),
        ({"by": []}, InterventionError, r"An empty list of spans is named"),
        ({"by": [[99]]}, InterventionError, r"The position 99 is outside the prompt"),
        ({"by": ["violin"]}, InterventionError, r"The span 'violin' has no position"),
        ({"by": "word"}, InputError, r"by='word' is no way to group positions"),
        ({"heads": "each"}, InterventionError, r"The site resid_pre has no heads"),
        ({"heads": [9], "site": "z"}, InterventionError, r"The head 9 does not exist at z"),
        ({"heads": "all", "site": "z"}, InputError, r"heads='all' names no heads"),
        ({"heads": [], "site": "z"}, InterventionError, r"No head is named"),
        ({"direction": "both"}, InputError, r"The direction 'both'"),
        ({"donor": PROMPT}, InterventionError, r"changes nothing: every cell puts in what is"),
        ({"donor": "clean"}, CaseError, r"The case has no clean variant.*Give clean="),
        ({"donor": "A bass is a"}, TokenError, r"variant has \d+ tokens and the prompt \d+"),
        ({"metric": "accuracy"}, InputError, r"The metric 'accuracy' does not exist"),
        ({"site": "pattern", "window": 3}, CapabilityError, r"several layers at once"),
    ],
)
def test_what_does_not_exist_is_one_sentence(asked: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        run(tiny.backend("llama"), **asked)
    first = str(raised.value).split("\n")[0]
    assert first


def test_a_patch_that_fires_nowhere_is_an_error() -> None:
    model = tiny.backend("llama")
    other = Case(prompt="The river is green", contextual="fish", associative="song")
    with pytest.raises(
        InterventionError, match="fires nowhere: the other run has no such position"
    ):
        run(model, donor=other, by=["lake"])


def test_engines_that_cannot_are_named() -> None:
    model = tiny.backend("llama")
    model.can = model.can - {"patterns"}
    with pytest.raises(CapabilityError, match="cannot do 'patterns'"):
        run(model, site="pattern")
    model.can = model.can - {"edits"}
    with pytest.raises(CapabilityError, match="cannot do 'edits'"):
        run(model)
    with pytest.raises(CapabilityError, match="keys are other positions"):
        run(
            tiny.backend("llama"),
            donor=AlignedPrompt(
                TEXT.format("river lake", "bass", "bass"), aligned=(("lake", "river lake"),)
            ),
            site="pattern",
        )
