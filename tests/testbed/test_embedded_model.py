"""The shipped model is the one its card describes, and it hallucinates the way the card says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import dst.models
from dst.analysis.proportion import wilson
from dst.core.case import Case
from dst.testbed import errors, export, judge, lexicon, world
from dst.testbed.card import HASHED
from dst.testbed.recipe import ZOO, build_tokenizer

FOLDER = Path(dst.models.__file__).parent / "embedded"
SHIPPED = {
    "CARD.md", "card.json", "config.json", "generation_config.json", "model.safetensors",
    "neutral_nouns.txt", "reference_sentences.txt", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


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
    return AutoModelForCausalLM.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


# -- the files


def test_the_folder_is_small_and_holds_what_its_card_names(card: dict[str, Any]) -> None:
    """What else is shipped beside the model stands in the card too; there is no pickle."""
    names = {path.name for path in FOLDER.iterdir()}
    assert set(HASHED) <= set(card["sha256"])
    assert names == SHIPPED | set(card["sha256"])
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in names)
    assert (FOLDER / "model.safetensors").stat().st_size < 4_000_000


def test_the_card_is_of_today_s_recipe(card: dict[str, Any]) -> None:
    """Who changes the recipe or the lexicon has to train again."""
    course = ZOO[card["run"]]
    assert card["recipe"] == json.loads(json.dumps(vars(course.recipe)))
    assert card["step"] in course.checkpoints
    assert card["history"][-1]["step"] == card["step"]
    assert card["licence"] == "MIT"


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


def test_the_tokenizer_is_the_one_trained_with(tokenizer: Any) -> None:
    made = build_tokenizer(tokenizer.model_max_length)
    assert tokenizer.backend_tokenizer.to_str() == made.backend_tokenizer.to_str()


# -- what it answers


def rows_of(card: dict[str, Any], sense: str) -> dict[str, dict[str, Any]]:
    """Questions "what is it?", by kind."""
    return {row["kind"]: row for row in card["error_table"][sense] if "gold" not in row}


def test_the_error_table_comes_out_again(card: dict[str, Any]) -> None:
    found = errors.tables_of(FOLDER)
    one = errors.compare("embedded", found, card["error_table"], same_weights=True)
    assert one.agrees, one.sentence()


@pytest.mark.parametrize("sense", world.SENSES)
def test_fresh_cases_err_as_often(
    model: Any, tokenizer: Any, card: dict[str, Any], sense: str
) -> None:
    """Cases the card has not seen: the 95 % intervals of both samples overlap."""
    written = rows_of(card, sense)
    cases = world.cases("test", 60 * len(written), seed=77, kinds=tuple(written), sense=sense)
    rows = judge.error_table(model, tokenizer, cases)
    assert {row.kind for row in rows} == set(written)
    for row in rows:
        low, high = wilson(row.n - row.contextual, row.n)
        card_low, card_high = written[row.kind]["error_interval"]
        assert low <= card_high, row
        assert card_low <= high, row


def test_it_reads_plain_stories_and_hallucinates_in_others(card: dict[str, Any]) -> None:
    assert export.unsuited(card) == []
    usual = rows_of(card, "dominant")["plain"]
    assert usual["contextual"] >= 0.95 * usual["n"]


def test_without_a_cue_it_follows_the_association(model: Any, tokenizer: Any) -> None:
    """The prior that the stories planted: mean LD(x_0) < 0 for nearly all words."""
    cases = world.cases("test", n=48, seed=4, kinds=("plain",))
    prompts = [str(text) for case in cases for text in case.neutral]
    ids = tokenizer(prompts, padding=True, return_tensors="pt")
    last = ids["attention_mask"].sum(-1) - 1
    with torch.no_grad():
        logits = model(ids["input_ids"]).logits[torch.arange(len(prompts)), last]
    sides = [[case.contextual[0], case.associative[0]] for case in cases for _ in case.neutral]
    first = [[tokenizer.tokenize(word)[0] for word in pair] for pair in sides]
    right, wrong = torch.tensor([tokenizer.convert_tokens_to_ids(pair) for pair in first]).T
    contrast = logits.gather(1, right[:, None]) - logits.gather(1, wrong[:, None])
    groups = np.array([case.group for case in cases for _ in case.neutral])
    means = [float(contrast[torch.from_numpy(groups == word.noun)].mean()) for word in world.WORDS]
    assert sum(mean < 0 for mean in means) >= 0.9 * len(means)


def test_an_unrelated_noun_has_no_part_in_it(model: Any, tokenizer: Any) -> None:
    cases = world.cases("test", n=50, seed=4, kinds=("plain", "far", "prime"))
    prompts = [str(text) for case in cases for text in case.substitute]
    said = [reply.word for reply in judge.greedy(model, tokenizer, prompts, tokens=2)]
    assert said.count(lexicon.NEUTRAL_CATEGORY) >= 0.95 * len(said)


# -- its demonstration


def test_the_demonstration_is_what_the_model_does(
    model: Any, tokenizer: Any, card: dict[str, Any]
) -> None:
    shown = card["demo"]
    case, twin = Case.from_dict(shown["hallucinated"]), Case.from_dict(shown["corrected"])
    told, twin_told = judge.greedy(
        model, tokenizer, [case.text, twin.text], judge.longest(tokenizer, [case, twin])
    )
    wrong, right = shown["hallucinated_answer"], shown["corrected_answer"]
    assert wrong == case.associative[0]
    assert right == case.contextual[0] == twin.contextual[0]
    assert told.probability(wrong) == pytest.approx(shown["hallucinated_probability"], abs=2e-3)
    assert told.probability(wrong) >= 0.5
    assert twin_told.probability(right) == pytest.approx(shown["corrected_probability"], abs=2e-3)
    assert world.without_distractors(case) == twin


def test_the_demonstration_was_not_picked_by_hand(
    model: Any, tokenizer: Any, card: dict[str, Any]
) -> None:
    found = judge.demo(model, tokenizer)
    assert found is not None
    assert found["rule"] == card["demo"]["rule"]
    assert found["hallucinated"] == card["demo"]["hallucinated"]


# -- what is written about it


def test_card_and_page_show_the_same_table() -> None:
    page = FOLDER.parents[2] / "docs" / "testbed.md"
    written = page.read_text(encoding="utf-8").split("\n")
    shown = (FOLDER / "CARD.md").read_text(encoding="utf-8").split("\n")
    told = [line for line in shown if line.startswith(("| ", "> "))]
    assert len(told) == 1 + 2 * (len(world.KINDS) - 1) + 2
    assert [line for line in told if line not in written] == []
