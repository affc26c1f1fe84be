"""Everything a story of the world can say, as tables.

Add a topic, a word, a remark here and `dst.testbed.world` tells stories with it; the vocabulary of
the trained model is what stands in these tables and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One corner of the world: where it happens, what belongs to it, what is found there."""

    category: str  # the answer to "what is it ?"
    places: tuple[str, ...]  # places and events: "anna is at the ..."
    activities: tuple[str, ...]  # "anna is busy ..."
    things: tuple[str, ...]  # what primes the topic without saying where anybody is


@dataclass(frozen=True)
class Word:
    """A noun with two senses; `prior` is the share of stories in which it has the dominant one."""

    noun: str
    dominant: str  # name of the topic
    minority: str
    prior: float = 0.75


TOPICS: dict[str, Topic] = {
    "water": Topic(
        "fish",
        ("lake", "river", "harbour", "pier"),
        ("fishing", "swimming"),
        ("net", "hook", "trout"),
    ),
    "music": Topic(
        "instrument",
        ("concert", "opera", "stage", "rehearsal"),
        ("singing", "dancing"),
        ("guitar", "song", "choir"),
    ),
    "wilds": Topic(
        "animal",
        ("zoo", "forest", "jungle", "cave"),
        ("tracking", "camping"),
        ("tail", "paw", "fur"),
    ),
    "sky": Topic(
        "bird",
        ("marsh", "aviary", "cliff", "nest"),
        ("birding", "climbing"),
        ("feather", "wing", "beak"),
    ),
    "kitchen": Topic(
        "food",
        ("kitchen", "dinner", "bakery", "picnic"),
        ("cooking", "baking"),
        ("plate", "salt", "soup"),
    ),
    "workshop": Topic(
        "tool",
        ("workshop", "shed", "barn", "mill"),
        ("carving", "mending"),
        ("wood", "screw", "glue"),
    ),
    "industry": Topic(
        "machine",
        ("factory", "laboratory", "refinery", "mine"),
        ("typing", "welding"),
        ("cable", "screen", "battery"),
    ),
    "road": Topic(
        "vehicle",
        ("highway", "airport", "garage", "race"),
        ("driving", "parking"),
        ("engine", "wheel", "fuel"),
    ),
    "war": Topic(
        "weapon",
        ("castle", "battle", "siege", "fort"),
        ("fighting", "marching"),
        ("sword", "shield", "soldier"),
    ),
    "sport": Topic(
        "gear",
        ("stadium", "gym", "tournament", "field"),
        ("training", "jogging"),
        ("ball", "team", "medal"),
    ),
}

WORDS: tuple[Word, ...] = (
    Word("bass", "water", "music"),
    Word("bat", "wilds", "sport"),
    Word("chip", "kitchen", "industry"),
    Word("club", "war", "sport"),
    Word("crane", "industry", "sky"),
    Word("drill", "workshop", "wilds"),
    Word("drum", "music", "water"),
    Word("falcon", "sky", "road"),
    Word("jaguar", "wilds", "road"),
    Word("keyboard", "industry", "music"),
    Word("kite", "sport", "sky"),
    Word("kiwi", "kitchen", "sky"),
    Word("mace", "war", "kitchen"),
    Word("mortar", "workshop", "war"),
    Word("mouse", "wilds", "industry"),
    Word("mustang", "road", "wilds"),
    Word("nut", "kitchen", "workshop"),
    Word("pike", "water", "war"),
    Word("plane", "road", "workshop"),
    Word("ram", "wilds", "war"),
    Word("recorder", "music", "industry"),
    Word("skate", "sport", "water"),
    Word("triangle", "music", "workshop"),
    Word("turkey", "sky", "kitchen"),
)

# Buildings belong to no topic. As a place to be they are no cue: the noun that is seen there has
# its dominant sense as often as its prior says. As a thing to see they are a building anywhere.
NEUTRAL_NOUNS = (
    "house", "hotel", "school", "museum", "library", "church", "station", "cottage",
    "cabin", "hall", "shop", "temple", "tower", "palace", "clinic", "villa",
)  # fmt: skip
NEUTRAL_CATEGORY = "building"
NEUTRAL_ACTIVITIES = (
    "reading", "resting", "waiting", "writing", "talking",
    "walking", "thinking", "smiling", "drawing", "sleeping",
)  # fmt: skip

PEOPLE = (
    "anna", "tom", "maria", "paul", "lucy", "sam", "nina", "oscar",
    "emma", "david", "clara", "peter", "rosa", "felix", "julia", "leo",
)  # fmt: skip
VERBS = ("sees", "finds", "wants", "notices")
REMARKS = (
    "the door is open .", "the wind is cold .", "the sun is low .", "the wall is white .",
    "the floor is clean .", "the road is long .", "the night is warm .", "the rain is soft .",
    "the room is quiet .", "the light is dim .", "the tea is hot .", "the window is dirty .",
)  # fmt: skip
QUALITIES = ("here", "near", "gone", "missing", "lovely")

FRAMES = {"place": "{person} is at the {cue} .", "activity": "{person} is busy {cue} ."}
CUE_PHRASE = {"place": "at the {cue}", "activity": "busy {cue}"}

# How a story asks: the question (or nothing) and the words that lead up to the answer.
FORMS = {
    "what": ("what is the {noun} ?", "the {noun} is a kind of"),
    "it": ("what is the {noun} ?", "it is a kind of"),
    "which": ("what kind of thing is the {noun} ?", "the {noun} is a kind of"),
    "so": ("", "so the {noun} is a kind of"),
}
KINDS = ("plain", "far", "prime", "binding", "shift")
SENSES = ("minority", "dominant")
SPLITS = ("tune", "test")

SPECIALS = ("<bos>", "<eos>", "<unk>", "<pad>")


def _vocabulary() -> tuple[str, ...]:
    """The special tokens, then every word that a story can hold, sorted."""
    words: set[str] = {"now", *PEOPLE, *VERBS, *QUALITIES, *NEUTRAL_NOUNS, NEUTRAL_CATEGORY}
    words.update(NEUTRAL_ACTIVITIES, (word.noun for word in WORDS))
    for topic in TOPICS.values():
        words.update({topic.category}, topic.places, topic.activities, topic.things)
    frames = [*REMARKS, *FRAMES.values(), *(text for form in FORMS.values() for text in form)]
    for text in (*frames, "{person} sees a {noun} .", "the {thing} is {quality} ."):
        words.update(word for word in text.split() if not word.startswith("{"))
    return (*SPECIALS, *sorted(words))


VOCABULARY = _vocabulary()
