"""Cases keep their promises: answers, roles, and variants that change only their own role."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter

import pytest

from dst.core.case import Case
from dst.core.errors import InputError
from dst.testbed import lexicon, world
from tests.testbed import reading
from tests.testbed.reading import changed, places_of, sense_of, words

CUED = tuple(kind for kind in world.KINDS if kind != "none")
EVERY_ASKING = tuple(world.ASKINGS)
NEUTRAL = {
    "place": lexicon.NEUTRAL_NOUNS, "event": lexicon.NEUTRAL_EVENTS,
    "activity": lexicon.NEUTRAL_ACTIVITIES, "moved": lexicon.NEUTRAL_NOUNS,
    "now": lexicon.NEUTRAL_NOUNS, "relative": lexicon.NEUTRAL_RELATIVES,
    "became": lexicon.NEUTRAL_RELATIVES,
}  # fmt: skip
UNRELATED = {"memory": lexicon.BLANK_LANDS, "stereotype": lexicon.NEUTRAL_TRADES}


@pytest.fixture(
    scope="module", params=[*itertools.product(world.SPLITS, world.SENSES)], ids="-".join
)
def drawn(request: pytest.FixtureRequest) -> list[Case]:
    split, sense = request.param
    return world.cases(split, n=480, seed=3, sense=sense, askings=EVERY_ASKING)


def asking_of(case: Case) -> str:
    return case.case_id.split("-")[3]


def story_of(case: Case) -> reading.Story:
    """What the case tells, read off its words with its own answer put at the end."""
    told = reading.read(f"{case.text} {case.contextual[0]}.")
    assert told
    return told


# -- what a case says


def test_answers_are_the_cue_s_and_the_other_sense_s(drawn: list[Case]) -> None:
    for case in drawn:
        contextual, associative = reading.sides(case)
        told = story_of(case)
        if world.kind_of(case) in ("memory",):
            assert (told.cue, told.city) == (lexicon.CAPITAL, contextual)
        elif world.kind_of(case) == "stereotype":
            assert reading.PRONOUN[reading.GENDER_OF[told.cue]] == contextual
        elif world.kind_of(case) != "none":
            assert reading.CATEGORY[reading.TOPIC_OF_CUE[told.cue]] == contextual
        if asking_of(case) != "yesno":
            assert case.contextual == (contextual,)
            assert associative == "" or case.associative == (associative,)


def test_yes_no_questions_ask_for_either_sense_and_have_their_twin(drawn: list[Case]) -> None:
    """Yes under the context is no under the association, in the case as in its twin."""
    asked = [case for case in drawn if asking_of(case) == "yesno"]
    assert len(asked) >= 150
    for case in asked:
        contextual, associative = reading.sides(case)
        told, twin = story_of(case), reading.read(f"{case.twin_question} {case.contextual[0]}.")
        assert twin
        assert (told.asked == contextual) == (case.contextual == ("yes",))
        assert {*case.contextual, *case.associative} == {"yes", "no"}
        assert contextual in (told.asked, twin.asked)
        assert told.asked != twin.asked
        assert associative in ("", told.asked, twin.asked)
        at = changed(case.text, str(case.twin_question))
        assert [words(case.text)[i] for i in at] == [told.asked]
    assert all(case.twin_question is None for case in drawn if asking_of(case) != "yesno")
    right = Counter(case.contextual[0] for case in asked)
    assert abs(right["yes"] - right["no"]) <= len(world.KINDS)  # at most one a kind, by turns


@pytest.mark.parametrize("kind", CUED)
def test_yes_and_no_are_balanced_for_every_kind_and_word(kind: str) -> None:
    cases = world.cases("test", n=240, kinds=(kind,), askings=("yesno",), sense="both")
    right = Counter((sense_of(case), case.contextual[0]) for case in cases)
    assert set(right.values()) == {60}
    of_word = Counter((case.group, case.contextual[0]) for case in cases)
    for noun in {case.group for case in cases}:
        assert abs(of_word[noun, "yes"] - of_word[noun, "no"]) <= 2


def test_the_prompt_stops_before_the_answer(drawn: list[Case]) -> None:
    ends = {
        "memory": {"The capital of {noun} is", "So the capital of {noun} is"},
        "stereotype": {"The {noun} has", "So the {noun} has"},
    }
    of_words = {"The {noun} is a kind of", "So the {noun} is a kind of"}
    for case in drawn:
        leads = {
            "The answer is",
            *(lead.format(noun=case.subject) for lead in ends.get(world.kind_of(case), of_words)),
        }
        (lead,) = (lead for lead in leads if case.text.endswith(f" {lead}"))
        assert (lead == "The answer is") == (asking_of(case) == "yesno")
        assert case.question is None or case.text.endswith(f"{case.question} {lead}")
        assert (case.question is None) == (asking_of(case) == "completion")
        assert len(places_of(case.text, str(case.subject))) in (2, 3, 4)


def test_variants_change_their_own_role_and_nothing_else(drawn: list[Case]) -> None:
    for case in drawn:
        at_subject = places_of(case.text, str(case.subject))
        for text in map(str, case.substitute):
            assert set(changed(case.text, text)) == at_subject
        if world.kind_of(case) == "none":
            assert case.cue == case.neutral == case.swap == ()
            continue
        (cue,) = case.cue
        at_cue = places_of(case.text, cue)
        assert len(at_cue) == len(words(cue))
        for text in map(str, (*case.neutral, *case.swap)):
            assert len(changed(case.text, text)) == 1
            assert set(changed(case.text, text)) <= at_cue - at_subject


def test_draws_are_many_different_and_of_the_right_words(drawn: list[Case]) -> None:
    for case in drawn:
        kind, told = world.kind_of(case), story_of(case)
        at_subject = changed(case.text, str(case.substitute[0]))[0]
        nouns = {words(str(text))[at_subject] for text in case.substitute}
        assert len(case.substitute) == len(nouns) == world.DRAWS
        assert nouns <= set(UNRELATED.get(kind, lexicon.NEUTRAL_NOUNS))
        if kind == "none":
            continue
        (at_cue,) = changed(case.text, str(case.neutral[0]))
        neutral = {words(str(text))[at_cue] for text in case.neutral}
        assert len(case.neutral) == len(neutral) == world.DRAWS
        assert neutral <= set(NEUTRAL[told.frame])
        assert not neutral & nouns
        assert case.swap
        for text in map(str, case.swap):
            swapped = reading.read(f"{text} {case.contextual[0]}.")
            assert swapped
            _, other = reading.sides(case)
            if kind == "memory":
                assert swapped.city == (other or swapped.city) != told.city
            elif kind == "stereotype":
                assert reading.PRONOUN[reading.GENDER_OF[swapped.cue]] == other
            else:
                assert reading.CATEGORY[reading.TOPIC_OF_CUE[swapped.cue]] == other


def test_distractors_are_of_their_kind(drawn: list[Case]) -> None:
    most = {"far": 6, "none": 2, "memory": 3, "stereotype": 3}
    for case in drawn:
        kind, said = world.kind_of(case), [words(text)[:-1] for text in case.distractor]
        if kind == "plain":
            assert case.distractor == case.clean == ()
            continue
        if kind in most:
            assert set(case.distractor) <= set(lexicon.REMARKS)
            assert len(said) <= most[kind]
        else:
            _, other = reading.sides(case)
            (topic,) = (name for name in world.TOPICS if reading.CATEGORY[name] == other)
            if kind == "prime":
                assert 1 <= len(said) <= 3
                assert {sentence[1] for sentence in said} <= set(world.TOPICS[topic].things)
            else:
                assert [reading.TOPIC_OF_CUE[sentence[-1]] for sentence in said] == [topic]
                seer = words(case.text)[words(case.text).index("a") - 2]
                assert (said[0][0] == seer) == (kind == "shift")
        assert bool(case.clean) == bool(case.distractor)
        for sentence in case.distractor:
            assert sentence in case.text
            assert sentence not in str(case.clean[0])
        if case.clean:
            missing = Counter(words(case.text)) - Counter(words(str(case.clean[0])))
            assert missing == Counter(word for text in case.distractor for word in words(text))


def test_far_stories_have_none_to_six_remarks() -> None:
    cases = world.cases("test", n=200, kinds=("far",))
    assert {len(case.distractor) for case in cases} == set(range(7))


def test_the_harmless_twins_change_loaded_words_of_the_distractors_alone(
    drawn: list[Case],
) -> None:
    for case in drawn:
        loaded = {w for text in case.distractor for w in words(text)} & reading.LOADED
        assert len(case.clean) == (0 if not case.distractor else 8 if loaded else 1)
        for twin in case.clean[1:]:
            at = changed(case.text, str(twin))
            before, after = words(case.text), words(str(twin))
            assert {before[i] for i in at} == loaded
            assert not {after[i] for i in at} & reading.LOADED
            inside = set().union(*(places_of(case.text, text) for text in case.distractor))
            assert set(at) <= inside
        assert len(set(case.clean)) == len(case.clean)


def test_the_twin_is_the_clean_story_with_its_variants(drawn: list[Case]) -> None:
    for case in drawn:
        twin = world.without_distractors(case)
        assert twin.text == (case.clean[0] if case.clean else case.text)
        assert (twin.contextual, twin.associative) == (case.contextual, case.associative)
        assert all(len(changed(twin.text, str(text))) == 1 for text in twin.neutral + twin.swap)
        at_subject = places_of(twin.text, str(case.subject))
        assert all(set(changed(twin.text, str(text))) == at_subject for text in twin.substitute)
        if case.twin_question:
            assert len(changed(twin.text, str(twin.twin_question))) == 1


def test_paraphrases_keep_who_what_and_where(drawn: list[Case]) -> None:
    for case in drawn:
        told = story_of(case)
        assert len(set(case.paraphrases)) == 5
        assert case.text not in case.paraphrases
        for text in map(str, case.paraphrases):
            other = reading.read(f"{text} {case.contextual[0]}.")
            assert other
            assert other[:4] == told[:4]  # family, noun, cue, city
            assert other.asked == told.asked
            assert all(sentence in text for sentence in case.distractor)


def test_concept_words_follow_one_rule(drawn: list[Case]) -> None:
    for case in drawn:
        said = set(words(case.text))
        answers = reading.sides(case)
        for answer, found in zip(answers, (case.context_words, case.competing_words), strict=True):
            if not answer:
                continue
            if world.kind_of(case) == "memory":
                of = world.TOPICS[lexicon.CITIES[answer]]
            else:
                every = [*world.TOPICS.values(), *lexicon.GENDERS.values()]
                (of,) = (topic for topic in every if topic.category == answer)
            order = [*of.things, *of.places, *of.events, *of.activities, *of.relatives]
            assert len(found) == world.CONCEPT_WORDS
            assert list(found) == [word for word in order if word not in said][: len(found)]
        assert not set(case.context_words) & set(case.competing_words)
        assert not {*case.context_words, *case.competing_words} & {*said, *answers}


def test_the_prior_of_a_case_is_its_word_s(drawn: list[Case]) -> None:
    for case in drawn:
        prior = world.prior_of(case)
        assert sum(prior) == pytest.approx(1)
        word = reading.SENSES.get(str(case.group))
        dominant = prior.associative if sense_of(case) == "minority" else prior.contextual
        assert dominant == (word.prior if word else 1.0)


def test_the_prior_of_another_case_is_unknown() -> None:
    with pytest.raises(InputError, match="is about 'apple'; expected a word of the world"):
        world.prior_of(Case("An apple is a", "fruit", group="apple", case_id="x-apple-minority-1"))


# -- which cases are drawn


def test_cases_are_the_same_for_the_same_arguments(drawn: list[Case]) -> None:
    assert world.cases(n=50, seed=1) == world.cases(n=50, seed=1)
    assert not set(_ids(world.cases(n=50, seed=1))) & set(_ids(world.cases(n=50, seed=2)))
    assert world.cases(n=100, seed=1)[:50] == world.cases(n=50, seed=1)
    assert len(set(_ids(drawn))) == len(drawn)
    assert [Case.from_dict(case.to_dict()) for case in drawn[:40]] == drawn[:40]


def _ids(cases: list[Case]) -> list[str]:
    return [case.case_id for case in cases]


def test_kinds_words_senses_and_askings_come_in_turn() -> None:
    cases = world.cases("test", n=960, sense="both", askings=EVERY_ASKING)
    assert set(Counter(world.kind_of(case) for case in cases).values()) == {120}
    assert set(Counter(sense_of(case) for case in cases).values()) == {480}
    assert set(Counter(asking_of(case) for case in cases).values()) == {320}
    assert {world.kind_of(case) for case in world.cases(n=9, kinds=("far",))} == {"far"}
    assert {asking_of(case) for case in world.cases(n=9)} == {"what"}
    groups = Counter(case.group for case in world.cases("test", n=240, kinds=("plain",)))
    assert set(groups.values()) == {10}


def test_splits_share_words_and_no_template_of_a_word() -> None:
    """Templates are read off the text here, not asked from the world."""
    seen: dict[str, set[tuple[str | None, ...]]] = {}
    for split in ("tune", "test"):
        cases = world.cases(split, n=4000, seed=8, sense="both")
        seen[split] = {(case.group, *_template(case)) for case in cases}
        told = {(group, kind) for group, kind, *_ in seen[split]}
        for kind in world.KINDS:
            table = {"memory": lexicon.CAPITALS, "stereotype": [w.noun for w in lexicon.TRADES]}
            nouns = set(table.get(kind, [word.noun for word in world.WORDS]))
            assert {noun for noun, of in told if of == kind} == nouns
    tune, test = seen["tune"], seen["test"]
    assert not tune & test
    assert 0.4 < len(tune) / len(tune | test) < 0.6
    # Words differ in the templates they have here, so that no split is a set of templates.
    assert {pair[1:] for pair in tune} & {pair[1:] for pair in test}


def _template(case: Case) -> tuple[str, ...]:
    said, told = words(case.text), story_of(case)
    verbs = [i for i, word in enumerate(said) if word in (*lexicon.VERBS, *lexicon.TAKES)]
    at_sight = verbs[0] if verbs else len(said)
    at_cue = min(places_of(case.text, case.cue[0])) if case.cue else -1
    starts = [min(places_of(case.text, sentence)) for sentence in case.distractor]
    counts = Counter((start > at_cue) + (start > at_sight) for start in starts)
    verb = said[at_sight] if verbs else ""
    return world.kind_of(case), told.frame, verb, *(str(counts[i]) for i in range(3))


@pytest.mark.parametrize("split", world.SPLITS)
def test_composition_holds_withheld_pairs_alone_and_the_others_none(split: str) -> None:
    for case in world.cases(split, n=480, seed=5, sense="both", askings=EVERY_ASKING):
        kind, told = world.kind_of(case), story_of(case)
        pattern = f"{kind}/{told.frame}/{asking_of(case)}"
        assert (pattern in world.WITHHELD[told.noun]) == (split == "composition")


def test_a_story_without_a_cue_composes_nothing() -> None:
    with pytest.raises(InputError, match="10 different cases were asked for and 0 found"):
        world.cases("composition", n=10, kinds=("none",))


# -- errors and weight


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"split": "train"}, "split is 'train'; expected one of tune, test, composition"),
        ({"kinds": ("plain", "near")}, "kinds is 'near'; expected one of plain, far"),
        ({"sense": "rare"}, "sense is 'rare'; expected one of minority, dominant, both"),
        ({"askings": ("why",)}, "askings is 'why'; expected one of what, completion, yesno"),
        ({"n": -1}, "nothing to draw"),
        ({"kinds": ()}, "nothing to draw"),
        ({"askings": ()}, "nothing to draw"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, object], names: str) -> None:
    with pytest.raises(InputError, match=names):
        world.cases(**arguments)  # type: ignore[arg-type]


def test_more_cases_than_there_are_is_said() -> None:
    with pytest.raises(InputError, match=r"90000 different cases were asked for and \d+ found"):
        world.cases(n=90_000, kinds=("plain",), askings=("completion",))


def test_the_world_needs_no_torch() -> None:
    code = "import sys, dst.testbed.world; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
