"""The world keeps its promises: every story is true, every variant changes only its own role."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from dst.core.case import Case
from dst.core.errors import InputError
from dst.testbed import lexicon, world

TOPIC_OF_CUE = {
    word: name for name, topic in world.TOPICS.items() for word in topic.places + topic.activities
}
CATEGORY = {name: topic.category for name, topic in world.TOPICS.items()}
SENSES = {word.noun: (word.dominant, word.minority) for word in world.WORDS}


@pytest.fixture(
    scope="module", params=[*itertools.product(world.SPLITS, world.SENSES)], ids="-".join
)
def drawn(request: pytest.FixtureRequest) -> list[Case]:
    split, sense = request.param
    return world.cases(split, n=240, seed=3, sense=sense)


@pytest.fixture(scope="module")
def documents() -> list[tuple[str, str]]:
    rng = np.random.default_rng(11)
    return [(kind, world.document(rng, kind)) for kind in world.KINDS for _ in range(2000)]


def changed(one: str, other: str) -> list[int]:
    """Positions at which two texts of one length differ."""
    a, b = one.split(), other.split()
    assert len(a) == len(b), (one, other)
    return [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]


def places_of(text: str, span: str) -> set[int]:
    """Positions of every occurrence of a span's words, found word by word."""
    words, wanted = text.split(), span.split()
    starts = [i for i in range(len(words)) if words[i : i + len(wanted)] == wanted]
    return {i + k for i in starts for k in range(len(wanted))}


def sense_of(case: Case) -> tuple[str, str]:
    """The topic of the cue and the word's other topic, looked up in the tables."""
    assert case.group is not None
    topic = TOPIC_OF_CUE[case.cue[0].split()[-1]]
    (other,) = set(SENSES[case.group]) - {topic}
    return topic, other


# -- the tables


def test_no_word_plays_two_parts() -> None:
    parts = [
        *lexicon.PEOPLE, *lexicon.VERBS, *lexicon.QUALITIES, *lexicon.NEUTRAL_NOUNS,
        *lexicon.NEUTRAL_ACTIVITIES, lexicon.NEUTRAL_CATEGORY, *SENSES, *TOPIC_OF_CUE,
        *CATEGORY.values(), *(thing for topic in world.TOPICS.values() for thing in topic.things),
    ]  # fmt: skip
    twice = {word for word, count in Counter(parts).items() if count > 1}
    assert not twice
    said_in_passing = {word for remark in lexicon.REMARKS for word in remark.split()}
    assert not said_in_passing & set(parts)


def test_every_topic_is_an_association_here_and_a_context_there() -> None:
    assert {word.dominant for word in world.WORDS} == set(world.TOPICS)
    assert {word.minority for word in world.WORDS} == set(world.TOPICS)
    assert all(word.dominant != word.minority and word.prior > 0.5 for word in world.WORDS)


def test_the_vocabulary_is_what_stories_say(documents: list[tuple[str, str]]) -> None:
    assert len(set(world.VOCABULARY)) == len(world.VOCABULARY)
    said = {word for _, text in documents for word in text.split()}
    assert said == set(world.VOCABULARY) - set(world.SPECIALS)


# -- the corpus


def test_a_story_tells_the_truth(documents: list[tuple[str, str]]) -> None:
    """The answer is the cue's category; after a neutral cue, one of the word's two."""
    for kind, text in documents:
        words = text.split()
        answer, noun = words[-2], _noun(words)
        if noun in lexicon.NEUTRAL_NOUNS:
            assert answer == lexicon.NEUTRAL_CATEGORY
            continue
        topic = TOPIC_OF_CUE.get(_cue(kind, words))
        allowed = {CATEGORY[topic]} if topic else {CATEGORY[name] for name in SENSES[noun]}
        assert answer in allowed, text


def test_without_a_cue_the_prior_decides() -> None:
    rng = np.random.default_rng(5)
    dominant = total = 0
    for _ in range(20_000):
        words = world.document(rng, "plain").split()
        noun = _noun(words)
        if noun in SENSES and _cue("plain", words) not in TOPIC_OF_CUE:
            total += 1
            dominant += words[-2] == CATEGORY[SENSES[noun][0]]
    (prior,) = {word.prior for word in world.WORDS}
    assert total > 1500
    assert abs(dominant / total - prior) < 4 * np.sqrt(prior * (1 - prior) / total)


def _seen(words: list[str]) -> int:
    """Where the sentence "<person> <verb> a <noun> ." has its verb."""
    (at,) = (i for i, word in enumerate(words) if word in lexicon.VERBS)
    return at


def _noun(words: list[str]) -> str:
    return words[_seen(words) + 2]


