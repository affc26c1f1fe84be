"""Spans on planted models, where every number is known, and on small models of real families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.case import Case
from dst.core.errors import CaseError, InputError, TokenError
from dst.core.span_results import Spans
from dst.models.backend import Backend
from dst.models.load import load
from dst.testbed import planted_spans
from dst.testbed.planted_spans import PlantedSpan, SpanPlant
from dst.tracing import span_runs
from dst.tracing.prepare import prepare
from dst.tracing.span_fills import make_fills
from dst.tracing.span_pools import KINDS, vocabulary_words
from dst.tracing.span_scores import Scores
from dst.tracing.span_search import Search
from dst.tracing.span_words import words_of
from tests import tiny

LAKE = Case(
    prompt="Anna is at the lake. Anna sees a bass. What is the bass? The bass is a",
    contextual="fish",
    associative="guitar",
)
BUDGET = 1200


def loaded(plan: SpanPlant) -> tuple[PlantedSpan, Backend]:
    planted = planted_spans.build(plan)
    return planted, load(planted.model, tokenizer=planted.tokenizer, check=False)


def measured(plan: SpanPlant, **options: Any) -> tuple[PlantedSpan, Spans]:
    planted, model = loaded(plan)
    options = {"budget": BUDGET, "show_progress": False, **options}
    return planted, dst.spans(model, planted.case, **options)


TOGETHER = SpanPlant(8, (1, 6), "all", 3.0, ((3, 1.0), (4, -1.25)), base=0.25, seed=1)
EITHER = SpanPlant(8, (1, 6), "any", 3.0, ((3, 1.0), (4, -1.25)), base=0.25, seed=1)


# -- known answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [TOGETHER, EITHER])
def test_every_number_is_the_planted_one(plan: SpanPlant) -> None:
    planted, found = measured(plan)
    assert found.complete
    assert found.words == planted.words
    assert found.toward == "associative"
    assert found.outcome == "hallucination"
    assert found.contrast == pytest.approx(plan.contrast(range(8)), abs=1e-5)
    assert found.resampled.mean == pytest.approx(-plan.contrast(()), abs=1e-5)
    whole = plan.kept(range(8))
    for one in (*found.singles, *found.found):
        assert one.held_out
        assert one.necessity.mean == pytest.approx(plan.necessity(one.units), abs=1e-5)
        assert one.kept.mean == pytest.approx(plan.kept(one.units), abs=1e-5)
        assert one.sufficiency.mean == pytest.approx(plan.kept(one.units) / whole, abs=1e-5)
        assert one.necessity.low == pytest.approx(one.necessity.high, abs=1e-4)
        assert one.necessity_by_fill == pytest.approx(plan.necessity(one.units), abs=1e-5)


@pytest.mark.parametrize("plan", [TOGETHER, EITHER])
def test_words_that_act_jointly_are_found_first_and_as_a_set(plan: SpanPlant) -> None:
    planted, found = measured(plan)
    first, second = found.found
    assert planted.is_first(found)
    assert first.units == (1, 6)
    assert first.positions == (2, 7)  # after <bos>
    assert first.joint == pytest.approx(3.0, abs=1e-5)
    assert first.n_controls == 20
    assert first.control == pytest.approx(1 / 21)  # no random pair does as well
    assert second.units == (4,)
    sign = 1 if plan.combine == "all" else -1
    assert first.kept_together == pytest.approx(3.0 * sign, abs=1e-5)
    assert first.necessity_together == pytest.approx(-3.0 * sign, abs=1e-5)
    assert found.interaction[1, 6] == pytest.approx(3.0 * sign, abs=0.6)


def test_single_words_are_held_against_the_other_words() -> None:
    plan = SpanPlant(6, (2,), "all", 3.0, ((4, -1.0),), seed=4)
    _, found = measured(plan)
    assert [one.units for one in found.found] == [(2,), (4,)]
    assert [one.control for one in found.found] == pytest.approx([1 / 6, 2 / 6])
    np.testing.assert_allclose(found.main_effect, [0, 0, 3, 0, 1, 0], atol=1e-4)


def test_a_correct_answer_is_explained_toward_itself() -> None:
    plan = SpanPlant(6, (2,), "all", -3.0, seed=4)  # the span speaks for the contextual answer
    _, found = measured(plan)
    assert (found.toward, found.outcome) == ("contextual", "correct")
    assert found.found[0].units == (2,)
    assert found.found[0].necessity.mean == pytest.approx(3.0, abs=1e-5)


def test_where_no_word_matters_nothing_is_found() -> None:
    plan = SpanPlant(6, (2,), "all", 0.0, base=-1.0, seed=4)
    _, found = measured(plan)
    assert found.found == ()
    assert {one.reason for one in found.singles} == {
        "all words together bring less than 0.05 logits of this answer"
    }


def test_three_words_of_which_two_keep_nothing() -> None:
    planted, found = measured(SpanPlant(7, (0, 2, 5), "all", 4.0, ((3, -1.0),), seed=3))
    assert planted.is_first(found)
    assert found.found[0].units == (0, 2, 5)


def test_parts_of_a_set_have_controls_too() -> None:
    """Pairs that are scored as parts of three words are held against random pairs."""
    planted, model = loaded(SpanPlant(7, (0, 2, 5), "any", 4.0, seed=3))
    scores = scores_of(model, planted)
    scores.search.tried = {frozenset({0, 2, 5}): 4.0}
    scores._score()
    assert {size: len(some) for size, some in scores.controls.items()} == {2: 5, 3: 5}
    assert not {frozenset({0, 2}), frozenset({0, 2, 5})} & {
        *scores.controls[2],
        *scores.controls[3],
    }
    assert scores._span(frozenset({0, 2})).n_controls == 5


def test_a_largest_size_holds() -> None:
    _, found = measured(SpanPlant(7, (0, 2, 5), "any", 4.0, seed=3), max_words=2)
    assert all(len(one.units) <= 2 for one in found.found)
    assert found.complete


def hits(n: int, seed: int, jitter: float, budget: int = BUDGET) -> int:
    count = 0
    for i, plan in enumerate(planted_spans.sample(n, seed, jitter=jitter)):
        planted, found = measured(plan, budget=budget, seed=i)
        count += planted.is_first(found)
    return count


def test_the_planted_span_is_found_first_in_a_few() -> None:
    assert hits(6, 7, 0.1) == 6


@pytest.mark.full
@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_the_planted_span_is_found_first(jitter: float) -> None:
    """The figure that is promised: 98 % or more, also where filling words act themselves."""
    assert hits(240, 11, jitter, budget=2000) >= 0.98 * 240


@pytest.mark.parametrize("family", ["gpt2", "qwen3_moe"])
def test_numbers_are_those_of_plain_transformers(family: str) -> None:
    """N and K of a word, fill by fill, from logits of the transformers model alone."""
    model = tiny.backend(family)
    options: dict[str, Any] = {"budget": 300, "seed": 2, "draws": 3}
    found = dst.spans(model, LAKE, fills=("random", "reference"), show_progress=False, **options)
    run = prepare(model, LAKE, draws=0)
    fills = make_fills(
        model, run, kinds=("random", "reference"), among="content", mentions="together",
        n_search=2, n_scoring=3, seed=2,
    )  # fmt: skip
    rows = fills.scoring[: found.draws]
    base = np.tile(np.array(run.tokenized.ids), (len(rows), 1))
    bass = next(one for one in found.singles if one.words == ("bass",))
    places = list(bass.positions)
    lost, only = base.copy(), rows.copy()
    lost[:, places], only[:, places] = rows[:, places], base[:, places]
    with torch.no_grad():
        logits = model.model(torch.tensor(np.concatenate([base[:1], lost, only, rows]))).logits
    fish, guitar = run.tokenized.contextual_ids, run.tokenized.associative_ids
    last = logits[:, -1].double()
    ld = torch.logsumexp(last[:, fish], -1) - torch.logsumexp(last[:, guitar], -1)
    y = (ld * torch.sign(ld[0])).numpy()
    n = len(rows)
    assert bass.held_out
    assert bass.necessity.mean == pytest.approx(y[0] - y[1 : n + 1].mean(), abs=1e-3)
    kept = y[n + 1 : 2 * n + 1] - y[2 * n + 1 :]
    assert bass.kept.mean == pytest.approx(kept.mean(), abs=1e-3)
    share = kept.mean() / (y[0] - y[2 * n + 1 :].mean())
    if not bass.reason:
        assert bass.sufficiency.mean == pytest.approx(share, rel=1e-3)


# -- fills -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", [tiny.byte_bpe, tiny.sentencepiece_like])
def test_fills_change_their_own_word_only(tokenizer: Any) -> None:
    model = tiny.backend("llama", tokenizer)
    run = prepare(model, LAKE, draws=0)
    fills = make_fills(
        model, run, kinds=("random", "reference"), among="content", mentions="together",
        n_search=2, n_scoring=3, seed=0,
    )  # fmt: skip
    base = np.array(run.tokenized.ids)
    owned = sorted(p for word in fills.words for p in word.positions)
    for rows, n in ((fills.search, 2), (fills.scoring, 3)):
        assert rows.shape == (n * len(fills.kinds), len(base))
        free = [p for p in range(len(base)) if p not in owned]
        assert (rows[:, free] == base[free]).all()
        for word in fills.words:
            assert (rows[:, list(word.positions)] != base[list(word.positions)]).any(axis=1).all()
        for row in rows:  # whole words: the text is read back as the same tokens
            again = model.tokenizer(model.tokenizer.decode(row[run.tokenized.ids[0] == 1 :]))
            assert len(again["input_ids"]) == len(base)


def test_no_word_fills_in_both_the_search_and_the_scores() -> None:
    model = dst.load()
    case = Case(prompt="Leo is at the opera. Leo finds a bass. The bass is a kind of",
                contextual="instrument", associative="fish")  # fmt: skip
    for seed in range(3):
        fills = make_fills(
            model, prepare(model, case, draws=0), kinds=KINDS, among="content",
            mentions="together", n_search=4, n_scoring=8, seed=seed,
        )  # fmt: skip
        assert fills.search_words
        assert fills.scoring_words
        assert not {*fills.search_words} & {*fills.scoring_words}
        said = {"leo", "opera", "finds", "bass", "kind", "instrument", "fish"}
        assert not said & {*fills.search_words, *fills.scoring_words}
        for word in fills.words:  # and so the tokens differ too
            places = list(word.positions)
            search, scoring = ({tuple(row[places]) for row in rows}
                               for rows in (fills.search, fills.scoring))  # fmt: skip
            assert not search & scoring


def test_words_are_whole_and_know_their_mentions() -> None:
    model = tiny.backend("llama")
    run = prepare(model, LAKE, draws=0)
    together, left_out = words_of(model.tokenizer, run)
    assert [(word.text, len(word.spans)) for word in together] == [
        ("Anna", 2), ("lake", 1), ("sees", 1), ("bass", 3)
    ]  # fmt: skip
    assert left_out == []  # the answer is read after "a", a stop word
    apart, _ = words_of(model.tokenizer, run, mentions="apart")
    assert [word.text for word in apart] == ["Anna", "lake", "Anna", "sees", "bass", "bass", "bass"]
    every, left_out = words_of(model.tokenizer, run, among="all")
    assert "the" in [word.text for word in every]
    assert left_out == ["'a': the answer is read after it"]
    encoding = run.tokenized.encoding
    for word in together:
        assert word.positions == tuple(encoding.positions(word.spans))


def test_only_what_the_user_wrote_is_replaced() -> None:
    model = tiny.backend("llama")
    case = LAKE.replace(chat=True, system="The bass is old.", prefix="The bass is a")
    run = prepare(model, case, draws=0)
    words, _ = words_of(model.tokenizer, run)
    inside = run.tokenized.encoding.text
    assert {word.text for word in words} == {"bass", "old", "Anna", "lake", "sees"}
    assert all(inside[slice(*span)].casefold() == word.text.casefold()
               for word in words for span in word.spans)  # fmt: skip
    found = dst.spans(model, case, budget=300, fills=("random",), show_progress=False)
    assert "user" not in found.words


def test_words_of_a_vocabulary_begin_words() -> None:
    found = vocabulary_words(tiny.byte_bpe())
    assert "bass" in found
    assert all(word.isalpha() and len(word) > 1 for word in found)
    assert {*vocabulary_words(tiny.word_level())} >= {"bass", "lake", "Anna"}
    assert "<unk>" not in vocabulary_words(tiny.word_level())


def test_a_kind_that_fits_nowhere_is_refused_and_said() -> None:
    """The word-level tokenizer knows none of the shipped neutral nouns."""
    model = tiny.backend("llama", tiny.word_level)
    case = Case(prompt="Anna is at the lake . Anna sees a bass . the bass is a",
                contextual="fish", associative="instrument")  # fmt: skip
    found = dst.spans(model, case, fills=("neutral", "random"), budget=300, show_progress=False)
    assert found.fills == ("random",)
    assert any(text.startswith("neutral fills: too few") for text in found.left_out)
    with pytest.raises(TokenError, match="No word of the prompt can be replaced"):
        dst.spans(model, case, fills=("neutral",), show_progress=False)


# -- budget, interruption, determinism -------------------------------------------------------


def test_the_budget_is_kept_and_what_is_not_scored_says_so() -> None:
    plan = SpanPlant(16, (1, 6), "all", 3.0, ((3, -1.0),), seed=2)
    for budget in (100, 150, 220, 400):
        _, found = measured(plan, budget=budget)
        assert 0 < found.forward_passes <= budget
        if not found.complete:
            assert any("budget" in note for note in found.notes)
        for one in found.singles:
            assert one.held_out or np.isnan(one.necessity.mean) == (one.reason != "")
    assert not measured(plan, budget=150)[1].complete


def test_interrupted_it_returns_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every batch in turn: what was read before it stays, and is right."""
    monkeypatch.setattr(span_runs, "MOST_TOKENS", 800)
    planted, model = loaded(EITHER)
    run, calls, most = model.run, 0, [10**9]

    def interrupted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > most[0]:
            raise KeyboardInterrupt
        return run(*args, **options)

    monkeypatch.setattr(model, "run", interrupted)
    whole = dst.spans(model, planted.case, budget=BUDGET, show_progress=False)
    seen_search = seen_scores = False
    for stop in range(3, calls, 3):  # the first two are of the prompt itself
        calls, most[0] = 0, stop
        found = dst.spans(model, planted.case, budget=BUDGET, show_progress=False)
        assert not found.complete
        assert any("Interrupted" in note for note in found.notes)
        assert found.forward_passes <= whole.forward_passes
        for one in (*found.found, *found.singles):
            if one.necessity.n:
                assert one.necessity.mean == pytest.approx(EITHER.necessity(one.units), abs=1e-5)
                assert one.kept.mean == pytest.approx(EITHER.kept(one.units), abs=1e-5)
                seen_search |= not one.held_out
                seen_scores |= one.held_out
            else:
                assert one.reason
    assert seen_search
    assert seen_scores


