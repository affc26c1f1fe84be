"""Marks against hand-worked curves, plain second implementations, nulls and closed forms."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import CensoredData, binom, ecdf

from dst.analysis import coherence, markers
from dst.core.errors import InputError
from dst.core.results import Mark, Score

DOCS = Path(__file__).resolve().parents[2] / "docs" / "scores.md"

SHARES = st.lists(st.integers(0, 100).map(lambda x: x / 100), min_size=1, max_size=14)
MARGINS = st.lists(st.integers(-4, 4).map(float), min_size=2, max_size=14)


def blocks(*values: float, name: str = "score") -> Score:
    """A score per block, with no value before the first."""
    value = np.array([np.nan, *values])
    return Score(name, value, float(value[-1]), "share", ("per block", *[""] * len(values)))


def lens(*values: float) -> Score:
    return coherence.margin(np.array(values))


def hole(score: Score, state: int) -> Score:
    value = score.value.copy()
    value[state] = np.nan
    reasons = list(score.reasons)
    reasons[state] = "not measured"
    return score.replace(value=value, total=float(value[-1]), reasons=tuple(reasons))


def is_nan(mark: Mark, reason: str) -> None:
    assert math.isnan(mark.state)
    assert reason in mark.reason


PUBLISHED = {
    ("onset", markers.GUIDE): markers.onset_published_guide,
    ("inversion", markers.GUIDE): markers.inversion_published_guide,
    ("commitment", markers.GUIDE): markers.commitment_published_guide,
    ("onset", markers.CODE): markers.onset_published_cas,
    ("inversion", markers.CODE): markers.inversion_published_cas,
    ("commitment", markers.CODE): markers.commitment_published_cas,
}
Rule = Callable[[Score], Mark]


# -- the guide's marks ----------------------------------------------------------------------


def test_guide_marks_are_first_below_and_lowest_as_states() -> None:
    dss = blocks(0.7, 0.6, 0.59, 0.5, 0.49, 0.2, 0.4, name="dss_published")
    found = markers.published_markers(dss, blocks(0.9, name="cas_published"))[:3]
    assert [mark.state for mark in found] == [3, 5, 6]
    assert [mark.name for mark in found] == ["onset", "inversion", "commitment"]
    assert {mark.definition for mark in found} == {"published (guide) on dss_published"}
    assert found[0].thresholds == {"below": 0.6}
    assert found[0].depth == 3 / 7


@given(SHARES)
def test_guide_marks_agree_with_its_numpy_lines_where_those_name_a_layer(
    values: list[float],
) -> None:
    dss, curve = blocks(*values), np.array(values)
    for rule, below in (
        (markers.onset_published_guide, 0.6),
        (markers.inversion_published_guide, 0.5),
    ):
        mark, layer = rule(dss), int(np.argmax(curve < below))
        if (curve < below).any():
            assert mark.state == layer + 1
        else:
            is_nan(mark, f"never falls below {below} (the guide's code prints layer {layer})")
    assert markers.commitment_published_guide(dss).state == int(np.argmin(curve)) + 1


def test_shortcoming_the_guide_commits_a_curve_that_only_rises_and_before_it_inverts() -> None:
    rising = blocks(0.7, 0.8, 0.9)
    assert markers.commitment_published_guide(rising).state == 1
    is_nan(markers.inversion_published_guide(rising), "prints layer 0")
    # Out of order: the lowest value comes first, the onset is read off the same block.
    assert markers.commitment_published_guide(blocks(0.1, 0.9, 0.2)).state == 1


# -- the code's marks -----------------------------------------------------------------------


def test_code_marks_on_a_curve_worked_by_hand() -> None:
    cas = blocks(0.9, 0.85, 0.84, 0.79, 0.49, 0.6, 0.45, 0.44, 0.43, name="cas_published")
    found = markers.published_markers(blocks(0.7), cas)[3:]
    # 0.85 < 0.9 - 0.02 and 0.84, 0.79 <= 0.87; 0.79 < 0.8; 0.45, 0.44, 0.43 < 0.5.
    assert [mark.state for mark in found] == [2, 4, 7]
    assert {mark.definition for mark in found} == {"published (code) on cas_published"}
    assert found[0].thresholds == {"drop": 0.02, "blocks": 2.0}


def test_code_onset_needs_the_next_two_blocks_not_to_recover() -> None:
    assert markers.onset_published_cas(blocks(0.9, 0.8, 0.82, 0.82, 0.7)).state == 2
    assert markers.onset_published_cas(blocks(0.9, 0.8, 0.82, 0.83, 0.7)).state == 5
    is_nan(markers.onset_published_cas(blocks(0.9, 0.8, 0.83)), "no lasting drop")


def test_code_onset_at_its_limits_takes_a_rise_of_the_tolerance_and_no_drop_of_it() -> None:
    is_nan(markers.onset_published_cas(blocks(0.5, 0.5 - 0.02)), "no lasting drop")
    assert markers.onset_published_cas(blocks(0.5, 0.25, 0.25 + 0.02, 0.25 + 0.02)).state == 2


def test_code_marks_that_are_not_there_say_that_the_code_gives_none() -> None:
    high = blocks(0.9, 0.9, 0.9)
    for rule in PUBLISHED.values():
        if rule(high).definition.startswith(markers.CODE):
            is_nan(rule(high), "the published code gives none")


@given(SHARES)
def test_code_marks_agree_with_a_plain_reading_of_the_rules(values: list[float]) -> None:
    n, expected = len(values), {"onset": math.nan, "inversion": math.nan, "commitment": math.nan}
    for layer in range(n - 1, -1, -1):  # the last one written is the first in depth
        following = [values[min(layer + 1, n - 1)], values[min(layer + 2, n - 1)]]
        drops = layer > 0 and values[layer] < values[layer - 1] - 0.02
        if drops and max(following) <= values[layer] + 0.02:
            expected["onset"] = layer + 1
        if values[layer] < 0.8:
            expected["inversion"] = layer + 1
        if max(values[layer : layer + 3]) < 0.5:
            expected["commitment"] = layer + 1
    for mark in markers.published_markers(blocks(0.7), blocks(*values))[3:]:
        assert mark.state == pytest.approx(expected[mark.name], nan_ok=True)


def test_shortcoming_a_slow_decline_is_never_an_onset() -> None:
    slow = blocks(*np.linspace(1, 0, 60))
    is_nan(markers.onset_published_cas(slow), "no lasting drop")
    assert markers.commitment_published_cas(slow).state == 31


def test_shortcoming_the_code_commits_for_three_blocks_or_for_the_last_alone() -> None:
    assert markers.commitment_published_cas(blocks(0.4, 0.4, 0.4, 0.9, 0.9)).state == 1
    assert markers.commitment_published_cas(blocks(0.9, 0.9, 0.9, 0.4)).state == 4
    is_nan(markers.commitment_published_cas(blocks(0.4, 0.4, 0.9)), "three blocks")


@pytest.mark.parametrize(("key", "rule"), PUBLISHED.items())
@pytest.mark.parametrize("state", [1, 3])
def test_a_score_with_a_hole_has_no_published_mark(
    key: tuple[str, str], rule: Rule, state: int
) -> None:
    score = hole(blocks(0.9, 0.7, 0.4, 0.3, name="cas"), state)
    assert (rule(score).name, rule(score).definition) == (key[0], f"{key[1]} on cas")
    is_nan(rule(score), "cas is undefined: not measured")


# -- noise ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "rule"), PUBLISHED.items())
@pytest.mark.parametrize("n_layers", [4, 30])
def test_published_marks_are_found_on_noise_as_often_as_their_notes_say(
    key: tuple[str, str], rule: Rule, n_layers: int
) -> None:
    n, stated = 1000, markers.DEFINITIONS[key].on_noise[n_layers]
    error = 4 * math.sqrt(stated * (1 - stated) / n) + 0.005  # stated to two digits
    assert markers.noise_rate(rule, n, seed=11, n_layers=n_layers) == pytest.approx(
        stated, abs=error
    )
    note = rule(blocks(*[0.5] * n_layers)).note
    assert note == f"found in {stated:.0%} of noise curves of {n_layers} blocks"


def test_the_code_marks_nearly_every_curve_of_pure_noise() -> None:
    # Two of the rates again without dst: 30 blocks of AR(1), persistence .9, steps of .02.
    rng = np.random.default_rng(12)
    n, onsets, commitments = 4000, 0, 0
    level = rng.normal(size=n) * 0.02 / math.sqrt(1 - 0.81)
    curves = []
    for _ in range(30):
        curves.append(0.5 + level)
        level = 0.9 * level + 0.02 * rng.normal(size=n)
    for curve in np.array(curves).T:
        ends = np.concatenate([curve, [curve[-1]] * 2])
        drop = curve[1:] < curve[:-1] - 0.02
        lasting = np.maximum(ends[2:31], ends[3:32]) <= curve[1:] + 0.02
        low = np.concatenate([curve < 0.5, [True, True]])
        onsets += (drop & lasting).any()
        commitments += (low[:30] & low[1:31] & low[2:32]).any()
    for key, count in (("onset", onsets), ("commitment", commitments)):
        stated = markers.DEFINITIONS[key, markers.CODE].on_noise[30]
        error = 4 * math.sqrt(stated * (1 - stated) / n) + 0.005
        assert count / n == pytest.approx(stated, abs=error)


def test_lens_inversion_with_no_floor_is_found_on_noise_as_often_as_its_note_says() -> None:
    def rule(score: Score) -> Mark:
        return markers.lens_inversion(score, 0.0)

    stated = markers.DEFINITIONS["inversion", markers.LENS].on_noise[30]
    rate = markers.noise_rate(rule, 1000, seed=13, centre=0.0, step=1.0)
    assert rate == pytest.approx(stated, abs=4 * math.sqrt(stated * (1 - stated) / 1000) + 0.005)


def test_noise_of_no_persistence_has_the_rate_of_independent_coins() -> None:
    # First below centre within three states after the first: 1 - 1/8.
    rate = markers.noise_rate(
        markers.inversion_published_guide, 2000, seed=14, n_layers=3, persistence=0.0
    )
    assert rate == pytest.approx(7 / 8, abs=4 * math.sqrt(7 / 64 / 2000))


def test_noise_is_as_wide_at_the_embedding_as_at_the_end() -> None:
    seen: list[np.ndarray] = []

    def look(score: Score) -> Mark:
        seen.append(score.value)
        return markers.commitment_published_guide(score)

    markers.noise_rate(look, 4000, seed=15, n_layers=5, centre=2.0)
    width = 0.02 / math.sqrt(1 - 0.81)
    assert np.mean(seen, axis=0) == pytest.approx(2, abs=4 * width / math.sqrt(4000))
    assert np.std(seen, axis=0) == pytest.approx(width, rel=4 / math.sqrt(8000))


# -- lens marks -----------------------------------------------------------------------------


def test_lens_inversion_is_the_start_of_the_last_stretch_below_the_floor() -> None:
    mark = markers.lens_inversion(lens(0, 2, -2, 3, -2, -0.5, -2, -3), 1.0)
    assert mark.state == 6
    assert mark.definition == "lens (dst) on margin"
    assert mark.thresholds == {"floor": 1.0}
    assert mark.note == "the margin changes sign 3 times"


@pytest.mark.parametrize(
    ("values", "floor", "reason"),
    [
        ((0.0, 3, -2, 1), 0.5, markers.NOT_INVERTED),
        ((0.0, 3, -2, -0.4), 0.5, markers.NOT_INVERTED),
        ((0.0, 0.4, -2, -3), 0.5, markers.NEVER_HELD),
        ((-1.0, -2, -3), 0.5, markers.NEVER_HELD),
    ],
)
def test_lens_inversion_that_is_not_there(
    values: tuple[float, ...], floor: float, reason: str
) -> None:
    mark = markers.lens_inversion(lens(*values), floor)
    is_nan(mark, reason)
    assert mark.reason in markers.ABSENT


def test_lens_inversion_without_a_floor_warns_of_noise() -> None:
    mark = markers.lens_inversion(lens(0, 1, -1, -1, -2), 0.0)
    assert mark.state == 2
    assert "found in 20% of noise curves of 4 blocks with no floor" in mark.note


@given(MARGINS, st.floats(0, 3), st.floats(0.01, 100))
def test_lens_inversion_means_what_it_says(values: list[float], floor: float, scale: float) -> None:
    mark = markers.lens_inversion(lens(*values), floor)
    turns = [
        state
        for state in range(1, len(values))
        if all(value < -floor for value in values[state:])
        and any(value > floor for value in values[:state])
    ]
    assert mark.state == pytest.approx(min(turns, default=math.nan), nan_ok=True)
    scaled = markers.lens_inversion(lens(*(scale * np.array(values))), scale * floor)
    assert scaled.state == pytest.approx(mark.state, nan_ok=True)


def test_crossings_pass_over_states_without_preference() -> None:
    margin = lens(1, 0.4, -0.4, 2, -1, -0.3, 0.2, -2, 5)
    assert markers.crossings(margin, 0.5) == 2
    assert markers.crossings(margin, 0.0) == 6
    assert markers.crossings(margin, 9.0) == 0


def test_lens_commitment_needs_the_final_sign_and_the_final_answer() -> None:
    margin, final = lens(-1, -1, 2, -3, -1, -2), np.array([True, True, False, True, False, True])
    assert markers.lens_commitment(margin, final).state == 5
    assert markers.lens_commitment(margin, np.ones(6, dtype=bool)).state == 3
    assert markers.lens_commitment(lens(1, 2), np.array([True, True])).state == 0


@given(MARGINS)
def test_shortcoming_every_run_has_a_lens_commitment(values: list[float]) -> None:
    mark = markers.lens_commitment(lens(*values), np.ones(len(values), dtype=bool))
    state = int(mark.state)
    signs = np.sign(values)
    assert (signs[state:] == signs[-1]).all()
    assert state == 0 or signs[state - 1] != signs[-1]
    assert "every run has one" in mark.note


@pytest.mark.parametrize("final", [np.ones(2, dtype=bool), np.array([True, True, False])])
def test_lens_commitment_refuses_answers_that_do_not_fit(final: np.ndarray) -> None:
    with pytest.raises(InputError, match="3 truth values, one a state, the last one true"):
        markers.lens_commitment(lens(1, 2, 3), final)


def test_lens_onset_needs_correct_runs() -> None:
    is_nan(markers.lens_onset(lens(0, 1, 2)), "needs correct runs")
    is_nan(markers.lens_onset(lens(0, 1, 2), np.zeros(3)), "needs correct runs")
    assert markers.NEEDS_CORRECT_RUNS not in markers.ABSENT


def test_lens_onset_is_the_start_of_a_stretch_long_and_deep_enough() -> None:
    band = np.array([0.0, 0, 1, 1, 1, 1, 1])
    margin = lens(0, -3, 2, 0.9, 0.4, -1, -2)
    assert markers.lens_onset(margin, band, 3.0).state == 3
    is_nan(markers.lens_onset(margin, band, 3.1), markers.NEVER_SLIPPED)
    # One state below, however deep, is no stretch; two are, and end where the margin is back.
    is_nan(markers.lens_onset(lens(0, -9, 2, 2, 2, 2, 2), band, 1.0), markers.NEVER_SLIPPED)
    assert markers.lens_onset(lens(0, -9, 0, 2, 2, 2, 2), band, 1.0).state == 1
    assert markers.lens_onset(lens(0, -1, 0, 2, 2, -9, 0), band, 2).state == 5


def test_lens_onset_asks_for_longer_stretches_of_deeper_models() -> None:
    values = np.ones(25)
    values[10:12] = -1
    is_nan(markers.lens_onset(lens(*values), np.zeros(25), 0.5), markers.NEVER_SLIPPED)
    values[12] = -1
    mark = markers.lens_onset(lens(*values), np.zeros(25), 0.5)
    assert mark.state == 10
    assert mark.thresholds == {"delta": 0.5, "states": 3.0}


def test_lens_marks_come_together_and_refuse_what_is_no_number() -> None:
    margin = lens(0, 1, -1, -2)
    found = markers.lens_markers(margin, np.ones(4, dtype=bool), 0.5, np.zeros(4), 1.0)
    assert [(mark.name, mark.state) for mark in found] == [
        ("onset", 2),
        ("inversion", 2),
        ("commitment", 2),
    ]
    with pytest.raises(InputError, match="The floor is -1"):
        markers.lens_inversion(margin, -1.0)
    with pytest.raises(InputError, match="The delta is nan"):
        markers.lens_onset(margin, np.zeros(4), math.nan)
    with pytest.raises(InputError, match="4 finite numbers, one a state"):
        markers.lens_onset(margin, np.zeros(3), 1.0)


@pytest.mark.parametrize("state", [0, 1, 3])
def test_lens_marks_of_a_margin_with_a_hole_are_undefined(state: int) -> None:
    margin = hole(lens(0, 1, -1, -2), state)
    for mark in markers.lens_markers(margin, np.ones(4, dtype=bool), 0.5, np.zeros(4), 1.0):
        is_nan(mark, "margin is undefined: not measured")
        assert mark.reason not in markers.ABSENT


# -- groups ---------------------------------------------------------------------------------


def inversions(*states: float, n_layers: int = 8) -> list[Mark]:
    """Lens inversions at these states; NaN is one that is not there."""
    return [
        Mark(
            "inversion",
            f"{markers.LENS} on margin",
            float(state),
            n_layers,
            markers.NOT_INVERTED if math.isnan(state) else "",
        )
        for state in states
    ]


def test_depth_curve_is_one_minus_kaplan_meier() -> None:
    marks = inversions(2, 4, 4, 6, math.nan, math.nan) + inversions(3, 12, n_layers=12)
    curve = markers.depth_curve(marks, 50, seed=0)
    assert list(curve.depth) == [0.25, 0.5, 0.75, 1.0]
    assert list(curve.share) == [2 / 8, 4 / 8, 5 / 8, 6 / 8]
    assert (curve.n, curve.absent, curve.left_out) == (8, 2, 0)
    depths = [mark.depth for mark in marks if not math.isnan(mark.state)]
    censored = CensoredData(uncensored=depths, right=[1.0, 1.0])
    assert np.allclose(ecdf(censored).cdf.evaluate(curve.depth), curve.share)


def test_depth_curve_interval_is_that_of_a_resampled_share() -> None:
    curve = markers.depth_curve(inversions(*[2.0] * 12, *[math.nan] * 28), 4000, seed=1)
    # A resampled count of marked runs is binomial(40, 12/40).
    low, high = binom.ppf([0.025, 0.975], 40, 0.3) / 40
    assert curve.low[0] == pytest.approx(low, abs=1 / 40)
    assert curve.high[0] == pytest.approx(high, abs=1 / 40)
    again = markers.depth_curve(inversions(*[2.0] * 12, *[math.nan] * 28), 4000, seed=1)
    assert np.array_equal(again.low, curve.low)


def test_depth_curve_leaves_out_what_is_undefined_and_counts_it() -> None:
    unknown = markers.lens_inversion(hole(lens(0, 1, -1, -2), 1), 0.5)
    curve = markers.depth_curve([*inversions(4, math.nan), unknown], 20, seed=0)
    assert (curve.n, curve.absent, curve.left_out) == (2, 1, 1)
    assert list(curve.share) == [0.5]
    none = markers.depth_curve(inversions(math.nan, math.nan), 20, seed=0)
    assert (len(none.depth), len(none.low), none.absent) == (0, 0, 2)


def test_depth_curve_refuses_other_marks() -> None:
    published = markers.commitment_published_guide(blocks(0.5, 0.4))
    unknown = markers.lens_onset(lens(0, 1))
    for marks, found in (
        ([], "none"),
        ([published], "published"),
        ([*inversions(1), unknown], "onset"),
    ):
        with pytest.raises(InputError, match=f"The marks are .*{found}.*lens marks of one"):
            markers.depth_curve(marks, 10, seed=0)
    with pytest.raises(InputError, match="Every mark is undefined"):
        markers.depth_curve([unknown], 10, seed=0)


# -- words ----------------------------------------------------------------------------------


def test_every_mark_finds_its_own_words() -> None:
    published = markers.published_markers(blocks(0.5), blocks(0.5))
    ours = markers.lens_markers(lens(0, 1), np.ones(2, dtype=bool), 0.0)
    keys = [(mark.name, mark.definition.split(" on ")[0]) for mark in (*published, *ours)]
    assert sorted(keys) == sorted(markers.DEFINITIONS)
    for mark, key in zip((*published, *ours), keys, strict=True):
        assert markers.definition_of(mark) is markers.DEFINITIONS[key]


def test_the_documentation_uses_the_same_words_and_figures() -> None:
    text = " ".join(DOCS.read_text(encoding="utf-8").split())
    for name, score in coherence.DEFINITIONS.items():
        assert f"`{name}`" in text
        assert score.says in text
    for (name, rule), mark in markers.DEFINITIONS.items():
        assert mark.says in text
        if rule != markers.LENS:
            row = re.search(rf"\| {re.escape(f'{name}, {rule}')} \|([^\n]*)", DOCS.read_text())
            assert row is not None
            figures = [float(cell) for cell in row[1].strip(" |").split("|")]
            stated = list(mark.on_noise.values())
            assert figures == pytest.approx(stated, abs=0.0051)
