"""The experiment on the stability of maps: rewording of cases, and overlap worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dst.core.case import Case
from dst.core.errors import CaseError
from experiments.map_stability import MAPS, mean_over, put, retold, substitutions, summary

CASE = Case(
    prompt="Rosa is here for the dawn. Rosa sees a kiwi. The kiwi is a kind of",
    contextual="bird",
    associative="food",
    subject="kiwi",
    cue="here for the dawn",
    neutral=[
        f"Rosa is here for the {word}. Rosa sees a kiwi. The kiwi is a kind of"
        for word in ("talk", "vote")
    ],
    swap="Rosa is here for the dinner. Rosa sees a kiwi. The kiwi is a kind of",
    context_words=("wing",),
    competing_words=("plate",),
)
WORDING = "Rosa is here for the dawn. Rosa wants a kiwi. It is a kind of"


def test_words_that_differ_are_found_and_put_in() -> None:
    words = substitutions(CASE.text, str(CASE.swap[0]))
    assert words == {"dawn": "dinner"}
    assert put("the dawn, dawning", words) == "the dinner, dawning"
    assert substitutions("one two", "one") == {}
    assert substitutions("a b a", "a c d") == {"b": "c"}  # a stays once and changes once
    assert substitutions("a b a", "c b d") == {}


def test_a_case_is_told_otherwise_with_its_neutral_draws() -> None:
    told = retold(CASE, WORDING, {})
    assert told.text == WORDING
    assert told.cue == CASE.cue
    assert [str(draw) for draw in told.neutral] == [
        f"Rosa is here for the {word}. Rosa wants a kiwi. It is a kind of"
        for word in ("talk", "vote")
    ]
    assert told.context_words == CASE.context_words


def test_the_other_sense_keeps_the_neutral_draws() -> None:
    other = str(CASE.swap[0])
    told = retold(CASE, other, substitutions(CASE.text, other))
    assert told.cue == ("here for the dinner",)
    assert told.neutral == CASE.neutral


def test_a_wording_without_the_cue_is_refused() -> None:
    with pytest.raises(CaseError):
        retold(CASE, "Rosa sees a kiwi. The kiwi is a kind of", {})


def edges(*names: str) -> dict[str, frozenset[str]]:
    return {kind: frozenset(names) for kind in MAPS}


def test_the_mean_over_pairs_is_the_jaccard_index_by_hand() -> None:
    one, two, none = edges("a", "b", "c"), edges("b", "c", "d"), edges()
    assert mean_over([(one, two)], MAPS[0]) == pytest.approx(2 / 4)
    assert mean_over([(one, two), (one, one)], MAPS[0]) == pytest.approx(3 / 4)
    assert mean_over([(one, none), (none, none)], MAPS[0]) == 0  # the empty pair is left out
    assert math.isnan(mean_over([(none, none)], MAPS[0]))


def test_the_summary_is_a_mean_over_cases_with_its_interval() -> None:
    rows = []
    for i in range(12):
        row: dict[str, Any] = {"group": f"word {i}"}
        for kind in MAPS:
            row |= {f"{kind}: stability": 0.5 + 0.01 * i, f"{kind}: other sense": 0.1}
            row |= {f"{kind}: another case": 0.0 if i else math.nan, f"{kind}: edges": 20.0}
        rows.append(row)
    found = summary(rows)["published"]
    assert found["stability"]["mean"] == pytest.approx(0.555)
    assert found["stability"]["low"] < 0.555 < found["stability"]["high"]
    assert found["other sense"]["p"] < 0.01
    assert found["another case"]["n"] == 11
