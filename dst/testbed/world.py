"""A small English in which every association and every cue is known.

A story tells where somebody is, what they see there, and asks what it is:

    anna is at the opera . anna sees a bass . what is the bass ? the bass is a kind of instrument .

A bass is a fish in most stories (the association) and an instrument in stories about music (the
context). What stories can say is in `lexicon`; here `document` writes stories to train on, and
`cases` writes the same stories up to the answer, with the variants that the method compares with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dst.core.case import Case
from dst.core.errors import InputError
from dst.testbed.lexicon import (
    CUE_PHRASE,
    FORMS,
    FRAMES,
    KINDS,
    NEUTRAL_ACTIVITIES,
    NEUTRAL_CATEGORY,
    NEUTRAL_NOUNS,
    PEOPLE,
    QUALITIES,
    REMARKS,
    SENSES,
    SPECIALS,
    SPLITS,
    TOPICS,
    VERBS,
    VOCABULARY,
    WORDS,
    Topic,
    Word,
)

__all__ = [
    "KINDS",
    "NEUTRAL_CATEGORY",
    "NEUTRAL_NOUNS",
    "SENSES",
    "SPECIALS",
    "SPLITS",
    "TOPICS",
    "VOCABULARY",
    "WORDS",
    "Scene",
    "Topic",
    "Word",
    "as_case",
    "cases",
    "concept_words",
    "cues",
    "document",
    "kind_of",
    "scene",
    "split_of",
    "without_distractors",
]

# --------------------------------------------------------------------------- one story


@dataclass(frozen=True)
class Scene:
    """What one story says, sentence by sentence; `tell` puts it into words."""

    kind: str
    person: str
    frame: str  # "place" or "activity"
    cue: str  # "lake"
    noun: str  # "bass"
    answer: str  # "fish"
    verb: str = "sees"
    form: str = "what"
    before: tuple[str, ...] = ()  # distractors in front of the cue's sentence,
    between: tuple[str, ...] = ()  # after it,
    after: tuple[str, ...] = ()  # and after the sentence with the noun

    @property
    def cue_phrase(self) -> str:
        """The words that carry the context, as they stand in the story: "at the lake"."""
        return CUE_PHRASE[self.frame].format(cue=self.cue)

    @property
    def question(self) -> str:
        """The question of the story, empty where it asks nothing."""
        return FORMS[self.form][0].format(noun=self.noun)

    @property
    def distractors(self) -> tuple[str, ...]:
        """Sentences that are neither cue nor subject nor question."""
        return (*self.before, *self.between, *self.after)

    @property
    def template(self) -> str:
        """What is left of the story without its words: the unit, with the noun, of a split."""
        counts = f"{len(self.before)}{len(self.between)}{len(self.after)}"
        return f"{self.kind}/{self.frame}/{self.verb}/{counts}"

    def tell(self) -> str:
        """The story up to the answer."""
        cue = FRAMES[self.frame].format(person=self.person, cue=self.cue)
        sight = f"{self.person} {self.verb} a {self.noun} ."
        lead = FORMS[self.form][1].format(noun=self.noun)
        told = (
            *self.before,
            f"now {cue}" if self.kind == "shift" else cue,
            *self.between,
            sight,
            *self.after,
            self.question,
            lead,
        )
        return " ".join(sentence for sentence in told if sentence)


def scene(
    rng: np.random.Generator,
    kind: str,
    noun: str,
    topic: str | None,
    rival: str | None,
    answer: str,
) -> Scene:
    """Draw a story of one kind whose cue is of `topic` and whose distractors are of `rival`.

    None instead of a topic draws from the neutral tables.
    """
    frame = _pick(rng, tuple(FRAMES))
    person, other = (str(name) for name in rng.choice(PEOPLE, size=2, replace=False))
    cue = _pick(rng, cues(frame, topic))
    rival_cue = _pick(rng, tuple(word for word in cues(frame, rival) if word != cue))
    drawn = Scene(kind, person, frame, cue, noun, answer, verb=_pick(rng, VERBS))
    if kind == "far":
        number = int(rng.integers(1, 7))
        remarks = tuple(str(text) for text in rng.choice(REMARKS, size=number, replace=False))
        cut = int(rng.integers(0, number + 1))
        return replace(drawn, between=remarks[:cut], after=remarks[cut:])
    if kind == "prime":
        things = TOPICS[rival or _pick(rng, tuple(TOPICS))].things
        number = int(rng.integers(1, 4))
        primes = tuple(
            f"the {thing} is {_pick(rng, QUALITIES)} ."
            for thing in rng.choice(things, size=number, replace=False)
        )
        cut = int(rng.integers(0, number + 1))
        return replace(drawn, between=primes[:cut], after=primes[cut:])
    if kind == "binding":
        elsewhere = (FRAMES[frame].format(person=other, cue=rival_cue),)
        first = bool(rng.integers(2))
        return replace(drawn, before=elsewhere) if first else replace(drawn, between=elsewhere)
    if kind == "shift":
        return replace(drawn, before=(FRAMES[frame].format(person=person, cue=rival_cue),))
    return drawn


def cues(frame: str, topic: str | None) -> tuple[str, ...]:
    """The words that can stand in a frame's gap for a topic, or for none."""
    if topic is None:
        return NEUTRAL_NOUNS if frame == "place" else NEUTRAL_ACTIVITIES
    return TOPICS[topic].places if frame == "place" else TOPICS[topic].activities


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


