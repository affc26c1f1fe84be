"""Drift on models whose states are known, against naive loops, and on runs without drift."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import dst
from dst.core.case import Case, prompt_of
from dst.core.errors import CaseError, InputError
from dst.core.sites import site_of_state
from dst.models.hooks import HooksBackend
from dst.testbed import world
from dst.testbed.planted import Plant, Route, build
from dst.testbed.planted_prompt import VOCABULARY
from dst.tracing.drift_runs import Seen
from dst.tracing.ordinary_states import ordinary_states
from dst.tracing.prepare import prepare
from tests import tiny
from tests.tracing.patched import PROMPT, TEXT, case

ROUTES = {
    "relay": (Route(("cue", "relay_1", "answer"), (2, 4)), {"relay": 2, "answer": 4}),
    "direct": (Route(("cue", "answer"), (3,)), {"answer": 3}),
    "subject": (Route(("cue", "subject", "answer"), (1, 5)), {"subject_1": 1, "answer": 5}),
}


def ordinary_texts(n: int = 60) -> list[str]:
    """Sentences of a planted model's own words."""
    words = [word for word in VOCABULARY if not word.startswith("<")]
    rng = random.Random(0)
    return [" ".join(rng.sample(words, 8)) for _ in range(n)]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("route", ROUTES)
def test_drift_appears_where_the_context_arrives_and_not_before(family: Any, route: str) -> None:
    context, known = ROUTES[route]
    plan = Plant(
        body=family,
        n_layers=5,
        base=0.25,
        alpha=2.5,
        context=(context,),
        beta=3.5,
        prior=Route(("subject", "answer"), (2,)),
        prior_block=1,
    )
    planted = build(plan)
    model = HooksBackend(planted.model, planted.tokenizer, name="planted")
    found = dst.drift(model, planted.case, "neutral", texts=ordinary_texts(), show_progress=False)
    assert (found.null, found.n_twins, found.n_null) == ("neutral", 5, 5)
    for measure in found.measures:
        for role in found.roles:
            mark = found.onset(measure, role)
            if role in known:
                assert mark.state == known[role]
                i = found.roles.index(role)
                away = found.role_drift[found.measures.index(measure), :, i]
                assert away[: known[role]].max() < 1e-6
                assert away[known[role] :].min() > 0.01
            else:
                assert math.isnan(mark.state)
        assert found.onset(measure).state == min(known.values())
    shared = found.same_word & ~np.isin(found.token_roles, list(known))
    assert found.drift[:, :, shared].max() < 1e-6  # and nowhere else


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.backend("llama")


TEXTS = tuple(tiny.CORPUS)


