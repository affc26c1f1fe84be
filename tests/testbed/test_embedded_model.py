"""The shipped model is the one its card describes, and it hallucinates the way the card says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import dst.models
from dst.core.case import Case
from dst.testbed import judge, lexicon, world
from dst.testbed.card import HASHED, sha256
from dst.testbed.recipe import Recipe, build_tokenizer

FOLDER = Path(dst.models.__file__).parent / "embedded"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small gains nothing from a second thread, and waits for it on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    return json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


# -- the files


def test_the_files_are_those_of_the_card(card: dict[str, Any]) -> None:
    assert set(card["sha256"]) == set(HASHED)
    for name, digest in card["sha256"].items():
        assert sha256(FOLDER / name) == digest, name


def test_the_folder_is_small_and_holds_no_pickle() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {
        "CARD.md", "card.json", "config.json", "generation_config.json", "model.safetensors",
        "neutral_nouns.txt", "reference_sentences.txt", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert (FOLDER / "model.safetensors").stat().st_size < 4_000_000


def test_the_card_is_of_today_s_recipe(card: dict[str, Any]) -> None:
    """Who changes the recipe or the lexicon has to train again."""
    assert card["recipe"] == json.loads(json.dumps(vars(Recipe())))
    assert card["licence"] == "MIT"
    assert card["history"][-1]["step"] == Recipe().steps


def test_the_reference_sentences_are_two_hundred_stories_in_known_words(tokenizer: Any) -> None:
    lines = (FOLDER / "reference_sentences.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 200
    assert len(set(lines)) > 190
    assert not any(tokenizer.unk_token_id in tokenizer(line)["input_ids"] for line in lines)


def test_the_neutral_nouns_are_the_world_s() -> None:
    written = (FOLDER / "neutral_nouns.txt").read_text(encoding="utf-8")
    assert tuple(written.split("\n")) == (*lexicon.NEUTRAL_NOUNS, "")


def test_no_two_sizes_are_equal(model: Any, card: dict[str, Any]) -> None:
    """Equal sizes would let a transposed matrix pass for a right one."""
    config = model.config
    sizes = [config.vocab_size, config.hidden_size, config.intermediate_size]
    sizes += [config.max_position_embeddings]
    assert len(set(sizes)) == len(sizes)
    assert (
        sum(weights.numel() for weights in model.parameters())
        == (card["architecture"]["parameters"])
    )


# -- the tokenizer


def test_one_word_is_one_token_after_one_bos(tokenizer: Any) -> None:
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))] == [
        *world.VOCABULARY
    ]
    case = world.cases(n=1)[0]
    ids = tokenizer(case.text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert len(ids) == 1 + len(case.text.split())
    assert tokenizer.decode(ids[1:]) == case.text
    assert tokenizer("Anna sees a zebra.")["input_ids"] == [
        tokenizer.convert_tokens_to_ids(word)
        for word in ("<bos>", "anna", "sees", "a", "<unk>", ".")
    ]


def test_the_tokenizer_is_the_one_trained_with(tokenizer: Any) -> None:
    made = build_tokenizer(Recipe().window)
    assert tokenizer.backend_tokenizer.to_str() == made.backend_tokenizer.to_str()


# -- what it answers


def rows_of(card: dict[str, Any], sense: str) -> dict[str, dict[str, Any]]:
    return {row["kind"]: row for row in card["error_table"][sense]}


@pytest.mark.parametrize("sense", world.SENSES)
def test_the_error_table_comes_out_again(
    model: Any, tokenizer: Any, card: dict[str, Any], sense: str
) -> None:
    """The same cases: a count may differ by one, where two answers tie to rounding."""
    table = card["error_table"]
    cases = world.cases(table["split"], table["n_per_sense"], table["seed"], sense=sense)
    written = rows_of(card, sense)
    for row in judge.error_table(model, tokenizer, cases):
        for outcome in ("contextual", "associative", "invalid"):
            assert abs(getattr(row, outcome) - written[row.kind][outcome]) <= 1
        assert (
            row.n
            == written[row.kind]["n"]
            == sum(
                written[row.kind][outcome] for outcome in ("contextual", "associative", "invalid")
            )
        )


@pytest.mark.parametrize("sense", world.SENSES)
def test_fresh_cases_err_as_often(
    model: Any, tokenizer: Any, card: dict[str, Any], sense: str
) -> None:
    """Cases the card has not seen: the 95 % intervals of both samples overlap."""
    written = rows_of(card, sense)
    rows = judge.error_table(model, tokenizer, world.cases("test", n=300, seed=77, sense=sense))
    assert {row.kind for row in rows} == set(world.KINDS)
    for row in rows:
        low, high = judge.wilson(row.n - row.contextual, row.n)
        card_low, card_high = written[row.kind]["error_interval"]
        assert low <= card_high, row
        assert card_low <= high, row


def test_it_reads_plain_stories_and_hallucinates_in_others(card: dict[str, Any]) -> None:
    rare, usual = rows_of(card, "minority"), rows_of(card, "dominant")
    assert rare["plain"]["error"] <= 0.10
    assert usual["plain"]["contextual"] >= 0.95 * usual["plain"]["n"]
    assert sum(row["hallucination"] >= 0.10 for row in rare.values()) >= 2
    others = [row["hallucination"] for kind, row in rare.items() if kind != "plain"]
    assert 0.15 <= np.mean(others) <= 0.40


def test_without_a_cue_it_follows_the_association(model: Any, tokenizer: Any) -> None:
    """The prior that the stories planted: mean LD(x_0) < 0 for nearly all words."""
    cases = world.cases("test", n=48, seed=4, kinds=("plain",))
    prompts = [str(text) for case in cases for text in case.neutral]
    ids = tokenizer(prompts, padding=True, return_tensors="pt")
    last = ids["attention_mask"].sum(-1) - 1
    with torch.no_grad():
        logits = model(ids["input_ids"]).logits[torch.arange(len(prompts)), last]
    sides = [[case.contextual[0], case.associative[0]] for case in cases for _ in case.neutral]
    right, wrong = torch.tensor([tokenizer.convert_tokens_to_ids(pair) for pair in sides]).T
    contrast = logits.gather(1, right[:, None]) - logits.gather(1, wrong[:, None])
    groups = np.array([case.group for case in cases for _ in case.neutral])
    means = [float(contrast[torch.from_numpy(groups == word.noun)].mean()) for word in world.WORDS]
    assert sum(mean < 0 for mean in means) >= 0.9 * len(means)


def test_an_unrelated_noun_has_no_part_in_it(model: Any, tokenizer: Any) -> None:
    cases = world.cases("test", n=50, seed=4)
    prompts = [str(text) for case in cases for text in case.substitute]
    said = [word for word, _ in judge.greedy(model, tokenizer, prompts)]
    assert said.count(lexicon.NEUTRAL_CATEGORY) >= 0.95 * len(said)


# -- its demonstration


def test_the_demonstration_is_what_the_model_does(
    model: Any, tokenizer: Any, card: dict[str, Any]
) -> None:
    shown = card["demo"]
    case, twin = Case.from_dict(shown["hallucinated"]), Case.from_dict(shown["corrected"])
    (word, p), (twin_word, twin_p) = judge.greedy(model, tokenizer, [case.text, twin.text])
    assert word == shown["hallucinated_answer"] == case.associative[0]
    assert twin_word == shown["corrected_answer"] == case.contextual[0] == twin.contextual[0]
    assert p == pytest.approx(shown["hallucinated_probability"], abs=2e-3)
    assert p >= 0.5
    assert twin_p == pytest.approx(shown["corrected_probability"], abs=2e-3)
    assert world.without_distractors(case) == twin


def test_the_demonstration_was_not_picked_by_hand(
    model: Any, tokenizer: Any, card: dict[str, Any]
) -> None:
    found = judge.demo(model, tokenizer)
    assert found is not None
    assert found["rule"] == card["demo"]["rule"]
    assert found["hallucinated"] == card["demo"]["hallucinated"]


# -- the arithmetic of the card


@pytest.mark.parametrize(("count", "n"), [(0, 10), (1, 40), (5, 10), (39, 40), (240, 240)])
def test_wilson_s_limits_solve_their_equation(count: int, n: int) -> None:
    share = count / n
    for limit in judge.wilson(count, n):
        distance = 1.959963984540054 * math.sqrt(limit * (1 - limit) / n)
        assert abs(abs(share - limit) - distance) < 1e-12
    low, high = judge.wilson(count, n)
    assert low <= share <= high
    assert (low, high) != (share, share)


def test_wilson_by_hand() -> None:
    """0 of 10: the upper limit is z^2 / (n + z^2) = 3.8415 / 13.8415."""
    assert judge.wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)


def test_outcomes_are_told_apart() -> None:
    """A stand-in that always says "fish": right, hallucinated or invalid by the case alone."""

    class Fish:
        def eval(self) -> None: ...

        def __call__(self, input_ids: torch.Tensor) -> Any:
            logits = torch.zeros(*input_ids.shape, len(world.VOCABULARY))
            logits[..., world.VOCABULARY.index("fish")] = 9.0
            return type("Out", (), {"logits": logits})

    cases = world.cases("test", n=240, kinds=("plain",), sense="minority")
    (row,) = judge.error_table(Fish(), build_tokenizer(160), cases)
    rare = sum(word.minority == "water" for word in world.WORDS) * 10
    usual = sum(word.dominant == "water" for word in world.WORDS) * 10
    assert (row.contextual, row.associative) == (rare, usual)
    assert row.invalid == 240 - rare - usual
    assert row.hallucination == usual / 240
    assert row.error == pytest.approx(1 - rare / 240)


# -- what is written about it


def test_card_and_page_show_the_same_table() -> None:
    page = FOLDER.parents[2] / "docs" / "testbed.md"
    written = page.read_text(encoding="utf-8").split("\n")
    shown = (FOLDER / "CARD.md").read_text(encoding="utf-8").split("\n")
    told = [line for line in shown if line.startswith(("| ", "> "))]
    assert len(told) == 13
    assert [line for line in told if line not in written] == []