# --------------------------------------------------------------------------- the corpus

# Shares of the corpus. A neutral cue leaves the sense to the prior. A building is a building
# everywhere. Distractors are mostly about the word's other sense, which must not decide.
NEUTRAL_CUE_SHARE = 0.12
BUILDING_SHARE = 0.10
OTHER_SENSE_SHARE = 0.70
FORM_SHARES = {"what": 0.55, "it": 0.15, "which": 0.15, "so": 0.15}


def document(rng: np.random.Generator, kind: str) -> str:
    """Write one whole story, answer included, as the model is trained on."""
    topics = tuple(TOPICS)
    neutral = rng.random() < NEUTRAL_CUE_SHARE
    rival: str | None = _pick(rng, topics)
    if rng.random() < BUILDING_SHARE:
        noun, answer = _pick(rng, NEUTRAL_NOUNS), NEUTRAL_CATEGORY
        topic = _pick(rng, topics)
    else:
        word = WORDS[int(rng.integers(len(WORDS)))]
        senses = (word.dominant, word.minority)
        topic, other = senses if rng.random() < word.prior else senses[::-1]
        noun, answer = word.noun, TOPICS[topic].category
        if rng.random() < OTHER_SENSE_SHARE:
            rival = other
        elif rng.random() < 0.5:
            rival = None
    drawn = scene(rng, kind, noun, None if neutral else topic, rival, answer)
    form = str(rng.choice(tuple(FORM_SHARES), p=tuple(FORM_SHARES.values())))
    return f"{replace(drawn, form=form).tell()} {answer} ."


# --------------------------------------------------------------------------- the cases

_LOADED = frozenset(
    word for topic in TOPICS.values() for word in (*topic.places, *topic.activities, *topic.things)
)
"""Words that belong to a topic."""

DRAWS = 8  # of the neutral and of the substitute variant
CONCEPT_WORDS = 4  # a side
MOST_MISSES = 300  # draws in a row without a new case of the split, after which none is expected


def cases(
    split: str = "test",
    n: int = 100,
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
    sense: str = "minority",
) -> list[Case]:
    """Draw `n` different cases, kinds and words in turn.

    A case is a story up to its answer. `contextual` is the category of the cue's topic and
    `associative` that of the word's other sense: with `sense="minority"` the context contradicts
    the association, with `"dominant"` both agree and the rival is the rare sense. The splits share
    all words and no pair of word and template (kind, frame, verb, number and place of distractors).

    Args:
        split: "tune" (for choosing scores and thresholds) or "test".
        n: How many cases.
        seed: Same arguments, same cases.
        kinds: Some of `KINDS`.
        sense: "minority", "dominant", or "both" in turn.

    Raises:
        InputError: An argument is not one of the values above.
    """
    _one_of("split", split, SPLITS)
    _one_of("sense", sense, (*SENSES, "both"))
    for kind in kinds:
        _one_of("kinds", kind, KINDS)
    if not kinds or n < 0:
        raise InputError(f"There is nothing to draw: n is {n}, kinds are {list(kinds)}")
    senses = SENSES if sense == "both" else (sense,)
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    order = [WORDS[i] for i in rng.permutation(len(WORDS))]
    drawn: dict[str, Case] = {}
    misses = 0
    while len(drawn) < n:
        turn, which_kind = divmod(len(drawn), len(kinds))
        turn, which_sense = divmod(turn, len(senses))
        word = order[turn % len(order)]
        case = _draw(rng, split, word, kinds[which_kind], senses[which_sense])
        if case is not None and case.case_id not in drawn:
            drawn[case.case_id] = case
            misses = 0
            continue
        misses += 1
        if misses == MOST_MISSES:
            raise InputError(
                f"{n} different cases were asked for and {len(drawn)} found",
                do="Ask for fewer, or for more kinds",
            )
    return list(drawn.values())


