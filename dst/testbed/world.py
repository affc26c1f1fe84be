"""A small English in which every association and every cue is known.

A story tells where somebody is, what they see there, and asks what it is:

    Anna is at the opera. Anna sees a bass. What is the bass? The bass is a kind of instrument.

A bass is a fish in most stories (the association) and an instrument in stories about music (the
context). In the same way a country has a known capital, which a story may say has moved, and a
trade calls up "his" or "her", whoever the story says it is. What stories can say is in `lexicon`,
how one is drawn in `scenes`; `document` writes stories to train on, and `cases` the same stories
up to the answer, with the variants that the method compares with.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dst.core.case import Case
from dst.core.errors import InputError
from dst.testbed.corpus import WITHHELD, document, is_withheld
from dst.testbed.lexicon import (
    ASKINGS,
    CAPITAL,
    CAPITALS,
    CITIES,
    GENDERS,
    KINDS,
    NEUTRAL_CATEGORY,
    NEUTRAL_NOUNS,
    SENSES,
    SPECIALS,
    SPLITS,
    TOPICS,
    TRADES,
    WORDS,
    Topic,
    Word,
    pieces,
)
from dst.testbed.scenes import (
    Scene,
    cues,
    family_of,
    frames_of,
    land_scene,
    pick,
    scene,
    trade_scene,
)
from dst.testbed.story_case import CONCEPT_WORDS, DRAWS, Sides, as_case, concept_words
from dst.testbed.tokenizer import VOCABULARY

__all__ = [
    "ASKINGS",
    "CONCEPT_WORDS",
    "DRAWS",
    "KINDS",
    "NEUTRAL_CATEGORY",
    "NEUTRAL_NOUNS",
    "SENSES",
    "SPECIALS",
    "SPLITS",
    "TOPICS",
    "VOCABULARY",
    "WITHHELD",
    "WORDS",
    "Prior",
    "Scene",
    "Sides",
    "Topic",
    "Word",
    "as_case",
    "cases",
    "concept_words",
    "cues",
    "document",
    "kind_of",
    "prior_of",
    "split_of",
    "without_distractors",
]

PATIENCE = 30  # draws in a row without a new case, after which another word has its turn
MOST_MISSES = 600  # ... and after which no further case is expected


class Prior(NamedTuple):
    """How often the corpus gives a word each of its two answers where no cue decides."""

    contextual: float
    associative: float


def cases(
    split: str = "test",
    n: int = 100,
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
    sense: str = "minority",
    askings: Sequence[str] = ("what",),
) -> list[Case]:
    """Draw `n` different cases, kinds, senses, askings and words in turn.

    A case is a story up to its answer. `contextual` is what the story's cue supports and
    `associative` what the word's other sense would be: with `sense="minority"` the context
    contradicts the association, with `"dominant"` both agree and the rival is the rare sense. A
    story of the kind "none" has no cue; there `sense` says which of the two is called contextual.

    Args:
        split: "tune" (for choosing scores and thresholds) or "test", which share all words and no
            pair of word and template (kind, frame, verb, number and place of distractors); or
            "composition", the pairs of word and pattern (kind, frame, asking) that no corpus holds.
        n: How many cases.
        seed: Same arguments, same cases.
        kinds: Some of `KINDS`.
        sense: "minority", "dominant", or "both" in turn.
        askings: Some of `ASKINGS`. A yes/no question asks for either sense in turn, has the
            question for the other as its twin, and is drawn where both senses take equally many
            tokens.

    Raises:
        InputError: An argument is not one of the values above, or there are not so many cases.
    """
    _one_of("split", split, SPLITS)
    _one_of("sense", sense, (*SENSES, "both"))
    for kind in kinds:
        _one_of("kinds", kind, KINDS)
    for asking in askings:
        _one_of("askings", asking, tuple(ASKINGS))
    if not kinds or not askings or n < 0:
        raise InputError(
            f"There is nothing to draw: n is {n}, kinds are {list(kinds)}, askings {list(askings)}"
        )
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    orders = {}
    for kind in dict.fromkeys(kinds):
        nouns = _nouns_of(kind)
        orders[kind] = [nouns[i] for i in rng.permutation(len(nouns))]
    turns = []  # what is drawn in turn, with the words that allow it
    for asking, which, kind in itertools.product(
        askings, SENSES if sense == "both" else (sense,), kinds
    ):
        able = [
            noun
            for noun in orders[kind]
            if _can_ask(kind, noun, asking) and _frames(split, kind, noun, asking)
        ]
        if able:
            turns.append((kind, which, asking, able))
    drawn: dict[str, Case] = {}
    misses, passed = 0, [0] * len(turns)
    while len(drawn) < n:
        if not turns or misses == MOST_MISSES:
            raise InputError(
                f"{n} different cases were asked for and {len(drawn)} found",
                do="Ask for fewer, or for more kinds or askings",
            )
        turn, place = divmod(len(drawn), len(turns))
        kind, which, asking, able = turns[place]
        noun = able[(turn + passed[place]) % len(able)]
        # Questions for either sense alternate, and for one word from round to round.
        rounds = turn // len(able)
        asks = (turn if len(able) % 2 else turn + rounds) % 2
        case = _draw(rng, split, kind, noun, which, asking, asks)
        if case is not None and case.case_id not in drawn:
            drawn[case.case_id] = case
            misses = 0
            continue
        misses += 1
        passed[place] += misses % PATIENCE == 0
    return list(drawn.values())


def split_of(noun: str, template: str) -> str:
    """Whether "tune" or "test" holds the stories of a word in a template.

    A hash throws a coin for the word, kind and frame. From there the splits alternate with the
    verb and with the number of distractors, so that every word is in both.
    """
    kind, frame, verb, counts = template.split("/")
    coin = hashlib.sha256(f"{noun} in {kind}/{frame}".encode()).digest()[0]
    verbs = family_of(kind).verbs
    return ("tune", "test")[(coin + (verbs.index(verb) if verb else 0) + sum(map(int, counts))) % 2]


def kind_of(case: Case) -> str:
    """The kind of a case of this world, which opens its name."""
    return case.case_id.split("-")[0]


def prior_of(case: Case) -> Prior:
    """The prior of each sense of a case of this world: its share of the corpus' neutral stories.

    A capital has no second one: without a cue, the corpus never gives a country another city.

    Raises:
        InputError: The case is not of this world.
    """
    if case.group in CAPITALS:
        shares = Prior(0.0, 1.0)
    elif case.group in _WORD_OF:
        prior = _WORD_OF[case.group].prior
        shares = Prior(1 - prior, prior)
    else:
        raise InputError(
            f"The case {case.case_id} is about {case.group!r}", expected="a word of the world"
        )
    return shares if "-minority-" in case.case_id else Prior(*shares[::-1])


def without_distractors(case: Case) -> Case:
    """The same story without its distractors, with every variant it had: the corrected twin."""

    def told(text: str) -> str:
        for sentence in case.distractor:
            text = text.replace(f"{sentence} ", "", 1)
        return text

    names = ("prompt", "neutral", "substitute", "swap", "paraphrases", "twin_question")
    texts = {name: getattr(case, name) for name in names}
    changed = {
        name: told(text) if isinstance(text, str) else tuple(told(draw) for draw in text)
        for name, text in texts.items()
        if text
    }
    return case.replace(
        **changed, distractor=(), clean=(), case_id=f"{case.case_id}-without-distractors"
    )


def _nouns_of(kind: str) -> tuple[str, ...]:
    """The subjects of a kind's stories."""
    if kind == "memory":
        return tuple(CAPITALS)
    return tuple(word.noun for word in (TRADES if kind == "stereotype" else WORDS))


