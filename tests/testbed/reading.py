"""Reading stories of the world back, by their words alone: what the tests compare with."""

from __future__ import annotations

import re
from typing import NamedTuple

from dst.core.case import Case
from dst.testbed import lexicon, world

TOPIC_OF_CUE = {
    word: name
    for name, topic in world.TOPICS.items()
    for word in (*topic.places, *topic.events, *topic.activities)
}
LOADED = {*TOPIC_OF_CUE, *(thing for topic in world.TOPICS.values() for thing in topic.things)}
GENDER_OF = {word: name for name, gender in lexicon.GENDERS.items() for word in gender.relatives}
CATEGORY = {name: topic.category for name, topic in world.TOPICS.items()}
PRONOUN = {name: gender.category for name, gender in lexicon.GENDERS.items()}
SENSES = {word.noun: word for word in (*world.WORDS, *lexicon.TRADES)}
PEOPLE = "|".join(lexicon.PEOPLE)


class Story(NamedTuple):
    """What a whole story says."""

    family: str  # "word", "land" or "trade"
    noun: str
    cue: str  # the word that carries the context; "" if there is none
    city: str
    frame: str
    asking: str
    asked: str  # by a yes/no question
    answer: str


def words(text: str) -> list[str]:
    """Words and marks, each as one."""
    return re.findall(r"\w+|[.?,]", text)


def read(story: str) -> Story | None:
    """A story of the corpus, or None for one that only says what a city is known for."""
    if re.fullmatch(r"\w+ is known for the \w+\.", story):
        return None
    answer = re.search(rf"(\w+)( (?:{'|'.join(lexicon.ITEMS)}))?\.$", story)
    assert answer, story
    yes_no = re.search(r"[Ii]s (?:the \w+ a kind of (\w+)|(\w+) the capital of \w+"
                       r"|it (\w+) \w+)\?", story)  # fmt: skip
    asked = "".join(filter(None, yes_no.groups())) if yes_no else ""
    asking = "yesno" if yes_no else "what" if "?" in story else "completion"
    last = {"asking": asking, "asked": asked, "answer": answer[1]}
    if sight := re.search(rf"({PEOPLE}) (?:{'|'.join(lexicon.VERBS)}) a (\w+)\.", story):
        before = story[: sight.start()]
        told = re.findall(rf"{sight[1]} is (at the|here for the|busy) (\w+)\.", before)
        frame, cue = told[-1] if told else ("", "")
        frame = {"at the": "place", "here for the": "event", "busy": "activity"}.get(frame, "none")
        return Story("word", sight[2], cue, "", frame, **last)
    if sight := re.search(rf"The (\w+) (?:{'|'.join(lexicon.TAKES)}) a \w+\.", story):
        cue = re.search(rf"The {sight[1]} (is|became) a (\w+)\.", story)
        frame = {"is": "relative", "became": "became"}[cue[1]] if cue else "none"
        return Story("trade", sight[1], cue[2] if cue else "", "", frame, **last)
    land = re.search(r"capital of (\w+)", story)
    assert land, story
    moved = re.match(r"The (\w+) of \w+ has moved to (\w+)\.", story)
    now = re.match(r"Now the (\w+) of \w+ is in (\w+)\.", story)
    cue = moved or now
    frame = "moved" if moved else "now" if now else "none"
    return Story("land", land[1], cue[1] if cue else "", cue[2] if cue else "",
                 frame, **last)  # fmt: skip


def changed(one: str, other: str) -> list[int]:
    """Positions of words at which two texts of one length differ."""
    a, b = words(one), words(other)
    assert len(a) == len(b), (one, other)
    return [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]


def places_of(text: str, span: str) -> set[int]:
    """Positions of every occurrence of a span's words, found word by word."""
    said, wanted = words(text), words(span)
    starts = [i for i in range(len(said)) if said[i : i + len(wanted)] == wanted]
    return {i + k for i in starts for k in range(len(wanted))}


def sense_of(case: Case) -> str:
    """What a case's name says of its sense."""
    return case.case_id.split("-")[2]


def sides(case: Case) -> tuple[str, str]:
    """What the context and the association of a case would answer, looked up in the tables."""
    assert case.group
    if world.kind_of(case) == "memory":
        capital = lexicon.CAPITALS[case.group]
        (cue,) = case.cue
        city = words(cue)[-1]
        if sense_of(case) == "minority":
            return city, capital
        assert city == capital
        other = {*case.contextual, *case.associative} - {city, "yes", "no"}
        return city, other.pop() if other else ""
    word = SENSES[case.group]
    of = PRONOUN if world.kind_of(case) == "stereotype" else CATEGORY
    pair = of[word.minority], of[word.dominant]
    return pair if sense_of(case) == "minority" else pair[::-1]
