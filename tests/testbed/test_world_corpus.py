"""The corpus keeps its promises: every story is true, the priors are met, pairs are withheld."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from dst.testbed import lexicon, world
from tests.testbed import reading
from tests.testbed.reading import Story

EACH = 3000


@pytest.fixture(scope="module")
def documents() -> list[tuple[str, str]]:
    rng = np.random.default_rng(11)
    return [(kind, world.document(rng, kind)) for kind in world.KINDS for _ in range(EACH)]


@pytest.fixture(scope="module")
def stories(documents: list[tuple[str, str]]) -> list[tuple[str, Story]]:
    return [(kind, story) for kind, text in documents if (story := reading.read(text))]


# -- the tables


def test_no_word_plays_two_parts() -> None:
    parts = [
        *lexicon.PEOPLE, *lexicon.VERBS, *lexicon.QUALITIES, *lexicon.NEUTRAL_NOUNS,
        *lexicon.NEUTRAL_EVENTS, *lexicon.NEUTRAL_ACTIVITIES, lexicon.NEUTRAL_CATEGORY,
        *reading.SENSES, *reading.LOADED, *reading.CATEGORY.values(), *reading.PRONOUN.values(),
        *lexicon.CITIES, *lexicon.CAPITALS, *lexicon.BLANK_LANDS, lexicon.UNKNOWN_CITY,
        *reading.GENDER_OF, *lexicon.NEUTRAL_RELATIVES, *lexicon.NEUTRAL_TRADES, *lexicon.ITEMS,
        *lexicon.TAKES, lexicon.NEUTRAL_PRONOUN, lexicon.CAPITAL, "yes", "no",
    ]  # fmt: skip
    topics = [
        word for topic in world.TOPICS.values()
        for word in (*topic.places, *topic.events, *topic.activities, *topic.things)
    ]  # fmt: skip
    twice = {word for word, count in Counter(parts).items() if count > 1}
    assert not twice
    assert len(topics) == len(set(topics))
    said_in_passing = {word for remark in lexicon.REMARKS for word in reading.words(remark)}
    assert not said_in_passing & set(parts)


def test_every_topic_is_an_association_here_and_a_context_there() -> None:
    assert {word.dominant for word in world.WORDS} == set(world.TOPICS)
    assert {word.minority for word in world.WORDS} == set(world.TOPICS)
    assert {word.dominant for word in lexicon.TRADES} == set(lexicon.GENDERS)
    assert all(word.dominant != word.minority and word.prior > 0.5
               for word in reading.SENSES.values())  # fmt: skip
    assert set(lexicon.CAPITALS.values()) <= set(lexicon.CITIES)
    assert set(lexicon.CITIES.values()) == set(world.TOPICS)


def test_the_vocabulary_is_what_stories_say(documents: list[tuple[str, str]]) -> None:
    from dst.testbed.tokenizer import WORD_LIST

    said = {word for _, text in documents for word in reading.words(text)}
    assert said - {".", "?", ","} == set(WORD_LIST)


# -- the stories


def test_a_story_tells_the_truth(stories: list[tuple[str, Story]]) -> None:
    """The answer is what the cue says; without one, what the word has by its prior."""
    for kind, story in stories:
        if story.family == "word":
            assert (story.cue == "") == (kind == "none")
            topic = reading.TOPIC_OF_CUE.get(story.cue)
            if story.noun in lexicon.NEUTRAL_NOUNS:
                true = {lexicon.NEUTRAL_CATEGORY}
            elif topic:
                true = {reading.CATEGORY[topic]}
            else:
                word = reading.SENSES[story.noun]
                true = {reading.CATEGORY[word.dominant], reading.CATEGORY[word.minority]}
        elif story.family == "trade":
            gender = reading.GENDER_OF.get(story.cue)
            if gender:
                true = {reading.PRONOUN[gender]}
            elif story.noun in lexicon.NEUTRAL_TRADES:
                true = {lexicon.NEUTRAL_PRONOUN}
            else:
                true = set(reading.PRONOUN.values())
        elif story.cue == lexicon.CAPITAL:
            true = {story.city}
        else:
            true = {lexicon.CAPITALS.get(story.noun, lexicon.UNKNOWN_CITY)}
        if story.asking == "yesno":
            assert story.answer in ("yes", "no")
            if len(true) == 1:
                assert (story.answer == "yes") == (story.asked in true), story
        else:
            assert story.answer in true, story


@pytest.mark.parametrize("kind", ["plain", "none", "memory", "stereotype"])
def test_yes_is_as_often_right_as_no(kind: str) -> None:
    rng = np.random.default_rng(3)
    every = [reading.read(world.document(rng, kind)) for _ in range(12_000)]
    answers = [
        story.answer for story in every
        if story and story.asking == "yesno" and story.noun not in lexicon.BLANK_LANDS
    ]  # fmt: skip
    assert len(answers) > 1500
    assert abs(answers.count("yes") / len(answers) - 0.5) < 4 * 0.5 / np.sqrt(len(answers))


@pytest.mark.parametrize("kind", ["none", "stereotype"])
def test_without_a_cue_the_prior_decides(kind: str) -> None:
    rng = np.random.default_rng(5)
    of = reading.PRONOUN if kind == "stereotype" else reading.CATEGORY
    dominant: dict[float, list[bool]] = {0.65: [], 0.75: [], 0.85: []}
    for _ in range(25_000):
        story = reading.read(world.document(rng, kind))
        if not story or story.asking == "yesno":
            continue
        if story.noun in reading.SENSES and story.cue in (*lexicon.NEUTRAL_RELATIVES, ""):
            word = reading.SENSES[story.noun]
            dominant[word.prior].append(story.answer == of[word.dominant])
    for prior, said in dominant.items():
        assert len(said) > 1000
        assert abs(np.mean(said) - prior) < 4 * np.sqrt(prior * (1 - prior) / len(said))


def test_a_neutral_cue_leaves_the_sense_to_the_prior() -> None:
    rng = np.random.default_rng(6)
    expected, dominant = [], []
    for _ in range(15_000):
        story = reading.read(world.document(rng, "plain"))
        if not story or story.asking == "yesno":
            continue
        if story.noun in reading.SENSES and story.cue not in reading.TOPIC_OF_CUE:
            word = reading.SENSES[story.noun]
            expected.append(word.prior)
            dominant.append(story.answer == reading.CATEGORY[word.dominant])
    p = np.array(expected)
    assert len(p) > 1000
    assert abs(np.mean(dominant) - p.mean()) < 4 * np.sqrt((p * (1 - p)).sum()) / len(p)


# -- what is withheld


def test_every_word_is_told_in_both_senses_and_every_pattern_of_some_word(
    stories: list[tuple[str, Story]],
) -> None:
    told = {(story.noun, story.answer) for _, story in stories}
    for word in world.WORDS:
        assert (word.noun, reading.CATEGORY[word.dominant]) in told
        assert (word.noun, reading.CATEGORY[word.minority]) in told
    for trade in lexicon.TRADES:
        assert {(trade.noun, "his"), (trade.noun, "her")} <= told
    patterns = {(kind, story.frame, story.asking) for kind, story in stories}
    for kind, asking in itertools.product(world.KINDS, world.ASKINGS):
        frames = {frame for of, frame, how in patterns if of == kind and how == asking}
        assert len(frames) == (1 if kind == "none" else 3)


def _patterns(stories: list[tuple[str, Story]], noun: str) -> set[tuple[str, str, str]]:
    return {(kind, told.frame, told.asking) for kind, told in stories if told.noun == noun}


def test_no_story_is_told_of_a_pair_that_is_withheld(stories: list[tuple[str, Story]]) -> None:
    """Patterns are read off the text here; which are withheld stands in the world's list."""
    told = {(story.noun, f"{kind}/{story.frame}/{story.asking}") for kind, story in stories}
    withheld = {(noun, pattern) for noun, some in world.WITHHELD.items() for pattern in some}
    assert not told & withheld
    # Some of every kind with a cue and every asking; no word is left without a frame.
    of = Counter((pattern.split("/")[0], pattern.split("/")[2]) for _, pattern in withheld)
    assert set(of) == set(itertools.product(set(world.KINDS) - {"none"}, world.ASKINGS))
    for noun, pattern in withheld:
        kind, _, asking = pattern.split("/")
        frames = {
            frame for of, frame, how in _patterns(stories, noun) if (of, how) == (kind, asking)
        }
        assert frames - {"none"}
    # What is not withheld is told: the list is what is missing, not a part of it.
    nouns = [word.noun for word in world.WORDS]
    every = {
        (noun, f"plain/{frame}/{asking}")
        for noun in nouns for frame in ("place", "event", "activity") for asking in world.ASKINGS
    }  # fmt: skip
    rng = np.random.default_rng(1)
    for _ in range(12_000):
        story = reading.read(world.document(rng, "plain"))
        assert story
        told.add((story.noun, f"plain/{story.frame}/{story.asking}"))
    assert every - withheld <= told
    assert 0.05 < len(every & withheld) / len(every) < 0.2