def test_the_same_seed_gives_the_same_numbers_and_another_others() -> None:
    model = dst.load()
    case = Case(prompt="Leo is at the opera. Leo finds a bass. The bass is a kind of",
                contextual="instrument", associative="fish")  # fmt: skip
    one, two, other = (
        dst.spans(model, case, budget=500, seed=seed, show_progress=False) for seed in (3, 3, 4)
    )
    assert str(one.to_records()) == str(two.to_records())
    assert one.scoring_fills == two.scoring_fills
    assert str(one.to_records()) != str(other.to_records())


def test_nothing_of_the_model_is_changed_and_every_row_is() -> None:
    planted, model = loaded(TOGETHER)
    before = {name: w.clone() for name, w in planted.model.state_dict().items()}
    found = dst.spans(model, planted.case, budget=400, show_progress=False)
    assert all(torch.equal(w, before[name]) for name, w in planted.model.state_dict().items())
    assert found.changed_tokens >= found.forward_passes - 2
    run = prepare(model, planted.case, draws=0)
    fills = make_fills(model, run, kinds=KINDS, among="content", mentions="together",
                       n_search=1, n_scoring=2, seed=0)  # fmt: skip
    same = type(fills)(**{**vars(fills), "search": np.tile(run.tokenized.ids, (3, 1))})
    runs = span_runs.SpanRuns(model, run, same, 100, lambda n: None)
    with pytest.raises(InputError, match="filled with itself"):
        runs.read("search", [(frozenset({0}), 0)])


