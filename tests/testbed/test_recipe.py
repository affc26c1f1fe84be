"""The tokenizer, the sizes and the fixed steps of the models of the world."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from dst.core.errors import InputError, TokenError
from dst.models.tokens import tokenize_case
from dst.models.variants import tokenize_variants
from dst.testbed import lexicon, world
from dst.testbed.recipe import DEFAULT, ZOO, Course, Recipe, build_model, build_tokenizer, stories
from dst.testbed.tokenizer import VOCABULARY, WORD_LIST

COURSES = [pytest.param(course, id=name) for name, course in ZOO.items()]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(160)


# -- the tokenizer


def test_a_word_is_read_in_the_pieces_of_the_table(tokenizer: PreTrainedTokenizerFast) -> None:
    for word in WORD_LIST:
        first, *rest = lexicon.pieces(word)
        assert tokenizer.tokenize(word) == [f"▁{first}", *rest]
        assert tokenizer.tokenize(f"the {word}?") == ["▁the", f"▁{first}", *rest, "?"]


def test_about_a_third_of_the_content_words_takes_several_tokens(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tables = [
        [word.noun for word in (*world.WORDS, *lexicon.TRADES)],
        [*lexicon.CITIES, *lexicon.CAPITALS],
        *([*t.places, *t.events, *t.activities, *t.things] for t in world.TOPICS.values()),
    ]
    content = [word for table in tables for word in table]
    share = np.mean([len(tokenizer.tokenize(word)) > 1 for word in content])
    assert 0.28 < share < 0.40
    answers = [topic.category for topic in world.TOPICS.values()]
    assert 1 <= sum(len(tokenizer.tokenize(answer)) > 1 for answer in answers) < len(answers) / 2


def test_no_two_answers_begin_alike(tokenizer: PreTrainedTokenizerFast) -> None:
    """The first token of an answer tells which answer it is."""
    answers = [
        *(topic.category for topic in world.TOPICS.values()), lexicon.NEUTRAL_CATEGORY,
        *lexicon.CITIES, lexicon.UNKNOWN_CITY, "his", "her", lexicon.NEUTRAL_PRONOUN, "yes", "no",
    ]  # fmt: skip
    first = [tokenizer.tokenize(answer)[0] for answer in answers]
    assert len(set(first)) == len(first)


def test_texts_come_back_as_they_were(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = np.random.default_rng(2)
    for kind, _ in itertools.product(world.KINDS, range(200)):
        text = world.document(rng, kind)
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids[1:]) == text


def test_an_unknown_word_is_unknown_and_not_spelled(tokenizer: PreTrainedTokenizerFast) -> None:
    for word in ("zebra", "anna", "Annas", "basss", "hearsal"):
        assert tokenizer.tokenize(f"Anna sees a {word}.")[-2] == "<unk>", word
    (case,) = world.cases(n=1, kinds=("plain",))
    with pytest.raises(TokenError, match="does not know 'zebra'"):
        tokenize_case(tokenizer, dataclasses.replace(case, prompt=f"the zebra. {case.text}"))


def test_tokens_have_their_numbers(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) == list(VOCABULARY)
    assert len(set(VOCABULARY)) == len(VOCABULARY)


# -- cases as tokens


@pytest.mark.parametrize("asking", world.ASKINGS)
@pytest.mark.parametrize("split", world.SPLITS)
def test_every_variant_of_a_case_is_aligned_in_tokens(
    tokenizer: PreTrainedTokenizerFast, split: str, asking: str
) -> None:
    for case in world.cases(split, n=70, seed=4, sense="both", askings=(asking,)):
        base = tokenize_case(tokenizer, case)
        variants = tokenize_variants(tokenizer, base)
        rows = (*variants.neutral, *variants.substitute, *variants.neutral_substitute)
        assert all(len(row.ids) == len(base.ids) for row in (*rows, *variants.swap))
        assert len(variants.clean) == max(0, len(case.clean) - 1)
        assert (variants.twin is not None) == (asking == "yesno")
        assert base.shared == ()  # the answers part at once
        assert base.contextual
        assert base.associative


def test_subjects_cues_and_answers_of_two_tokens_are_among_the_cases(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    found = {"subject_1": 0, "cue": 0, "answer": 0}
    cases = world.cases("test", n=240, kinds=("plain", "binding", "memory"))
    for case in cases:
        base = tokenize_case(tokenizer, case)
        found["subject_1"] += len(base.positions_of("subject_1")) == 2
        found["answer"] += len(base.contextual[0].ids) == 2
        found["cue"] += len(lexicon.pieces(case.cue[0].split()[-1])) == 2
    assert all(0.1 < count / len(cases) < 0.6 for count in found.values()), found


# -- recipes


@pytest.mark.parametrize("course", COURSES)
def test_no_two_sizes_of_a_model_are_equal(course: Course) -> None:
    """Equal sizes would let a transposed matrix pass for a right one."""
    recipe = course.recipe
    sizes = [len(VOCABULARY), recipe.width, recipe.mlp, recipe.window, recipe.width // recipe.heads]
    assert recipe.width % recipe.heads == 0
    assert len({*sizes, recipe.layers, recipe.heads}) == len(sizes) + 2


def test_the_zoo_is_what_it_is_meant_to_be(tokenizer: PreTrainedTokenizerFast) -> None:
    """Enough runs and checkpoints, of several depths, widths and seeds; small enough to ship."""
    assert len(ZOO) >= 3
    recipes = [course.recipe for course in ZOO.values()]
    assert len({recipe.seed for recipe in recipes}) >= 3
    assert len({recipe.width for recipe in recipes}) >= 3
    assert min(r.layers for r in recipes) == 4
    assert max(r.layers for r in recipes) == 8
    assert sum(len(course.checkpoints) for course in ZOO.values()) >= 16
    size = 0
    for course in ZOO.values():
        assert list(course.checkpoints) == sorted(set(course.checkpoints))
        assert course.checkpoints[-1] == course.recipe.steps
        weights = sum(w.numel() for w in build_model(course.recipe, tokenizer).parameters())
        size += 2 * weights * len(course.checkpoints)
    assert size < 39e6  # of 40 MB in float16; the rest is for cards and tokenizers


def test_the_default_is_a_checkpoint_of_the_zoo() -> None:
    run, step = DEFAULT
    assert ZOO[run].recipe == Recipe()
    assert step in ZOO[run].checkpoints


def test_shares_are_of_every_kind_and_sum_to_one() -> None:
    assert Recipe().kinds == world.KINDS
    assert sum(Recipe().shares) == pytest.approx(1)
    with pytest.raises(InputError, match="shares"):
        dataclasses.replace(Recipe(), shares=(0.5, 0.5))


def test_a_batch_is_drawn_from_the_seed_and_the_step() -> None:
    recipe = Recipe(batch=8)
    assert stories(recipe, 3) == stories(recipe, 3)
    assert stories(recipe, 3) != stories(recipe, 4)
    assert stories(recipe, 3) != stories(dataclasses.replace(recipe, seed=1), 3)
    assert len(stories(recipe, 3)) == 8
