"""The corpus: whole stories, answers included, as the models are trained on.

The corpus holds every word in both senses and every pattern (kind, frame, asking); one pair of
word and pattern in eight is withheld, so that a story of such a pair is new to every model
though nothing in it is.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import NamedTuple

import numpy as np

from dst.testbed.lexicon import (
    ASKINGS,
    BLANK_LANDS,
    CAPITAL,
    CAPITALS,
    CITIES,
    GENDERS,
    NEUTRAL_CATEGORY,
    NEUTRAL_NOUNS,
    NEUTRAL_PRONOUN,
    NEUTRAL_TRADES,
    NONE,
    TOPICS,
    TRADES,
    UNKNOWN_CITY,
    WORD_KINDS,
    WORDS,
    Word,
)
from dst.testbed.scenes import (
    ASKING_OF,
    Scene,
    frames_of,
    land_scene,
    pick,
    sample,
    scene,
    trade_scene,
)

# Shares of the corpus. A neutral cue leaves the sense to the prior. A building is a building
# everywhere. Distractors are mostly about the word's other sense, which must not decide.
NEUTRAL_CUE_SHARE = 0.12
UNRELATED_SHARE = 0.10
OTHER_SENSE_SHARE = 0.70
CITY_FACT_SHARE = 0.10
MOVED_SHARE = 0.45  # of a country's stories with a cue; else something else of it has moved
NO_CUE_SHARE = 0.20  # of stories about countries and trades
FORM_SHARES = {
    "what": 0.38, "it": 0.12, "which": 0.12, "so": 0.16, "yesno": 0.12, "tell": 0.05, "and": 0.05,
}  # fmt: skip
WITHHELD_SHARE = 1 / 8


def _withheld() -> dict[str, frozenset[str]]:
    """For every kind with a cue, and every asking, one in eight pairs of word and frame.

    Those whose hashes come first are taken, at most one frame of a word.
    """
    nouns = {kind: [word.noun for word in WORDS] for kind in WORD_KINDS if kind != NONE}
    nouns |= {"memory": [*CAPITALS], "stereotype": [word.noun for word in TRADES]}
    withheld: dict[str, set[str]] = {noun: set() for some in nouns.values() for noun in some}
    for (kind, of_kind), asking in itertools.product(nouns.items(), ASKINGS):
        pairs = [
            (hashlib.sha256(f"{noun} withholds {pattern}".encode()).hexdigest(), noun, pattern)
            for noun, frame in itertools.product(of_kind, frames_of(kind))
            for pattern in [f"{kind}/{frame}/{asking}"]
        ]
        one_each = {noun: (digest, noun, pattern) for digest, noun, pattern in sorted(pairs)[::-1]}
        for _, noun, pattern in sorted(one_each.values())[: round(len(pairs) * WITHHELD_SHARE)]:
            withheld[noun].add(pattern)
    return {noun: frozenset(patterns) for noun, patterns in withheld.items()}


WITHHELD: dict[str, frozenset[str]] = _withheld()
"""The patterns in which the corpus never tells of a word."""


def is_withheld(noun: str, pattern: str) -> bool:
    """Whether the corpus holds no story of this word in this pattern."""
    return pattern in WITHHELD.get(noun, ())


class Told(NamedTuple):
    """A scene, what it says in the end, and what it might have said."""

    scene: Scene
    answer: str
    rival: str


def document(rng: np.random.Generator, kind: str) -> str:
    """Write one whole story, answer included."""
    if kind == "memory" and rng.random() < CITY_FACT_SHARE:
        city = pick(rng, tuple(CITIES))
        of = TOPICS[CITIES[city]]
        return f"{city} is known for the {pick(rng, (*of.things, *of.places, *of.events))}."
    while True:
        if kind == "memory":
            told, answer, rival = _of_a_land(rng)
        elif kind == "stereotype":
            told, answer, rival = _of_a_trade(rng)
        else:
            told, answer, rival = _of_a_word(rng, kind)
        told = told._replace(form=_weighted(rng, FORM_SHARES))
        if not is_withheld(told.noun, told.pattern):
            break
    if ASKING_OF[told.form] != "yesno":
        return f"{told.tell()} {answer}{f' {told.item}' if told.item else ''}."
    # It asks for the truth as often as for the rival; "unknown" is nothing to ask for.
    true = rng.random() < 0.5 and answer != UNKNOWN_CITY
    told = told._replace(asked=answer if true else rival)
    return f"{told.tell()} {'yes' if true else 'no'}."


def _of_a_word(rng: np.random.Generator, kind: str) -> Told:
    """A story of a noun with two senses, or of a building."""
    topics = tuple(TOPICS)
    about: str | None = pick(rng, topics)  # of the distractors
    if rng.random() < UNRELATED_SHARE:
        noun, answer = pick(rng, NEUTRAL_NOUNS), NEUTRAL_CATEGORY
        topic = rival = pick(rng, topics)
    else:
        word = pick(rng, WORDS)
        topic, rival = _senses(rng, word)
        noun, answer = word.noun, TOPICS[topic].category
        if rng.random() < OTHER_SENSE_SHARE:
            about = rival
        elif rng.random() < 0.5:
            about = None
    neutral = kind == "none" or rng.random() < NEUTRAL_CUE_SHARE
    drawn = scene(rng, kind, noun, None if neutral else topic, about)
    return Told(drawn, answer, TOPICS[rival].category)


def _of_a_land(rng: np.random.Generator) -> Told:
    """A story of a country: its capital, or something else of it, has moved to a city."""
    blank = rng.random() < UNRELATED_SHARE
    land = pick(rng, BLANK_LANDS if blank else tuple(CAPITALS))
    known = CAPITALS.get(land, UNKNOWN_CITY)
    cities = tuple(city for city in CITIES if city != known)
    city, other = sample(rng, cities, 2)
    if rng.random() < NO_CUE_SHARE:
        return Told(land_scene(rng, land, "", "", NONE), known, other)
    if rng.random() < MOVED_SHARE:
        drawn = land_scene(rng, land, CAPITAL, city)
        return Told(drawn, city, other if blank else known)
    return Told(land_scene(rng, land, pick(rng, NEUTRAL_NOUNS), city), known, city)


def _of_a_trade(rng: np.random.Generator) -> Told:
    """A story of somebody's trade, who is said to be a man or a woman, or neither."""
    word = pick(rng, TRADES)
    gender, other = _senses(rng, word)
    noun, answer, rival = word.noun, GENDERS[gender].category, GENDERS[other].category
    frame = NONE if rng.random() < NO_CUE_SHARE else None
    neutral = rng.random() < NEUTRAL_CUE_SHARE
    if rng.random() < UNRELATED_SHARE:
        noun = pick(rng, NEUTRAL_TRADES)
        answer = NEUTRAL_PRONOUN if neutral or frame else answer
    return Told(trade_scene(rng, noun, None if neutral else gender, frame), answer, rival)


def _senses(rng: np.random.Generator, word: Word) -> tuple[str, str]:
    """The sense that a story gives a word, drawn by the word's prior, and the other."""
    senses = (word.dominant, word.minority)
    return senses if rng.random() < word.prior else (word.minority, word.dominant)


def _weighted(rng: np.random.Generator, shares: dict[str, float]) -> str:
    left = rng.random() * sum(shares.values())
    for name, share in shares.items():
        left -= share
        if left < 0:
            return name
    return name