def test_each_row_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    planted, model = loaded(TOGETHER)
    run = prepare(model, planted.case, draws=0)
    fills = make_fills(model, run, kinds=KINDS, among="content", mentions="together",
                       n_search=1, n_scoring=2, seed=0)  # fmt: skip
    runs = span_runs.SpanRuns(model, run, fills, 100, lambda n: None)
    assert runs.passes == 1
    wanted = [(frozenset({0}), 0), (frozenset({1}), 0), (frozenset({0}), 0)]
    assert runs.read("search", wanted)
    assert runs.read("search", wanted)
    assert runs.passes == 3


def test_a_yes_no_prompt_runs_with_its_twin() -> None:
    """LD is half the difference of the two, as everywhere (METHOD 0)."""
    model = tiny.backend("llama", tiny.word_level)
    text = "Anna sees a bass . Ben hears a bass . What is the bass in the lake ? the bass is a {} ."
    case = Case(prompt=text.format("fish"), contextual="green", associative="city",
                twin_question=text.format("drum"))  # fmt: skip
    run = prepare(model, case, draws=0)
    found = dst.spans(model, case, fills=("random",), budget=400, show_progress=False)
    ids = [model.tokenizer(text.format(word))["input_ids"] for word in ("fish", "drum")]
    ld = run.metric(model.run(ids, logits_at=[-1]).last_logits)
    assert found.contrast == pytest.approx((ld[0] - ld[1]) / 2, abs=1e-5)
    assert "fish" not in found.words
    assert any("twin question" in text for text in found.left_out)


