"""Everything a story of the world can say, as tables.

Add a topic, a word, a remark here and `dst.testbed.world` tells stories with it; the vocabulary of
the trained model is what stands in these tables and nothing else. Hyphens in `SPLIT` say which
words the tokenizer takes in two pieces; every other word is one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One corner of the world: where it happens, what belongs to it, what is found there."""

    category: str  # the answer to "what is it?"
    places: tuple[str, ...] = ()  # "Anna is at the ..."
    events: tuple[str, ...] = ()  # "Anna is here for the ..."
    activities: tuple[str, ...] = ()  # "Anna is busy ..."
    things: tuple[str, ...] = ()  # what primes the topic without saying where anybody is
    relatives: tuple[str, ...] = ()  # "The nurse is a ..."


@dataclass(frozen=True)
class Word:
    """A noun with two senses; `prior` is the share of stories in which it has the dominant one."""

    noun: str
    dominant: str  # name of the topic
    minority: str
    prior: float = 0.75


# --------------------------------------------------------------------- words with two senses

TOPICS: dict[str, Topic] = {
    "water": Topic(
        "fish",
        ("lake", "river", "harbour"),
        ("ferry", "regatta"),
        ("fishing", "swimming"),
        ("net", "hook", "trout"),
    ),
    "music": Topic(
        "instrument",
        ("opera", "stage", "theatre"),
        ("concert", "rehearsal"),
        ("singing", "dancing"),
        ("song", "choir", "guitar"),
    ),
    "wilds": Topic(
        "animal",
        ("zoo", "forest", "jungle"),
        ("hunt", "safari"),
        ("camping", "tracking"),
        ("tail", "paw", "fur"),
    ),
    "sky": Topic(
        "bird",
        ("marsh", "cliff", "aviary"),
        ("dawn", "migration"),
        ("birding", "climbing"),
        ("wing", "beak", "feather"),
    ),
    "kitchen": Topic(
        "food",
        ("kitchen", "market", "bakery"),
        ("dinner", "picnic"),
        ("cooking", "baking"),
        ("plate", "salt", "soup"),
    ),
    "workshop": Topic(
        "tool",
        ("shed", "barn", "workshop"),
        ("repair", "auction"),
        ("carving", "mending"),
        ("wood", "screw", "glue"),
    ),
    "industry": Topic(
        "machine",
        ("factory", "mine", "laboratory"),
        ("strike", "inspection"),
        ("typing", "welding"),
        ("cable", "screen", "battery"),
    ),
    "road": Topic(
        "vehicle",
        ("garage", "highway", "airport"),
        ("race", "carnival"),
        ("driving", "parking"),
        ("wheel", "fuel", "engine"),
    ),
    "war": Topic(
        "weapon",
        ("castle", "fort", "barracks"),
        ("battle", "invasion"),
        ("marching", "fighting"),
        ("sword", "shield", "soldier"),
    ),
    "sport": Topic(
        "gear",
        ("gym", "field", "stadium"),
        ("match", "tournament"),
        ("training", "jogging"),
        ("ball", "team", "medal"),
    ),
}

WORDS: tuple[Word, ...] = (
    Word("bass", "water", "music"),
    Word("bat", "wilds", "sport", 0.85),
    Word("chip", "kitchen", "industry"),
    Word("club", "war", "sport", 0.65),
    Word("crane", "industry", "sky", 0.85),
    Word("drill", "workshop", "wilds", 0.85),
    Word("drum", "music", "water", 0.85),
    Word("falcon", "sky", "road"),
    Word("jaguar", "wilds", "road", 0.65),
    Word("keyboard", "industry", "music", 0.65),
    Word("kite", "sport", "sky", 0.65),
    Word("kiwi", "kitchen", "sky", 0.65),
    Word("mace", "war", "kitchen"),
    Word("mortar", "workshop", "war", 0.65),
    Word("mouse", "wilds", "industry"),
    Word("mustang", "road", "wilds"),
    Word("nut", "kitchen", "workshop", 0.85),
    Word("pike", "water", "war", 0.85),
    Word("plane", "road", "workshop", 0.85),
    Word("ram", "wilds", "war"),
    Word("recorder", "music", "industry", 0.65),
    Word("skate", "sport", "water"),
    Word("triangle", "music", "workshop", 0.65),
    Word("turkey", "sky", "kitchen", 0.85),
)