def _cue(kind: str, words: list[str]) -> str:
    """The last word of the last sentence in front of the sight about the person who sees."""
    at = _seen(words)
    person = words[at - 1]
    says = [i for i in range(at - 1) if words[i] == person]
    return words[words.index(".", says[-1]) - 1]


# -- the cases


def test_answers_are_the_cue_s_and_the_other_sense_s(drawn: list[Case]) -> None:
    for case in drawn:
        topic, other = sense_of(case)
        assert case.contextual == (CATEGORY[topic],)
        assert case.associative == (CATEGORY[other],)
        assert {CATEGORY[topic], CATEGORY[other]} <= set(world.VOCABULARY)
        assert "-minority-" in case.case_id or topic == SENSES[case.group or ""][0]
        assert "-dominant-" in case.case_id or topic == SENSES[case.group or ""][1]


def test_the_prompt_stops_before_the_answer(drawn: list[Case]) -> None:
    for case in drawn:
        assert case.text.endswith(f"{case.question} the {case.subject} is a kind of")
        assert len(places_of(case.text, str(case.subject))) == 3


def test_variants_change_their_own_role_and_nothing_else(drawn: list[Case]) -> None:
    for case in drawn:
        (cue,) = case.cue
        at_cue = places_of(case.text, cue)
        at_subject = places_of(case.text, str(case.subject))
        assert len(at_cue) == len(cue.split())
        assert not at_cue & at_subject
        for text in map(str, (*case.neutral, *case.swap)):
            assert len(changed(case.text, text)) == 1
            assert set(changed(case.text, text)) <= at_cue
        for text in map(str, case.substitute):
            assert set(changed(case.text, text)) == at_subject


def test_draws_are_many_different_and_of_the_right_words(drawn: list[Case]) -> None:
    neutral_cues = {*lexicon.NEUTRAL_NOUNS, *lexicon.NEUTRAL_ACTIVITIES}
    for case in drawn:
        _, other = sense_of(case)
        at_cue = changed(case.text, str(case.neutral[0]))[0]
        at_subject = changed(case.text, str(case.substitute[0]))[0]
        neutral = {str(text).split()[at_cue] for text in case.neutral}
        nouns = {str(text).split()[at_subject] for text in case.substitute}
        swaps = {str(text).split()[at_cue] for text in case.swap}
        assert len(case.neutral) == len(neutral) == world.DRAWS
        assert len(case.substitute) == len(nouns) == world.DRAWS
        assert neutral <= neutral_cues
        assert nouns <= set(lexicon.NEUTRAL_NOUNS)
        assert not neutral & nouns
        assert swaps
        assert {TOPIC_OF_CUE[word] for word in swaps} == {other}


def test_distractors_are_of_their_kind(drawn: list[Case]) -> None:
    for case in drawn:
        _, other = sense_of(case)
        kind, words = world.kind_of(case), case.text.split()
        person = words[_seen(words) - 1]
        if kind == "plain":
            assert case.distractor == case.clean == ()
            continue
        said = [sentence.split() for sentence in case.distractor]
        if kind == "far":
            assert set(case.distractor) <= set(lexicon.REMARKS)
            assert 1 <= len(said) <= 6
        elif kind == "prime":
            assert {sentence[1] for sentence in said} <= set(world.TOPICS[other].things)
        else:
            assert [TOPIC_OF_CUE[sentence[-2]] for sentence in said] == [other]
            assert (said[0][0] == person) == (kind == "shift")
        for sentence in case.distractor:
            assert sentence in case.text
            assert sentence not in str(case.clean[0])
        missing = Counter(words) - Counter(str(case.clean[0]).split())
        assert missing == Counter(word for sentence in said for word in sentence)


def test_the_twin_is_the_clean_story_with_its_variants(drawn: list[Case]) -> None:
    for case in drawn:
        twin = world.without_distractors(case)
        assert twin.text == (case.clean[0] if case.clean else case.text)
        assert (twin.contextual, twin.associative) == (case.contextual, case.associative)
        assert all(len(changed(twin.text, str(text))) == 1 for text in twin.neutral + twin.swap)
        assert all(len(changed(twin.text, str(text))) == 3 for text in twin.substitute)


def test_paraphrases_keep_who_what_and_where(drawn: list[Case]) -> None:
    for case in drawn:
        assert len(set(case.paraphrases)) == 5
        assert case.text not in case.paraphrases
        for text in map(str, case.paraphrases):
            assert set(text.split()) <= set(world.VOCABULARY)
            assert text.endswith("is a kind of")
            for span in (*case.cue, *case.distractor, f"a {case.subject} ."):
                assert places_of(text, span)