def test_every_number_is_that_of_plain_loops(model: Any) -> None:
    given = case()
    found = dst.drift(model, given, "swap", null=[TEXT.format(w, "bass", "bass") for w in WORDS],
                      texts=TEXTS, show_progress=False)  # fmt: skip

    def states(text: str) -> np.ndarray:
        ids = model.tokenizer(text)["input_ids"]
        sites = [site_of_state(s, 3) for s in range(4)]
        run = model.run([ids], capture=sites)
        return np.stack([run.states[s][0].double().numpy() for s in sites])

    ordinary = np.concatenate([states(text)[:, 1:] for text in TEXTS], axis=1)
    x, twin = states(PROMPT), states(str(given.swap[0]))
    for l in range(4):
        mean = ordinary[l].mean(axis=0)
        for p in range(x.shape[1]):
            a, b = x[l, p] - mean, twin[l, p] - mean
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert found.of("centred")[l, p] == pytest.approx(1 - cosine, abs=1e-6)
        raw = [a @ b / np.linalg.norm(a) / np.linalg.norm(b)
               for a, b in zip(x[l], twin[l], strict=True)]  # fmt: skip
        assert found.published[l] == pytest.approx(1 - np.mean(raw), abs=1e-6)
    every = [states(TEXT.format(word, "bass", "bass")) for word in WORDS]
    mean = ordinary[2].mean(axis=0)
    pairs = []
    for i, one in enumerate(every):
        for two in every[i + 1 :]:
            a, b = one[2, -1] - mean, two[2, -1] - mean
            pairs.append(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    z = (found.of("centred")[2, -1] - np.mean(pairs)) / np.std(pairs, ddof=1)
    assert found.z_of("centred")[2, -1] == pytest.approx(z, rel=1e-3)
    assert found.null == "texts"


WORDS = ("bank", "city", "song", "drum", "fish")


def test_a_run_does_not_drift_from_itself(model: Any) -> None:
    found = dst.drift(model, case(), PROMPT, texts=TEXTS, show_progress=False)
    assert (found.drift == 0).all()
    assert np.abs(found.published).max() == 0
    assert set(found.reasons) == {"the two runs have read the same words up to here"}
    assert np.isnan(found.z).all()
    assert np.isnan(found.onset().state)
    assert found.onset().reason == "no cell is scored"


def test_another_word_and_what_stands_before_it_have_no_z(model: Any) -> None:
    found = dst.drift(model, case(), "swap", texts=TEXTS, show_progress=False)
    first = found.same_word.tolist().index(False)
    assert found.reasons[first] == "the twin has another word here"
    assert set(found.reasons[:first]) == {"the two runs have read the same words up to here"}
    assert found.twin_tokens[first] != found.tokens[first]
    assert (found.drift[:, 0, found.same_word] == 0).all()
    assert np.isnan(found.low).all()  # one twin has no interval
    assert found.coverage == 1


def test_the_interval_is_over_twins(model: Any) -> None:
    found = dst.drift(model, case(), "neutral", texts=TEXTS, show_progress=False)
    singles = [
        dst.drift(model, case(), str(text), texts=TEXTS, show_progress=False).drift[1, 3, -1]
        for text in case().neutral
    ]
    half = stats.t.ppf(0.975, 1) * np.std(singles, ddof=1) / math.sqrt(2)
    assert found.drift[1, 3, -1] == pytest.approx(np.mean(singles))
    assert found.low[1, 3, -1] == pytest.approx(np.mean(singles) - half)
    assert found.high[1, 3, -1] == pytest.approx(np.mean(singles) + half)


def test_a_clean_twin_of_another_length_is_matched_by_role(model: Any) -> None:
    given = case(
        prompt="Anna is at the lake. The crane stood in the water. Anna sees a bass. The bass is a",
        distractor="The crane stood in the water.",
        clean=PROMPT,
        **dict.fromkeys(("swap", "neutral", "substitute"), ()),
    )
    found = dst.drift(model, given, "clean", draws=5, texts=TEXTS, show_progress=False)
    lost = [role for role, twin in zip(found.token_roles, found.twin_tokens, strict=True)
            if not twin]  # fmt: skip
    assert set(lost) == {"distractor"}
    assert found.coverage == pytest.approx(1 - len(lost) / len(found.tokens))
    assert np.isnan(found.drift[:, :, found.token_roles.index("distractor")]).all()
    matched = [
        (token, twin)
        for token, twin, role in zip(
            found.tokens, found.twin_tokens, found.token_roles, strict=True
        )
        if role.startswith("subject")
    ]
    assert matched
    assert all(token == twin for token, twin in matched)
    assert any("another length" in note for note in found.notes)


def test_rows_with_one_context_count_once(model: Any) -> None:
    ready = prepare(model, case(paraphrases=(PROMPT.replace("sees", "hears"), PROMPT)))
    rows = [ready.x, ready.x, *ready.variants.swap]
    seen = Seen.of(ready.x, rows)
    distinct = seen.distinct([0, 1, 2])
    assert distinct[0].all()
    assert not distinct[1].any()
    first = next(p for p, (a, b) in enumerate(zip(ready.x.ids, rows[2].ids, strict=True)) if a != b)
    assert not distinct[2, : first + 1].any()
    assert distinct[2, -1]


def test_the_null_is_what_scores_more_positions_and_says_so(model: Any) -> None:
    early = [
        "Ben is at the lake. Anna sees a bass. The bass is a",
        "Anna stood at the lake. Anna sees a bass. The bass is a",
        "Anna is in the lake. Anna sees a bass. The bass is a",
        "Anna is at the green lake. Anna sees a bass. The bass is a",
    ]
    late = [PROMPT.replace("The", word) for word in ("What", "Ben", "Anna", "A", "in")]
    neutral = [TEXT.format(word, "bass", "bass") for word in WORDS]
    chosen = {
        name: dst.drift(
            model,
            case(paraphrases=texts, neutral=neutral),
            "swap",
            texts=TEXTS,
            show_progress=False,
        )
        for name, texts in (("early", early), ("late", late))
    }
    assert chosen["early"].null == "paraphrases"
    assert chosen["early"].n_null == 5
    assert chosen["late"].null == "neutral"
    assert any("paraphrases" in note for note in chosen["late"].notes)
    asked = dst.drift(
        model, case(paraphrases=late), "swap", null="paraphrases", texts=TEXTS, show_progress=False
    )
    assert asked.null == "paraphrases"
    assert any("in different contexts" in reason for reason in asked.reasons)


def test_without_a_cue_there_is_drift_but_no_z(model: Any) -> None:
    given = case(cue=(), neutral=())
    found = dst.drift(model, given, "swap", texts=TEXTS, show_progress=False)
    assert found.null == ""
    assert np.isnan(found.z).all()
    assert found.reasons[-1] == "No null: the case has no cue, so there are no neutral draws"
    assert found.drift[:, 1:, -1].min() > 0


def test_what_cannot_be_done_is_said(model: Any) -> None:
    with pytest.raises(CaseError, match="The case has no clean variant"):
        dst.drift(model, case(), texts=TEXTS)
    with pytest.raises(InputError, match="null='median' is no null"):
        dst.drift(model, case(), "swap", null="median", texts=TEXTS)
    with pytest.raises(InputError, match="The reference is of another model"):
        dst.drift(model, case(), "swap", reference=ordinary_states(tiny.backend("gpt2"), TEXTS))
    with pytest.raises(InputError, match="knows none of the shipped reference sentences"):
        ordinary_states(tiny.backend("llama", tiny.word_level))
    with pytest.raises(InputError, match="do not vary at state 0"):
        ordinary_states(model, ["Anna fish"] * 3)


def test_a_result_is_saved_and_read_back(model: Any, tmp_path: Path) -> None:
    found = dst.drift(model, case(), "swap", texts=TEXTS, show_progress=False)
    read = dst.open_result(found.save(tmp_path / "drift"))
    np.testing.assert_array_equal(read.z, found.z)
    assert read.onset("centred").reason == found.onset("centred").reason
    assert len(read.to_records()) == found.z.size


def neutral_run(backend: Any, given: Case, seed: int) -> Case | None:
    """A case whose prompt is one neutral draw, its twin another, its null eight more."""
    more = prepare(backend, given.replace(neutral=()), draws=12)
    texts = [str(prompt_of(text)) for text in more.tokenized.case.neutral]
    random.Random(seed).shuffle(texts)
    positions = more.tokenized.positions_of("cue")
    if len(texts) < 10 or not positions:
        return None
    encoding = backend.tokenizer(texts[0], return_offsets_mapping=True)
    offsets = encoding["offset_mapping"]
    start, end = offsets[positions[0]][0], offsets[positions[-1]][1]
    return given.replace(
        prompt=texts[0], cue=texts[0][start:end].strip(), swap=texts[1], neutral=texts[2:10],
        substitute=(), clean=(), paraphrases=(), distractor=(), twin_question=None,
    )  # fmt: skip


def false_alarms(n: int, seeds: int) -> tuple[int, int, int]:
    """Onsets of neutral runs against neutral runs, by position and by role, and the runs."""
    backend = dst.load()
    reference = ordinary_states(backend)
    cases = [one for one in world.cases(split="test", n=n, seed=3) if one.cue]
    by_pos = by_role = runs = 0
    for i, given in enumerate(cases):
        for seed in range(seeds):
            run = neutral_run(backend, given, 100 * i + seed)
            if run is None:
                continue
            found = dst.drift(backend, run, "swap", reference=reference)
            runs += 1
            by_pos += not math.isnan(found.onset().state)
            by_role += any(not math.isnan(found.onset(role=role).state) for role in found.roles)
    return by_pos, by_role, runs


def test_neutral_runs_do_not_drift_from_neutral_runs() -> None:
    by_pos, by_role, runs = false_alarms(16, 1)
    assert runs >= 10
    assert stats.binom.sf(by_pos - 1, runs, 0.05) > 0.005
    assert stats.binom.sf(by_role - 1, runs, 0.05) > 0.005


@pytest.mark.full
def test_neutral_runs_drift_no_more_often_than_stated() -> None:
    by_pos, by_role, runs = false_alarms(120, 3)
    assert runs > 200
    for alarms in (by_pos, by_role):
        assert stats.binom.sf(alarms - 1, runs, 0.05) > 0.005, (by_pos, by_role, runs)
