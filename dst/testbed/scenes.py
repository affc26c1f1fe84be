"""One story: what it says, sentence by sentence, and how a story of a kind is drawn.

There are three families. Stories of `WORDS` are about a noun with two senses, stories of
`CAPITALS` about a country whose capital is known, stories of `TRADES` about somebody's trade.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from dst.testbed.lexicon import (
    ASKINGS,
    BLANK_LANDS,
    CAPITAL_FORMS,
    CUE_SPANS,
    FRAMES,
    GENDERS,
    ITEMS,
    NEUTRAL_ACTIVITIES,
    NEUTRAL_EVENTS,
    NEUTRAL_NOUNS,
    NEUTRAL_RELATIVES,
    NEUTRAL_TRADES,
    NONE,
    PEOPLE,
    QUALITIES,
    REMARKS,
    TAKES,
    TOPICS,
    TRADE_FORMS,
    VERBS,
    WORD_FORMS,
    pieces,
)


@dataclass(frozen=True)
class Family:
    """What the stories about one sort of subject have in common."""

    frames: tuple[str, ...]
    forms: Mapping[str, tuple[str, str]]
    sight: str  # the sentence that brings the subject in
    verbs: tuple[str, ...]
    unrelated: tuple[str, ...]  # subjects without an association


WORD = Family(
    ("place", "event", "activity"), WORD_FORMS, "{person} {verb} a {noun}.", VERBS, NEUTRAL_NOUNS
)
LAND = Family(("moved", "now"), CAPITAL_FORMS, "", (), BLANK_LANDS)
TRADE = Family(
    ("relative", "became"), TRADE_FORMS, "The {noun} {verb} a {item}.", TAKES, NEUTRAL_TRADES
)
ASKING_OF = {form: asking for asking, forms in ASKINGS.items() for form in forms}

NEUTRAL_CUES = {
    "place": NEUTRAL_NOUNS,
    "event": NEUTRAL_EVENTS,
    "activity": NEUTRAL_ACTIVITIES,
    "moved": NEUTRAL_NOUNS,
    "now": NEUTRAL_NOUNS,
    "relative": NEUTRAL_RELATIVES,
    "became": NEUTRAL_RELATIVES,
}


class Scene(NamedTuple):
    """What one story says; `tell` puts it into words."""

    kind: str
    frame: str  # how the context is told: a key of FRAMES, or NONE
    noun: str  # the subject: "bass", "Maldonia", "nurse"
    cue: str = ""  # "lake"
    person: str = ""
    verb: str = ""
    city: str = ""
    item: str = ""
    form: str = "what"
    asked: str = ""  # what a yes/no question asks about
    before: tuple[str, ...] = ()  # distractors in front of the cue's sentence,
    between: tuple[str, ...] = ()  # after it,
    after: tuple[str, ...] = ()  # and after the sentence that brings the subject in

    @property
    def family(self) -> Family:
        """The family of the story's kind."""
        return family_of(self.kind)

    @property
    def cue_spans(self) -> tuple[str, ...]:
        """The words that carry the context, as they stand in the story: "at the lake"."""
        return () if self.frame == NONE else (self._fill(CUE_SPANS[self.frame]),)

    @property
    def question(self) -> str:
        """The question of the story, empty where it asks nothing."""
        return self._fill(self.family.forms[self.form][0])

    @property
    def distractors(self) -> tuple[str, ...]:
        """Sentences that are neither cue nor subject nor question."""
        return (*self.before, *self.between, *self.after)

    @property
    def template(self) -> str:
        """What is left of the story without its words: with the noun, the unit of a split."""
        counts = f"{len(self.before)}{len(self.between)}{len(self.after)}"
        return f"{self.kind}/{self.frame}/{self.verb}/{counts}"

    @property
    def pattern(self) -> str:
        """Kind, frame and asking: with the noun, what training withholds."""
        return f"{self.kind}/{self.frame}/{ASKING_OF[self.form]}"

    def tell(self) -> str:
        """The story up to the answer."""
        family = self.family
        question, lead = family.forms[self.form]
        cue = FRAMES.get(self.frame, "")
        told = (
            *self.before,
            f"Now {cue}" if self.kind == "shift" else cue,
            *self.between,
            family.sight,
            *self.after,
            question,
            lead,
        )
        return self._fill(" ".join([sentence for sentence in told if sentence]))

    def _fill(self, text: str) -> str:
        return text.format(
            person=self.person,
            cue=self.cue,
            noun=self.noun,
            verb=self.verb,
            city=self.city,
            item=self.item,
            asked=self.asked,
        )