def split_of(noun: str, template: str) -> str:
    """Which split holds the stories of a word in a template: a coin thrown by their hash."""
    digest = hashlib.sha256(f"{noun} in {template}".encode()).digest()
    return SPLITS[digest[0] % len(SPLITS)]


def kind_of(case: Case) -> str:
    """The kind of a case of this world, which opens its name."""
    return case.case_id.split("-")[0]


def _draw(rng: np.random.Generator, split: str, word: Word, kind: str, sense: str) -> Case | None:
    """A case of a word, or None where the story belongs to another split."""
    topic, rival = word.minority, word.dominant
    if sense == "dominant":
        topic, rival = rival, topic
    drawn = scene(rng, kind, word.noun, topic, rival, TOPICS[topic].category)
    if split_of(word.noun, drawn.template) != split:
        return None
    return as_case(drawn, topic, rival, sense)


def _disarmed(drawn: Scene, words: Sequence[str]) -> Scene:
    """A scene whose distractors name neutral words instead of a topic's, as many of them."""
    spare = iter(words)

    def mild(sentences: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            " ".join(next(spare) if word in _LOADED else word for word in sentence.split())
            for sentence in sentences
        )

    return replace(
        drawn, before=mild(drawn.before), between=mild(drawn.between), after=mild(drawn.after)
    )


def as_case(drawn: Scene, topic: str, rival: str, sense: str) -> Case:
    """A scene as a case: roles, answers, and every variant with its positions aligned.

    What is drawn depends on the story alone, so that a story is always the same case.
    """
    prompt = drawn.tell()
    digest = hashlib.sha256(f"{prompt} {drawn.answer}".encode()).hexdigest()
    rng = np.random.default_rng(int(digest[:16], 16))
    said = set(prompt.split())
    buildings = _others(rng, NEUTRAL_NOUNS, said)
    neutral = buildings[DRAWS:]  # no draw of the cue is a draw of the subject
    if drawn.frame == "activity":
        neutral = _others(rng, NEUTRAL_ACTIVITIES, said)[:DRAWS]
    other_verb = _others(rng, VERBS, said)[0]

    def told(**change: Any) -> str:
        return replace(drawn, **change).tell()

    # Twins as long as the story, their distractors about nothing: what restores the cue.
    words = buildings if drawn.kind == "prime" else neutral
    harmless = [_disarmed(drawn, words[i:] + words[:i]) for i in range(1, DRAWS)]
    twins = [twin.tell() for twin in harmless if twin != drawn]

    return Case(
        prompt=prompt,
        contextual=(drawn.answer,),
        associative=(TOPICS[rival].category,),
        subject=drawn.noun,
        cue=(drawn.cue_phrase,),
        question=drawn.question or None,
        distractor=drawn.distractors,
        neutral=tuple(told(cue=word) for word in neutral),
        substitute=tuple(told(noun=word) for word in buildings[:DRAWS]),
        swap=tuple(told(cue=word) for word in _others(rng, cues(drawn.frame, rival), said)),
        clean=(told(before=(), between=(), after=()), *twins) if drawn.distractors else (),
        paraphrases=(
            told(verb=other_verb),
            told(verb=other_verb, form="it"),
            *(told(form=form) for form in FORMS if form != drawn.form),
        ),
        context_words=concept_words(topic, said),
        competing_words=concept_words(rival, said),
        group=drawn.noun,
        case_id=f"{drawn.kind}-{drawn.noun}-{sense}-{digest[:10]}",
    )


def without_distractors(case: Case) -> Case:
    """The same story without its distractors, with every variant it had: the corrected twin."""

    def told(text: str) -> str:
        for sentence in case.distractor:
            text = text.replace(f"{sentence} ", "", 1)
        return text

    names = ("prompt", "neutral", "substitute", "swap", "paraphrases")
    texts = {name: getattr(case, name) for name in names}
    changed = {
        name: told(text) if isinstance(text, str) else tuple(told(draw) for draw in text)
        for name, text in texts.items()
    }
    return case.replace(
        **changed, distractor=(), clean=(), case_id=f"{case.case_id}-without-distractors"
    )


def concept_words(topic: str, said: Container[str]) -> tuple[str, ...]:
    """The first `CONCEPT_WORDS` of a topic's things, places and activities that are not said."""
    of = TOPICS[topic]
    words = (*of.things, *of.places, *of.activities)
    return tuple(word for word in words if word not in said)[:CONCEPT_WORDS]


def _others(rng: np.random.Generator, words: Sequence[str], said: Container[str]) -> list[str]:
    """The words that are not said yet, in random order."""
    return [str(word) for word in rng.permutation(words) if word not in said]


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{name} is {value!r}", expected="one of " + ", ".join(known))
