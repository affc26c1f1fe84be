"""Answers are read as whole words, whatever tokens spell them, and counted by outcome."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dst.analysis.proportion import wilson
from dst.core.case import Case
from dst.testbed import judge, world
from dst.testbed.judge import ErrorRow, Reply
from dst.testbed.recipe import Recipe, build_model, build_tokenizer

TINY = Recipe(layers=2, width=32, heads=2, mlp=48)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(TINY.window)


class Says:
    """A stand-in that answers every prompt with the same text, each token at p = 0.8."""

    device = torch.device("cpu")

    def __init__(self, tokenizer: Any, text: str, words: int) -> None:
        self.ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        self.words = words

    def eval(self) -> None: ...

    def __call__(
        self, input_ids: torch.Tensor, use_cache: bool = False, past_key_values: int = 0
    ) -> Any:
        said = past_key_values
        logits = torch.zeros(*input_ids.shape, self.words)
        # e^x / (e^x + words - 1) = 0.8
        logits[..., self.ids[min(said, len(self.ids) - 1)]] = math.log(4 * (self.words - 1))
        return SimpleNamespace(logits=logits, past_key_values=said + 1)


def case(right: str, wrong: str, **more: Any) -> Case:
    prompt = "Anna sees a bass. The bass is a kind of"
    return Case(prompt=prompt, contextual=right, associative=wrong, **more)


# -- what is said


def test_a_form_is_said_as_whole_words() -> None:
    reply = Reply(("gear", "gears", "gears ."), (0.5, 0.5, 0.5))
    assert not reply.says("gear")
    assert reply.says("gears")
    assert reply.word == "gears"
    assert Reply(("gear", "gear."), (0.5, 0.5)).says("gear")
    assert Reply(("New", "New York", "New York."), (1.0,) * 3).says("New York")
    assert not Reply(("fish",), (1.0,)).says("a fish")


def test_the_probability_of_a_form_is_the_product_over_its_tokens() -> None:
    reply = Reply(("instru", "instrument", "instrument."), (0.5, 0.9, 0.1))
    assert reply.probability("instrument") == pytest.approx(0.45)
    assert math.isnan(reply.probability("instru"))
    assert Reply(("fish", "fish."), (0.7, 0.2)).probability("fish") == 0.7


def test_greedy_is_what_transformers_generates(tokenizer: Any) -> None:
    """Prompt by prompt, without batches and without our cache."""
    model = build_model(TINY, tokenizer).eval()
    cases = world.cases("test", n=24, seed=5)
    prompts = [case.text for case in cases]
    found = judge.greedy(model, tokenizer, prompts, tokens=3)
    for prompt, reply in zip(prompts, found, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        for n in range(3):
            with torch.no_grad():
                p = model(ids).logits[0, -1].softmax(-1)
            assert reply.p[n] == pytest.approx(float(p.max()), rel=1e-4)
            ids = torch.cat([ids, p.argmax()[None, None]], 1)
            assert reply.texts[n] == tokenizer.decode(ids[0, -n - 1 :]).strip()


def test_the_reply_is_as_long_as_the_longest_answer_and_one_more(tokenizer: Any) -> None:
    sizes = {
        word: len(tokenizer(word, add_special_tokens=False)["input_ids"])
        for word in ("fish", "instrument")
    }
    assert sizes == {"fish": 1, "instrument": 2}
    assert judge.longest(tokenizer, [case("fish", "bird")]) == 2
    assert judge.longest(tokenizer, [case("fish", "bird"), case("fish", "instrument")]) == 3


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("instrument.", "contextual"),
        ("fish.", "associative"),
        ("bird.", "invalid"),
        ("instru.", "invalid"),  # the first piece alone is no answer
        ("instru fish", "invalid"),
    ],
)
def test_outcomes_are_told_apart(tokenizer: Any, said: str, outcome: str) -> None:
    one = case("instrument", "fish")
    if said.startswith("instru") and said != "instrument.":
        ids = [tokenizer.convert_tokens_to_ids("▁instru"), tokenizer.convert_tokens_to_ids(".")]
        model = Says(tokenizer, "fish", len(tokenizer))
        model.ids = ids if said == "instru." else [ids[0], model.ids[0]]
    else:
        model = Says(tokenizer, said, len(tokenizer))
    assert judge.outcomes(model, tokenizer, [one]) == [outcome]


def test_two_tokens_at_eight_tenths_are_said_at_64_percent(tokenizer: Any) -> None:
    model = Says(tokenizer, "instrument.", len(tokenizer))
    (reply,) = judge.greedy(model, tokenizer, ["Anna sees a bass."], 3)
    assert reply.texts == ("instru", "instrument", "instrument.")
    assert reply.probability("instrument") == pytest.approx(0.64, rel=1e-5)


# -- what is counted


def test_the_table_counts_each_kind_by_outcome(tokenizer: Any) -> None:
    """A model that always says "fish": the counts follow from the cases alone."""
    cases = world.cases("test", n=240, kinds=("plain", "far"))
    rows = judge.error_table(Says(tokenizer, "fish.", len(tokenizer)), tokenizer, cases)
    assert [row.kind for row in rows] == ["plain", "far"]
    for row in rows:
        own = [case for case in cases if world.kind_of(case) == row.kind]
        assert row.n == len(own)
        assert row.contextual == sum(case.contextual == ("fish",) for case in own)
        assert row.associative == sum(case.associative == ("fish",) for case in own)
        assert row.n == row.contextual + row.associative + row.invalid
        assert min(row.contextual, row.associative, row.invalid) > 0
        assert row.error == pytest.approx(1 - row.contextual / row.n)
        assert row.hallucination == row.associative / row.n


def test_yes_no_questions_are_counted_by_their_right_answer(tokenizer: Any) -> None:
    cases = world.cases("test", n=40, kinds=("plain",), askings=("yesno",))
    assert {judge.gold(one) for one in cases} == {"yes", "no"}
    always = judge.error_table(Says(tokenizer, "yes.", len(tokenizer)), tokenizer, cases)
    by_gold = {row.gold: row for row in always}
    assert by_gold["yes"].error == 0
    assert by_gold["no"].error == by_gold["no"].hallucination == 1
    together = judge.yes_no(always)
    assert together is not None
    assert together.balanced_accuracy == 0.5
    assert together.yes_bias == pytest.approx(1 - by_gold["yes"].n / 40)


def test_yes_no_by_hand() -> None:
    """Of 20 to say yes to, 15 right and 3 no; of 10 to say no to, 4 right and 6 yes."""
    rows = [
        ErrorRow("plain", 12, 9, 2, 1, "yes"),
        ErrorRow("far", 8, 6, 1, 1, "yes"),
        ErrorRow("plain", 10, 4, 6, 0, "no"),
        ErrorRow("far", 99, 99, 0, 0),  # no yes/no question
    ]
    found = judge.yes_no(rows)
    assert found is not None
    assert (found.n, found.invalid) == (30, 2)
    assert found.balanced_accuracy == pytest.approx((15 / 20 + 4 / 10) / 2)
    assert found.yes_bias == pytest.approx((15 + 6) / 28 - 20 / 30)
    assert judge.yes_no(rows[:2]) is None
    silent = judge.yes_no([ErrorRow("a", 1, 0, 0, 1, "yes"), ErrorRow("a", 1, 0, 0, 1, "no")])
    assert silent is not None
    assert math.isnan(silent.yes_bias)


def test_only_yes_and_no_make_a_yes_no_question() -> None:
    assert judge.gold(case("yes", "no")) == "yes"
    assert judge.gold(case("no", "yes")) == "no"
    assert judge.gold(case("fish", "no")) == ""


def test_outcomes_are_counted_by_word() -> None:
    cases = [case("fish", "bird", group=word) for word in ("bass", "crane", "bass")]
    found: Sequence[str] = ("contextual", "invalid", "associative")
    assert judge.by_word(cases, found) == {
        "bass": {"n": 2, "contextual": 1, "associative": 1, "invalid": 0},
        "crane": {"n": 1, "contextual": 0, "associative": 0, "invalid": 1},
    }


# -- intervals


@pytest.mark.parametrize(("count", "n"), [(0, 10), (1, 40), (5, 10), (39, 40), (240, 240)])
def test_wilson_s_limits_solve_their_equation(count: int, n: int) -> None:
    share = count / n
    for limit in wilson(count, n):
        distance = 1.959963984540054 * math.sqrt(limit * (1 - limit) / n)
        assert abs(abs(share - limit) - distance) < 1e-12
    low, high = wilson(count, n)
    assert low <= share <= high
    assert (low, high) != (share, share)


def test_wilson_by_hand() -> None:
    """0 of 10: the upper limit is z^2 / (n + z^2) = 3.8415 / 13.8415."""
    assert wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)


def test_a_row_is_written_with_its_intervals() -> None:
    row = ErrorRow("plain", 10, 7, 2, 1, "yes").to_dict()
    assert list(row)[:6] == ["kind", "gold", "n", "contextual", "associative", "invalid"]
    assert (row["error"], row["hallucination"]) == (0.3, 0.2)
    assert row["error_interval"] == [round(limit, 4) for limit in wilson(3, 10)]
    assert row["hallucination_interval"] == [round(limit, 4) for limit in wilson(2, 10)]
    assert "gold" not in ErrorRow("plain", 10, 7, 2, 1).to_dict()