def family_of(kind: str) -> Family:
    """The family of the stories of a kind."""
    if kind == "memory":
        return LAND
    return TRADE if kind == "stereotype" else WORD


def frames_of(kind: str) -> tuple[str, ...]:
    """The frames that a kind tells its cue in."""
    return (NONE,) if kind == "none" else family_of(kind).frames


def cues(frame: str, topic: str | None) -> tuple[str, ...]:
    """The words that can stand in a frame's gap for a topic (or gender), or for none."""
    if topic is None:
        return NEUTRAL_CUES[frame]
    if frame == "place":
        return TOPICS[topic].places
    if frame == "event":
        return TOPICS[topic].events
    return TOPICS[topic].activities if frame == "activity" else GENDERS[topic].relatives


# --------------------------------------------------------------------------- drawing


class Dice(Protocol):
    """What numpy's and Python's generators have in common."""

    def random(self) -> float:
        """A number from 0 to 1."""


T = TypeVar("T")


def pick(rng: Dice, options: Sequence[T]) -> T:
    """One of the options."""
    return options[int(rng.random() * len(options))]


def sample(rng: Dice, options: Sequence[T], n: int) -> tuple[T, ...]:
    """`n` different options in random order."""
    left = list(options)
    for i in range(n):
        j = i + int(rng.random() * (len(left) - i))
        left[i], left[j] = left[j], left[i]
    return tuple(left[:n])


def scene(
    rng: Dice,
    kind: str,
    noun: str,
    topic: str | None,
    rival: str | None,
    frame: str | None = None,
) -> Scene:
    """Draw a story of a noun whose cue is of `topic` and whose distractors are of `rival`.

    None instead of a topic draws from the neutral tables.
    """
    frame = frame or pick(rng, frames_of(kind))
    person, other = sample(rng, PEOPLE, 2)
    drawn = Scene(kind, frame, noun, person=person, verb=pick(rng, VERBS))
    if kind == "none":
        return drawn._replace(after=_remarks(rng, 2))
    cue = pick(rng, cues(frame, topic))
    drawn = drawn._replace(cue=cue)
    if kind == "far":
        remarks = _remarks(rng, 6)
        cut = int(rng.random() * (len(remarks) + 1))
        return drawn._replace(between=remarks[:cut], after=remarks[cut:])
    if kind == "prime":
        things = TOPICS[rival or pick(rng, tuple(TOPICS))].things
        number = 1 + int(rng.random() * 3)
        primes = tuple(
            f"The {thing} is {pick(rng, QUALITIES)}." for thing in sample(rng, things, number)
        )
        cut = int(rng.random() * (number + 1))
        return drawn._replace(between=primes[:cut], after=primes[cut:])
    if kind in ("binding", "shift"):
        elsewhere = FRAMES[frame].format(
            person=other if kind == "binding" else person, cue=_rival_cue(rng, frame, rival, cue)
        )
        first = kind == "shift" or rng.random() < 0.5
        return (
            drawn._replace(before=(elsewhere,)) if first else drawn._replace(between=(elsewhere,))
        )
    return drawn


def land_scene(rng: Dice, noun: str, cue: str, city: str, frame: str | None = None) -> Scene:
    """Draw a story of a country: its capital, or something else of it, has moved to a city."""
    frame = frame or pick(rng, LAND.frames)
    return Scene("memory", frame, noun, cue=cue, city=city, between=_remarks(rng, 3))


def trade_scene(rng: Dice, noun: str, gender: str | None, frame: str | None = None) -> Scene:
    """Draw a story of somebody's trade, whose cue tells a man or a woman, or neither."""
    frame = frame or pick(rng, TRADE.frames)
    return Scene(
        "stereotype",
        frame,
        noun,
        cue="" if frame == NONE else pick(rng, cues(frame, gender)),
        verb=pick(rng, TAKES),
        item=pick(rng, ITEMS),
        between=_remarks(rng, 3),
    )


def _remarks(rng: Dice, most: int) -> tuple[str, ...]:
    return sample(rng, REMARKS, int(rng.random() * (most + 1)))


def _rival_cue(rng: Dice, frame: str, rival: str | None, cue: str) -> str:
    """A cue of the rival that leaves another, as long as the story's cue, for the swap."""
    of = [word for word in cues(frame, rival) if word != cue]
    size = len(pieces(cue))
    alike = [word for word in of if len(pieces(word)) == size]
    return pick(rng, of if len(alike) > 1 else [word for word in of if word not in alike])