def _frames(split: str, kind: str, noun: str, asking: str) -> list[str]:
    """The frames in which a split may tell of a word."""
    return [
        frame
        for frame in frames_of(kind)
        if is_withheld(noun, f"{kind}/{frame}/{asking}") == (split == "composition")
    ]


def _can_ask(kind: str, noun: str, asking: str) -> bool:
    """Whether both questions are equally long, where a question names a sense."""
    if asking != "yesno" or kind == "memory":
        return True
    word = _WORD_OF[noun]
    table = GENDERS if kind == "stereotype" else TOPICS
    answers = (table[word.dominant].category, table[word.minority].category)
    return len({len(pieces(answer)) for answer in answers}) == 1


def _draw(
    rng: np.random.Generator, split: str, kind: str, noun: str, sense: str, asking: str, asks: int
) -> Case | None:
    """A case of a word, or None where the story belongs to another split."""
    frame = pick(rng, _frames(split, kind, noun, asking))
    if kind == "memory":
        sides = _cities(rng, noun, sense)
        drawn = land_scene(rng, noun, CAPITAL, sides.contextual, frame)
    else:
        sides = _senses(kind, noun, sense)
        if kind == "stereotype":
            drawn = trade_scene(rng, noun, sides.topic, frame)
        else:
            drawn = scene(rng, kind, noun, sides.topic, sides.rival, frame)
    if split != "composition" and split_of(noun, drawn.template) != split:
        return None
    drawn = drawn._replace(form=ASKINGS[asking][0])
    if asking == "yesno":
        drawn = drawn._replace(asked=sides[asks])
    return as_case(drawn, sides, sense)


def _senses(kind: str, noun: str, sense: str) -> Sides:
    word = _WORD_OF[noun]
    topic, rival = word.minority, word.dominant
    if sense == "dominant":
        topic, rival = rival, topic
    table = GENDERS if kind == "stereotype" else TOPICS
    return Sides(table[topic].category, table[rival].category, topic, rival)


def _cities(rng: np.random.Generator, land: str, sense: str) -> Sides:
    """A country's capital and another city as long, known for something else."""
    capital = CAPITALS[land]
    other = pick(
        rng,
        [
            city
            for city in CITIES
            if len(pieces(city)) == len(pieces(capital)) and CITIES[city] != CITIES[capital]
        ],
    )
    city, rival = (other, capital) if sense == "minority" else (capital, other)
    return Sides(city, rival, city, rival)


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{name} is {value!r}", expected="one of " + ", ".join(known))


_WORD_OF: dict[str, Word] = {word.noun: word for word in (*WORDS, *TRADES)}