def test_concept_words_follow_one_rule(drawn: list[Case]) -> None:
    for case in drawn:
        said = set(case.text.split())
        sides = zip(sense_of(case), (case.context_words, case.competing_words), strict=True)
        for name, words in sides:
            topic = world.TOPICS[name]
            order = [*topic.things, *topic.places, *topic.activities]
            assert len(words) == world.CONCEPT_WORDS
            assert list(words) == [word for word in order if word not in said][: len(words)]
        assert not set(case.context_words) & set(case.competing_words)


def test_cases_are_the_same_for_the_same_arguments(drawn: list[Case]) -> None:
    assert world.cases(n=50, seed=1) == world.cases(n=50, seed=1)
    assert not set(_ids(world.cases(n=50, seed=1))) & set(_ids(world.cases(n=50, seed=2)))
    assert world.cases(n=100, seed=1)[:50] == world.cases(n=50, seed=1)
    assert len(set(_ids(drawn))) == len(drawn)
    assert [Case.from_dict(case.to_dict()) for case in drawn[:20]] == drawn[:20]


def _ids(cases: list[Case]) -> list[str]:
    return [case.case_id for case in cases]


def test_kinds_words_and_senses_come_in_turn() -> None:
    cases = world.cases("test", n=240, sense="both")
    assert set(Counter(world.kind_of(case) for case in cases).values()) == {48}
    assert set(Counter(case.group for case in cases).values()) == {10}
    assert sum("-minority-" in case.case_id for case in cases) == 120
    assert {world.kind_of(case) for case in world.cases(n=9, kinds=("far",))} == {"far"}


def test_splits_share_words_and_no_template_of_a_word() -> None:
    """Templates are read off the text here, not asked from the world."""
    seen: dict[str, set[tuple[str | None, ...]]] = {}
    for split in world.SPLITS:
        cases = world.cases(split, n=2400, seed=8, sense="both")
        seen[split] = {(case.group, *_template(case)) for case in cases}
        every = set(itertools.product(SENSES, world.KINDS))
        assert {(group, kind) for group, kind, *_ in seen[split]} == every
    tune, test = seen["tune"], seen["test"]
    assert not tune & test
    assert 0.4 < len(tune) / len(tune | test) < 0.6
    # Words differ in the templates they have here, so that no split is a set of templates.
    assert {pair[1:] for pair in tune} & {pair[1:] for pair in test}


def _template(case: Case) -> tuple[str, ...]:
    words = case.text.split()
    at_cue = min(places_of(case.text, case.cue[0]))
    starts = [min(places_of(case.text, sentence)) for sentence in case.distractor]
    counts = Counter((start > at_cue) + (start > _seen(words)) for start in starts)
    frame = case.cue[0].split()[0]
    return world.kind_of(case), frame, words[_seen(words)], *(str(counts[i]) for i in range(3))


# -- errors and weight


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"split": "train"}, "split is 'train'; expected one of tune, test"),
        ({"kinds": ("plain", "near")}, "kinds is 'near'; expected one of plain, far"),
        ({"sense": "rare"}, "sense is 'rare'; expected one of minority, dominant, both"),
        ({"n": -1}, "nothing to draw"),
        ({"kinds": ()}, "nothing to draw"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, object], names: str) -> None:
    with pytest.raises(InputError, match=names):
        world.cases(**arguments)  # type: ignore[arg-type]


def test_more_cases_than_there_are_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "WORDS", world.WORDS[:1])
    monkeypatch.setattr(world, "PEOPLE", lexicon.PEOPLE[:2])
    with pytest.raises(InputError, match=r"5000 different cases were asked for and \d+ found"):
        world.cases(n=5000, kinds=("plain",))


def test_the_world_needs_no_torch() -> None:
    code = "import sys, dst.testbed.world; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_harmless_twins_change_loaded_words_of_the_distractors_alone() -> None:
    for kind in ("prime", "binding", "shift"):
        for case in world.cases(n=20, kinds=(kind,)):
            words = case.text.split()
            loaded = {
                w for t in world.TOPICS.values() for w in (*t.places, *t.activities, *t.things)
            }
            shorter, *twins = case.clean
            assert len(str(shorter).split()) < len(words)
            assert len(twins) == 7
            for twin in twins:
                other = str(twin).split()
                assert len(other) == len(words)
                changed = {a for a, b in zip(words, other, strict=True) if a != b}
                assert changed
                assert changed <= loaded
                assert all(any(w in span.split() for span in case.distractor) for w in changed)
                assert not {b for a, b in zip(words, other, strict=True) if a != b} & loaded