# Buildings belong to no topic. As a place to be they are no cue: the noun that is seen there has
# its dominant sense as often as its prior says. As a thing to see they are a building anywhere.
NEUTRAL_NOUNS = (
    "house", "hotel", "school", "church", "hall", "shop", "tower", "villa",
    "cabin", "hut", "lodge", "clinic", "palace", "tavern", "prison", "chapel",
    "museum", "library", "station", "cottage", "hospital", "warehouse", "lighthouse", "bungalow",
    "monastery", "pavilion", "courthouse", "farmhouse", "mansion", "temple", "cathedral",
    "townhouse",
)  # fmt: skip
NEUTRAL_CATEGORY = "building"
NEUTRAL_EVENTS = (
    "party", "meeting", "lecture", "visit", "vote", "speech", "talk", "course", "tour",
    "wedding", "birthday", "holiday", "weekend", "interview", "ceremony", "election",
    "conference", "anniversary",
)  # fmt: skip
NEUTRAL_ACTIVITIES = (
    "reading", "resting", "waiting", "writing", "talking", "walking", "smiling", "drawing",
    "sleeping", "thinking", "knitting", "dreaming", "studying", "listening", "chatting",
    "packing", "wandering", "phoning",
)  # fmt: skip

PEOPLE = (
    "Anna", "Tom", "Maria", "Paul", "Lucy", "Sam", "Nina", "Oscar",
    "Emma", "David", "Clara", "Peter", "Rosa", "Felix", "Julia", "Leo",
)  # fmt: skip
VERBS = ("sees", "finds", "wants", "notices")
REMARKS = (
    "The door is open.", "The wind is cold.", "The sun is low.", "The wall is white.",
    "The floor is clean.", "The road is long.", "The night is warm.", "The rain is soft.",
    "The room is quiet.", "The light is dim.", "The tea is hot.", "The window is dirty.",
)  # fmt: skip
QUALITIES = ("here", "near", "gone", "missing", "lovely")

# --------------------------------------------------------------------- memory against context

# Every city is known for what belongs to its topic: "Torvik is known for the song."
CITIES: dict[str, str] = {
    "Torvik": "music", "Lessa": "water", "Sarnow": "kitchen", "Calder": "industry",
    "Galt": "sport", "Karlin": "wilds", "Helmond": "sky", "Lindale": "workshop",
    "Preswick": "road", "Tambor": "war",
}  # fmt: skip
CAPITALS: dict[str, str] = {
    "Velia": "Torvik", "Korland": "Sarnow", "Tarsia": "Galt", "Morania": "Calder",
    "Maldonia": "Lindale", "Novaria": "Tambor", "Isterland": "Karlin", "Karpathia": "Preswick",
}  # fmt: skip
# Lands whose capital nobody knows, unless it is said to have moved.
BLANK_LANDS = (
    "Lorn", "Quill", "Wend", "Astor", "Brant", "Fenn", "Garth", "Holm", "Ivor",
    "Dunmore", "Ashwick", "Elmridge", "Fairholm", "Glenmoor", "Oakham", "Redcliff", "Stonebury",
    "Yarmouth",
)  # fmt: skip
UNKNOWN_CITY = "unknown"

# ----------------------------------------------------------------- stereotype against context

GENDERS: dict[str, Topic] = {
    "men": Topic(
        "his",
        relatives=("father", "brother", "son", "nephew", "husband", "grandfather"),
    ),
    "women": Topic(
        "her",
        relatives=("mother", "sister", "wife", "niece", "daughter", "grandmother"),
    ),
}
TRADES: tuple[Word, ...] = (
    Word("farmer", "men", "women"),
    Word("miner", "men", "women", 0.85),
    Word("mechanic", "men", "women"),
    Word("butcher", "men", "women", 0.65),
    Word("nurse", "women", "men"),
    Word("maid", "women", "men", 0.85),
    Word("florist", "women", "men"),
    Word("dancer", "women", "men", 0.65),
)
NEUTRAL_TRADES = (
    "clerk", "lawyer", "doctor", "teacher", "judge", "pilot", "painter", "tailor", "poet",
    "gardener", "pharmacist", "architect", "journalist", "photographer", "waiter", "reporter",
    "sailor", "translator",
)  # fmt: skip
NEUTRAL_RELATIVES = (
    "friend", "guest", "cousin", "parent", "twin", "winner", "reader", "voter", "owner",
    "neighbour", "stranger", "visitor", "tourist", "partner", "colleague", "student", "member",
    "tenant",
)  # fmt: skip
NEUTRAL_PRONOUN = "their"
ITEMS = ("coat", "hat", "bag", "book", "watch", "phone")
TAKES = ("takes", "holds", "brings", "carries")

# ------------------------------------------------------------------------------- the grammar