# -- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"budget": 10}, "budget is 10"),
        ({"max_words": 0}, "max_words"),
        ({"beam": 0}, "beam"),
        ({"draws": 1}, "draws is 1"),
        ({"controls": -1}, "controls"),
        ({"fills": ("bert",)}, "neutral, random, reference"),
        ({"fills": ()}, "neutral, random, reference"),
        ({"among": "some"}, "content or all"),
        ({"mentions": "never"}, "together or apart"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        dst.spans(tiny.backend("llama"), LAKE, **{"show_progress": False, **options})


def test_a_case_without_a_rival_is_refused() -> None:
    with pytest.raises(CaseError, match="associative"):
        dst.spans(tiny.backend("llama"), LAKE.replace(associative=()), show_progress=False)


def test_a_result_is_saved_and_read_back(tmp_path: Path) -> None:
    _, found = measured(TOGETHER, budget=500)
    again = dst.open_result(found.save(tmp_path / "spans.npz"))
    assert str(again.to_records()) == str(found.to_records())
    assert again.scoring_fills == found.scoring_fills
    np.testing.assert_array_equal(again.interaction, found.interaction)
    with pytest.raises(ValueError, match="search and the scores"):
        found.replace(search_fills=found.scoring_fills[:1])
    with pytest.raises(ValueError, match="note"):
        found.replace(complete=False, notes=())


def scores_of(model: Backend, planted: PlantedSpan) -> Scores:
    """Scores before anything was run."""
    run = prepare(model, planted.case, draws=0)
    fills = make_fills(model, run, kinds=KINDS, among="content", mentions="together",
                       n_search=1, n_scoring=2, seed=0)  # fmt: skip
    runs = span_runs.SpanRuns(model, run, fills, 1000, lambda n: None)
    return Scores(runs, Search(runs, 4, 3, 0), 5, 0)


def test_scores_need_no_search() -> None:
    """Interrupted at once: no numbers, every reason."""
    planted, model = loaded(TOGETHER)
    scores = scores_of(model, planted)
    assert scores.found() == ()
    assert all(np.isnan(one.joint) and one.reason for one in scores.singles())
