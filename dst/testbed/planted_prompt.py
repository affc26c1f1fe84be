"""What a planted model reads: one sentence, its variants, the role of each token.

    in the concert hall where we saw a bass lying near the anchor which kind is

The cue is "concert hall" (the sense is in the first word), the subject "bass"; "where", "we" and
"saw" are relays 1 to 3, "lying" is the token after the subject, the last word of "near the anchor"
may be spurious, "kind" is the question's station, and the answer is read at "is".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dst.core.case import Case

if TYPE_CHECKING:
    from dst.testbed.planted_plan import Plant

STATIONS = (
    "cue",
    "relay_1",
    "relay_2",
    "relay_3",
    "subject",
    "after",
    "spurious",
    "question",
    "answer",
)
"""Tokens that can hold something, in the order of the prompt. ``after`` is the token after the
last mention of the subject, ``spurious`` the noun of the distractor span."""

CONTEXT_WORDS = ("music", "sound", "stage")
COMPETING_WORDS = ("water", "scales", "net")
CONCEPTS = (*CONTEXT_WORDS, *COMPETING_WORDS)
"""Concept words. The first of each list lights up at the answer when its side arrives there."""

CONTEXTUAL, ASSOCIATIVE = "instrument", "fish"
CUE, SWAPPED_CUE = "concert", "river"
NEUTRAL_CUES = ("house", "garden", "table", "office", "market")
SUBJECT = "bass"
SUBSTITUTES = ("chair", "lamp", "stone", "brick", "shirt")
SPURIOUS = "anchor"
HARMLESS = "button"
INERT = "plain"
"""A word that no planted head reads and that writes nothing: the fill of `Truth.necessity`."""

STATION_WORDS: Mapping[str, tuple[str, ...]] = {
    "cue": (CUE, SWAPPED_CUE, *NEUTRAL_CUES),
    "relay_1": ("where",),
    "relay_2": ("we",),
    "relay_3": ("saw",),
    "subject": (SUBJECT, *SUBSTITUTES),
    "after": ("lying",),
    "spurious": (SPURIOUS, HARMLESS),
    "question": ("kind",),
    "answer": ("is",),
}
"""The words that can stand at each station; heads find a station by its words."""

OFF_ANSWER_WORDS = ("noise", "echo")
"""Words whose logits the distractor heads move."""

PAD, UNKNOWN, BOS = "<pad>", "<unk>", "<bos>"
_FILLERS = ("in", "the", "hall", "a", "or", "near", "which")
_OTHERS = (
    *("red", "blue", "old", "new", "small", "large", "warm", "cold", "soft", "hard"),
    *("light", "dark", "quiet", "loud", "bright"),
)
VOCABULARY = (
    *(PAD, UNKNOWN, BOS),
    *(word for station in STATIONS for word in STATION_WORDS[station]),
    *_FILLERS,
    *(CONTEXTUAL, ASSOCIATIVE, *CONCEPTS, *OFF_ANSWER_WORDS, INERT),
    *_OTHERS,
)
"""Every word; its place is its token id. Its size is no other size of the model."""


@dataclass(frozen=True)
class Layout:
    """Where everything is in the prompt: one entry per token, <bos> first.

    Attributes:
        tokens: The words of the prompt.
        roles: The role of each token (METHOD 0).
        stations: The station that each token is, or "".
    """

    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    stations: tuple[str, ...]

    @property
    def role_names(self) -> tuple[str, ...]:
        """The roles that occur, ordered as in METHOD 0."""
        subjects = sorted({role for role in self.roles if role.startswith("subject")})
        order = ("answer", "bos", *subjects, "cue", "question", "distractor", "relay", "rest")
        return tuple(role for role in order if role in self.roles)

    def roles_of(self, station: str) -> tuple[str, ...]:
        """The role of each token that is this station: two for a subject named twice."""
        pairs = zip(self.roles, self.stations, strict=True)
        return tuple(role for role, here in pairs if here == station)


def layout(plant: Plant) -> Layout:
    """The tokens of a plan's prompt with their roles and stations."""
    extra = _extra(plant)
    subjects = [(SUBJECT, "subject_1", "subject")]
    if plant.mentions == 2:
        subjects += [("or", "relay", ""), (SUBJECT, "subject_2", "subject")]
    rows = [
        *((BOS, "bos", ""), ("in", "rest", ""), ("the", "rest", "")),
        *((CUE, "cue", "cue"), ("hall", "cue", "")),
        *(("where", "relay", "relay_1"), ("we", "relay", "relay_2")),
        *(("saw", "relay", "relay_3"), ("a", "relay", "")),
        *subjects,
        ("lying", "rest", "after"),
        *(("near", "distractor", ""), ("the", "distractor", "")),
        (extra, "distractor", "spurious"),
        *(("which", "question", ""), ("kind", "question", "question")),
        ("is", "answer", "answer"),
    ]
    tokens, roles, stations = zip(*rows, strict=True)
    return Layout(tokens, roles, stations)


def case_of(plant: Plant, label: str) -> Case:
    """The case of a planted model, every variant given.

    ``clean`` (the twin of equal length whose distractor is harmless) is there only where a
    spurious word is planted: without one there is nothing to clean.
    """
    words = layout(plant).tokens[1:]

    def prompt(changes: Mapping[str, str]) -> str:
        return " ".join(changes.get(word, word) for word in words)

    return Case(
        prompt=prompt({}),
        contextual=(CONTEXTUAL,),
        associative=(ASSOCIATIVE,),
        subject=SUBJECT,
        cue=(f"{CUE} hall",),
        question="which kind",
        distractor=(f"near the {_extra(plant)}",),
        swap=(prompt({CUE: SWAPPED_CUE}),),
        neutral=tuple(prompt({CUE: cue}) for cue in NEUTRAL_CUES),
        substitute=tuple(prompt({SUBJECT: noun}) for noun in SUBSTITUTES),
        clean=(prompt({SPURIOUS: HARMLESS}),) if plant.spurious is not None else (),
        context_words=CONTEXT_WORDS,
        competing_words=COMPETING_WORDS,
        label=label,
        group=plant.name,
    )


def _extra(plant: Plant) -> str:
    return SPURIOUS if plant.spurious is not None else HARMLESS