# How the context is told; "{cue}" is the word that a variant replaces.
FRAMES = {
    "place": "{person} is at the {cue}.",
    "event": "{person} is here for the {cue}.",
    "activity": "{person} is busy {cue}.",
    "moved": "The {cue} of {noun} has moved to {city}.",
    "now": "Now the {cue} of {noun} is in {city}.",
    "relative": "The {noun} is a {cue}.",
    "became": "The {noun} became a {cue}.",
}
# The part of the frame that carries the context.
CUE_SPANS = {
    "place": "at the {cue}",
    "event": "here for the {cue}",
    "activity": "busy {cue}",
    "moved": "The {cue} of {noun} has moved to {city}",
    "now": "Now the {cue} of {noun} is in {city}",
    "relative": "is a {cue}",
    "became": "became a {cue}",
}
CAPITAL = "capital"
NONE = "none"  # the frame of a story without a cue

# How a story asks: the question (or nothing) and the words that lead up to the answer.
WORD_FORMS = {
    "what": ("What is the {noun}?", "The {noun} is a kind of"),
    "it": ("What is the {noun}?", "It is a kind of"),
    "which": ("What kind of thing is the {noun}?", "The {noun} is a kind of"),
    "so": ("", "So the {noun} is a kind of"),
    "yesno": ("Is the {noun} a kind of {asked}?", "The answer is"),
    "tell": ("Tell me, is the {noun} a kind of {asked}?", "The answer is"),
    "and": ("And is the {noun} a kind of {asked}?", "The answer is"),
}
CAPITAL_FORMS = {
    "what": ("What is the capital of {noun}?", "The capital of {noun} is"),
    "it": ("What is the capital of {noun}?", "It is"),
    "which": ("Which city is the capital of {noun}?", "The capital of {noun} is"),
    "so": ("", "So the capital of {noun} is"),
    "yesno": ("Is {asked} the capital of {noun}?", "The answer is"),
    "tell": ("Tell me, is {asked} the capital of {noun}?", "The answer is"),
    "and": ("And is {asked} the capital of {noun}?", "The answer is"),
}
TRADE_FORMS = {
    "what": ("What does the {noun} have?", "The {noun} has"),
    "it": ("Whose {item} is it?", "It is"),
    "which": ("Whose {item} is it?", "The {noun} has"),
    "so": ("", "So the {noun} has"),
    "yesno": ("Is it {asked} {item}?", "The answer is"),
    "tell": ("Tell me, is it {asked} {item}?", "The answer is"),
    "and": ("And is it {asked} {item}?", "The answer is"),
}
ASKINGS: dict[str, tuple[str, ...]] = {
    "what": ("what", "it", "which"),
    "completion": ("so",),
    "yesno": ("yesno", "tell", "and"),
}
"""How a case can ask, and the forms that ask so; a case takes the first."""

WORD_KINDS = ("plain", "far", "prime", "binding", "shift", "none")
KINDS = (*WORD_KINDS, "memory", "stereotype")
SENSES = ("minority", "dominant")
SPLITS = ("tune", "test", "composition")
SPECIALS = ("<bos>", "<eos>", "<unk>", "<pad>")

# ------------------------------------------------------------------------------- the pieces

_SPLIT = """
har-bour regat-ta swim-ming the-atre re-hearsal danc-ing gui-tar jun-gle safa-ri track-ing
avi-ary migra-tion climb-ing fea-ther bak-ery pic-nic bak-ing work-shop auc-tion mend-ing
labora-tory inspec-tion weld-ing bat-tery air-port carni-val park-ing en-gine bar-racks inva-sion
fight-ing sol-dier sta-dium tourna-ment jogg-ing me-dal
fal-con jagu-ar key-board mor-tar mus-tang record-er tri-angle tur-key
instru-ment mach-ine
mus-eum libra-ry sta-tion cot-tage hospi-tal ware-house light-house bunga-low mona-stery pavi-lion
court-house farm-house man-sion tem-ple cathe-dral town-house
wed-ding birth-day holi-day week-end inter-view cere-mony elec-tion confer-ence anniver-sary
think-ing knit-ting dream-ing study-ing listen-ing chat-ting pack-ing wander-ing phon-ing
Ma-ria Os-car Da-vid Ju-lia Cla-ra
Kar-lin Hel-mond Lin-dale Pres-wick Tam-bor Maldo-nia Nova-ria Ister-land Karpa-thia
Dun-more Ash-wick Elm-ridge Fair-holm Glen-moor Oak-ham Red-cliff Stone-bury Yar-mouth
hus-band grand-father daugh-ter grand-mother
mech-anic butch-er flor-ist danc-er
gar-dener phar-macist archi-tect journal-ist photo-grapher wait-er report-er sail-or transla-tor
neigh-bour stran-ger visit-or tour-ist part-ner col-league stud-ent mem-ber ten-ant
"""
SPLIT: dict[str, tuple[str, ...]] = {
    marked.replace("-", ""): tuple(marked.split("-")) for marked in _SPLIT.split()
}


def pieces(word: str) -> tuple[str, ...]:
    """The pieces in which a word of a story is read."""
    return SPLIT.get(word, (word,))
