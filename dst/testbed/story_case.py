"""A scene as a `Case`: roles, answers, and every variant with its positions aligned."""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections.abc import Container
from typing import Any, NamedTuple

from dst.core.case import Case
from dst.testbed.lexicon import (
    CITIES,
    GENDERS,
    NEUTRAL_NOUNS,
    TOPICS,
    Topic,
    pieces,
)
from dst.testbed.scenes import ASKING_OF, NEUTRAL_CUES, Scene, cues, sample

DRAWS = 8  # of the neutral and of the substitute variant
CONCEPT_WORDS = 4  # a side
PARAPHRASES = 5

_LOADED = frozenset(
    word
    for topic in TOPICS.values()
    for word in (*topic.places, *topic.events, *topic.activities, *topic.things)
)
"""Words that belong to a topic."""

_CUE, _NOUN = "\x01", "\x02"
"""What stands for the cue and for the subject while a story is told for all variants at once."""


class Sides(NamedTuple):
    """What the context and the association of a story say."""

    contextual: str  # the answers,
    associative: str
    topic: str  # and the topic, city or gender that each belongs to
    rival: str


def as_case(drawn: Scene, sides: Sides, sense: str) -> Case:
    """A scene as a case.

    What is drawn depends on the story alone, so that a story is always the same case. A word is
    replaced by words of as many pieces, so that positions correspond.
    """
    prompt = drawn.tell()
    digest = hashlib.sha256(f"{prompt} {sides}".encode()).hexdigest()
    rng = random.Random(int(digest[:16], 16))
    said = set(re.findall(r"\w+", prompt))
    marked = drawn._replace(cue=_CUE, noun=_NOUN).tell()
    recued = marked.replace(_NOUN, drawn.noun)
    unrelated = _others(rng, drawn.family.unrelated, drawn.noun, said)
    neutral: tuple[str, ...] = ()
    swap: tuple[str, ...] = ()
    if drawn.cue:
        neutral = _others(rng, NEUTRAL_CUES[drawn.frame], drawn.cue, {*said, *unrelated})
        if drawn.kind == "memory":
            swap = (drawn._replace(city=sides.associative).tell(),)
        else:
            rivals = _others(rng, cues(drawn.frame, sides.rival), drawn.cue, said)
            swap = tuple(recued.replace(_CUE, word) for word in rivals)
    contextual, associative, twin_question = sides.contextual, sides.associative, None
    if ASKING_OF[drawn.form] == "yesno":
        true, false = ("yes", "no") if drawn.asked == sides.contextual else ("no", "yes")
        other = sides.associative if drawn.asked == sides.contextual else sides.contextual
        contextual, associative = true, false
        twin_question = drawn._replace(asked=other).tell()
    return Case(
        prompt=prompt,
        contextual=(contextual,),
        associative=(associative,),
        subject=drawn.noun,
        cue=drawn.cue_spans,
        question=drawn.question or None,
        distractor=drawn.distractors,
        neutral=tuple(recued.replace(_CUE, word) for word in neutral),
        substitute=tuple(
            marked.replace(_CUE, drawn.cue).replace(_NOUN, word) for word in unrelated
        ),
        swap=swap,
        clean=_clean(rng, drawn, said) if drawn.distractors else (),
        paraphrases=_paraphrases(drawn),
        twin_question=twin_question,
        context_words=concept_words(sides.topic, said),
        competing_words=concept_words(sides.rival, said),
        group=drawn.noun,
        case_id=f"{drawn.kind}-{drawn.noun}-{sense}-{ASKING_OF[drawn.form]}-{digest[:10]}",
    )


def concept_words(of: str, said: Container[str]) -> tuple[str, ...]:
    """The first `CONCEPT_WORDS` of what belongs to a topic, city or gender and is not said.

    Things come first, then places, events, activities, relatives; of a city it is what belongs to
    the topic that the city is known for.
    """
    return tuple(word for word in _belongings(of) if word not in said)[:CONCEPT_WORDS]


@functools.cache
def _belongings(of: str) -> tuple[str, ...]:
    topic: Topic = GENDERS[of] if of in GENDERS else TOPICS[CITIES.get(of, of)]
    return (*topic.things, *topic.places, *topic.events, *topic.activities, *topic.relatives)


def _clean(rng: random.Random, drawn: Scene, said: Container[str]) -> tuple[str, ...]:
    """The story without distractors; then twins as long as the story, distractors about nothing."""
    without = drawn._replace(before=(), between=(), after=()).tell()
    told = drawn.tell()
    loaded = [
        word
        for sentence in drawn.distractors
        for word in re.findall(r"\w+", sentence)
        if word in _LOADED
    ]
    if not loaded:
        return (without,)
    pool = NEUTRAL_NOUNS if drawn.kind == "prime" else NEUTRAL_CUES[drawn.frame]
    mild = {word: _others(rng, pool, word, said) for word in loaded}
    twins = []
    for i in range(DRAWS - 1):
        twin = told
        for sentence in drawn.distractors:
            harmless = sentence
            for place, word in enumerate(loaded):
                harmless = harmless.replace(f" {word}", f" {mild[word][(i + place) % DRAWS]}")
            twin = twin.replace(sentence, harmless, 1)
        twins.append(twin)
    return (without, *twins)


def _paraphrases(drawn: Scene) -> tuple[str, ...]:
    """Other wordings that keep who, what and where, and what kind of answer is asked for."""
    yesno = ASKING_OF[drawn.form] == "yesno"
    forms = [form for form in drawn.family.forms if (ASKING_OF[form] == "yesno") == yesno]
    others = [form for form in forms if form != drawn.form]
    changes: list[dict[str, Any]] = [{"form": form} for form in others]
    if drawn.family.verbs:
        verbs = [verb for verb in drawn.family.verbs if verb != drawn.verb]
        changes += [{"verb": verb} for verb in verbs]
        changes += [{"verb": verbs[0], "form": form} for form in others]
    else:
        frames = [frame for frame in drawn.family.frames if frame != drawn.frame]
        changes += [{"frame": frame} for frame in frames]
        changes += [{"frame": frame, "form": form} for frame in frames for form in others]
    return tuple(drawn._replace(**change).tell() for change in changes[:PARAPHRASES])


def _others(
    rng: random.Random,
    words: tuple[str, ...],
    like: str,
    said: Container[str],
    n: int = DRAWS,
) -> tuple[str, ...]:
    """Up to `n` words, in random order, that take as many tokens as one word and are not said."""
    alike = [word for word in _of_size(words, len(pieces(like))) if word not in said]
    return sample(rng, alike, min(n, len(alike)))


@functools.cache
def _of_size(words: tuple[str, ...], size: int) -> tuple[str, ...]:
    return tuple(word for word in words if len(pieces(word)) == size)
