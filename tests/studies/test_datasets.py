"""Every adapter on rows written here in its layout: what becomes a case, and what is counted."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import dst
from dst.core.case import AlignedPrompt, load_cases
from dst.core.errors import InputError
from dst.models.load import load
from dst.models.tokens import tokenize_case
from dst.models.variants import tokenize_variants
from dst.studies.adapters.wording import aligned
from dst.studies.datasets import ADAPTERS, Dataset, load_dataset
from tests import tiny
from tests.studies.planted import planted

RACING = {"prompt", "label", "object", "cue", "verbalization", "counterfactual_verbalization"}


def lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read(tmp_path: Path, name: str, rows: Sequence[Mapping[str, Any]], **how: Any) -> Dataset:
    found = load_dataset(name, lines(tmp_path / f"{name}.jsonl", rows), **how)
    accounted(found)
    return found


def accounted(found: Dataset) -> None:
    """Every unit is a case or is left out, every case passes its own checks, ids differ."""
    report = found.report
    assert report.cases == len(found)
    assert report.cases + sum(count.n for count in report.left_out) == report.units
    assert report.units >= report.rows or report.unit != "row"
    assert len({case.case_id for case in found}) == len(found)
    assert [dst.Case.from_dict(case.to_dict()) for case in found] == list(found)


def told(counts: Sequence[Any]) -> dict[str, int]:
    return {count.what: count.n for count in counts}


# -- Racing Thoughts -----------------------------------------------------------------------


def racing(label: object, asked: str, other: str, cue: str = "concert", **more: Any) -> dict:
    return {
        "prompt": f"Anna is at the {cue}. Anna sees a bass. Is the bass {asked}? Answer:",
        "label": label,
        "object": "bass",
        "cue": cue,
        "verbalization": asked,
        "counterfactual_verbalization": other,
    } | more


FISH, TOOL = "a kind of fish", "a musical instrument"


def test_racing_thoughts_asks_each_row_which_sense_is_asked(tmp_path: Path) -> None:
    rows = [racing("TRUE", TOOL, FISH), racing(False, FISH, TOOL), racing(1, FISH, TOOL, "lake")]
    found = read(tmp_path, "racing_thoughts", rows, twins="always")
    assert [(case.contextual, case.associative) for case in found] == [
        (("yes",), ("no",)),
        (("no",), ("yes",)),
        (("yes",), ("no",)),
    ]
    assert found.kind == "yes_no"
    assert found[0].subject == "bass"
    assert found[0].cue == ("concert",)
    assert found[0].question == "Is the bass a musical instrument?"
    assert found[0].twin_question == str(found[0].prompt).replace(TOOL, FISH)
    assert found.report.detected[0].startswith("`verbalization` is the sense asked about: ")
    # Rows 2 and 3 differ in their cue alone and in their label: each is the other's swap.
    assert [case.swap for case in found] == [
        (),
        (AlignedPrompt(str(found[2].prompt), (("concert", "lake"),)),),
        (AlignedPrompt(str(found[1].prompt), (("lake", "concert"),)),),
    ]


def test_racing_thoughts_where_verbalization_is_the_right_sense(tmp_path: Path) -> None:
    rows = [
        racing(True, TOOL, FISH),
        racing(False, FISH, TOOL, verbalization=TOOL, counterfactual_verbalization=FISH),
    ]
    found = read(tmp_path, "racing_thoughts", rows)
    assert found.report.detected == (
        "`verbalization` is the right sense: the prompt asks about `verbalization` in 1 of 1 rows "
        "labelled true and in 0 of 1 labelled false",
    )
    assert found.extra[found[1].case_id]["asked"] == FISH
    assert found[1].contextual == ("no",)
    assert found[0].twin_question is None  # four words for three: the tokens would not match
    assert (
        told(found.report.lacking)["twin_question: the two senses have unequal numbers of words"]
        == 2
    )


def test_racing_thoughts_leaves_out_what_it_cannot_read(tmp_path: Path) -> None:
    rows = [
        racing(True, TOOL, FISH),
        racing("perhaps", TOOL, FISH),
        racing(True, TOOL, FISH, prompt=" "),
        racing(True, "neither", "of the two", cue="concert", prompt="A bass, true or false: yes?"),
    ]
    found = read(tmp_path, "racing_thoughts", rows)
    assert told(found.report.left_out) == {
        "the label is neither true nor false": 1,
        "a cell that must not be empty is": 1,
    }
    assert found[1].contextual == ("true",)
    lacking = told(found.report.lacking)
    assert lacking["twin_question: the sense asked about cannot be told from the prompt"] == 1
    assert lacking["cue: expected text of the prompt, as it is written there"] == 1
    assert found[1].cue == ()


def test_racing_thoughts_follows_no_rule(tmp_path: Path) -> None:
    flip = {"verbalization": TOOL, "counterfactual_verbalization": FISH}
    rows = [racing(True, TOOL, FISH), racing(True, FISH, TOOL, "lake", **flip)]
    rows += [racing(False, FISH, TOOL)]
    found = read(tmp_path, "racing_thoughts", rows)
    assert found.report.detected[0].startswith("`verbalization` follows no rule here")


# -- CounterFact ---------------------------------------------------------------------------

CAMRY = {
    "base_prompt": "Toyota Camry is made by",
    "template": "{}: Toyota Camry is made by{}. Toyota Camry is made by",
    "target_true": " Toyota",
    "target_new": " Chrysler",
    "prompt": "Redefine: Toyota Camry is made by Chrysler. Toyota Camry is made by",
    "subject": "Toyota Camry",
}
PLAIN = {
    "prompt": "The mother tongue of Danielle Darrieux is",
    "subject": "Danielle Darrieux",
    "target_true": " French",
    "target_false": " English",
    "relation_id": "P103",
}
NESTED = {
    "case_id": 0,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["Danielle Darrieux spoke the language"],
}


def test_counterfact_in_context_supports_the_new_object(tmp_path: Path) -> None:
    other = {**CAMRY, "prompt": CAMRY["base_prompt"]}
    found = read(tmp_path, "counterfact", [CAMRY, other, CAMRY])
    (case,) = found
    assert case.contextual == (" Chrysler",)
    assert case.associative == (" Toyota",)
    assert case.cue == ("Chrysler",)
    assert case.subject == "Toyota Camry"
    (swap,) = case.swap
    assert isinstance(swap, AlignedPrompt)
    assert swap.prompt == CAMRY["prompt"].replace("Chrysler", "Toyota")
    assert told(found.report.left_out) == {
        "the prompt is not its template with the new object": 1,
        "the same case as an earlier row's": 1,
    }


def test_counterfact_without_context_has_no_cue_and_can_be_redefined(tmp_path: Path) -> None:
    for row in (PLAIN, NESTED):
        (bare,) = read(tmp_path, "counterfact", [row])
        assert [form.strip() for form in bare.contextual] == ["French"]
        assert bare.cue == ()
        assert bare.subject == "Danielle Darrieux"
        (told_first,) = read(tmp_path, "counterfact", [row], redefine=True)
        assert [form.strip() for form in told_first.contextual] == ["English"]
        assert [form.strip() for form in told_first.associative] == ["French"]
        assert str(told_first.prompt).startswith("Redefine: The mother tongue of Danielle")
    assert told_first.paraphrases == ()
    assert bare.paraphrases == ("Danielle Darrieux spoke the language",)


# -- two answers a row ---------------------------------------------------------------------


def test_memotrap_reads_lists_of_python_and_the_ending_asked_for(tmp_path: Path) -> None:
    rows = [
        ('Write a quote that ends in the word "heavy": Absence makes the heart grow', 0),
        ("Translate the following sentence from French into English.\nUn.\nto:\nOne", 1),
        ("What was the common wisdom before the following event: It fell.\nA. x\nAnswer:", 1),
        ("It fell. Before the aforementioned event, what was the belief?\nA. x\nAnswer:", 1),
        ('Write a sign that says "no driving": This is ours. No', 1),
    ]
    table = [
        {"prompt": p, "classes": "[' heavy.', \" won't.\"]", "answer_index": str(i)}
        for p, i in rows
    ]
    table += [{**table[0], "classes": c} for c in ("heavy", "['a']", "[1,")]
    table += [{**table[0], "answer_index": "2"}, {**table[0], "classes": "[' x.', ' X.']"}]
    found = read(tmp_path, "memotrap", table)
    assert [case.contextual for case in found[:2]] == [(" heavy",), (" won't",)]
    assert [case.cue for case in found] == [
        ("heavy",),
        ("Un.",),
        ("What was the common wisdom before the following event",),
        ("Before the aforementioned event, what was the belief?",),
        ("no driving",),
    ]
    assert found[0].swap == (
        AlignedPrompt(str(found[0].prompt).replace("heavy", "won't"), (("heavy", "won't"),)),
    )
    assert found[0].group == "Absence makes the heart grow"
    assert found[2].group == "It fell."
    assert sum(told(found.report.left_out).values()) == 5


def test_winobias_questions_and_lines_in_brackets(tmp_path: Path) -> None:
    row = {
        "type": "1",
        "stereotype": "anti",
        "pronoun": "she",
        "sentence": "The developer argued with the designer because she did not like the design.",
        "answer": "developer",
        "incorrect_answer": "designer",
        "q": "The pronoun 'she' refers to the",
        "q_instruct": "Who does the pronoun 'she' refer to?",
    }
    (case,) = found = read(tmp_path, "winobias", [row, {**row, "answer": ""}])
    assert str(case.prompt) == f"{row['sentence']} {row['q']}"
    assert case.subject == "she"
    assert case.cue == ("did not like the design",)
    assert found.extra[case.case_id] == {"stereotype": "anti", "type": "1"}
    (asked,) = read(tmp_path, "winobias", [row], instruct=True)
    assert str(asked.prompt).endswith("Who does the pronoun 'she' refer to?")

    path = tmp_path / "anti_stereotyped_type1.txt.test.txt"
    path.write_text(
        "1 [The developer] argued with the designer because [she] did not like the design.\n"
        "2 The developer argued with [the designer] because [her] idea failed.\n"
        "3 The developer slept.\n"
        "4 [The guard] argued with the chief because [she] was tired.\n",
        "utf-8",
    )
    found = load_dataset("winobias", path)
    accounted(found)
    assert [(c.contextual, c.associative, c.subject) for c in found] == [
        (("developer",), ("designer",), "she"),
        (("designer",), ("developer",), "her"),
    ]
    assert "[" not in str(found[0].prompt)
    assert found.extra[found[0].case_id] == {"stereotype": "anti"}
    assert told(found.report.left_out) == {
        "not one pronoun and one person in [brackets]": 1,
        "which other person the line names cannot be told": 1,
    }


def test_winogender_reads_who_is_meant_from_the_sentid(tmp_path: Path) -> None:
    stem = "The technician told the customer that {} could pay."
    rows = [
        {"sentid": f"technician.customer.1.{g}.txt", "sentence": stem.format(p)}
        for g, p in (("male", "he"), ("female", "she"), ("neutral", "they"))
    ]
    rows.append({"sentid": "odd", "sentence": "x"})
    found = read(tmp_path, "winogender", rows)
    assert [case.subject for case in found] == ["he", "she", "they"]
    assert {case.contextual for case in found} == {("customer",)}
    assert found.extra[found[1].case_id]["gender"] == "female"


ANSWERS = {
    "Question": "What?",
    "Category": "Misc",
    "Best Answer": "Right",
    "Correct Answers": "So; Right; Both",
    "Incorrect Answers": "Wrong; both",
}


def test_truthfulqa_in_all_its_layouts_has_the_best_answer_first(tmp_path: Path) -> None:
    (case,) = found = read(tmp_path, "truthfulqa", [ANSWERS])
    assert case.contextual == ("Right", "So")
    assert case.associative == ("Wrong",)
    assert case.prompt == "Q: What?\nA:"
    assert case.group == "Misc"
    assert found.kind == "multiple_choice"
    assert found.report.detected == ("layout: a table of answers, the first release's columns",)
    (case,) = found = read(tmp_path, "truthfulqa", [{**ANSWERS, "Best Incorrect Answer": "No"}])
    assert case.associative == ("No", "Wrong")
    assert "2025" in found.report.detected[0]

    hub = {
        "question": "What?",
        "mc1_targets": {"choices": ["Right", "Wrong"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["So", "Right", "Worse"], "labels": [1, 1, 0]},
    }
    local = {
        "question": "What?",
        "mc1_targets": {"Right": 1, "Wrong": 0},
        "mc2_targets": {"So": 1, "Right": 1, "Worse": 0},
    }
    empty = {"question": "?", "mc1_targets": {}, "mc2_targets": {}}
    found = read(tmp_path, "truthfulqa", [hub, {**local, "question": "Why?"}, empty])
    assert [case.contextual for case in found] == [("Right", "So")] * 2
    assert [case.associative for case in found] == [("Wrong", "Worse")] * 2
    generation = {
        "question": "What?",
        "category": "Misc",
        "best_answer": "Right",
        "correct_answers": ["Right", "So; so"],
        "incorrect_answers": ["Wrong"],
    }
    (case,) = read(tmp_path, "truthfulqa", [generation])
    assert case.contextual == ("Right", "So; so")


HALU = {
    "knowledge": "First for Women began in 1989.",
    "question": "When did it begin?",
    "right_answer": "1989",
    "hallucinated_answer": "It began in 1844.",
}


def test_halueval_asks_or_judges(tmp_path: Path) -> None:
    same = {**HALU, "hallucinated_answer": "1989"}
    (case,) = found = read(tmp_path, "halueval", [HALU, same])
    assert case.contextual == ("1989",)
    assert case.cue == (HALU["knowledge"],)
    assert told(found.report.left_out) == {"the made-up answer is the right one": 1}
    assert found.kind == "generation"
    judged = read(tmp_path, "halueval", [HALU], judge=True)
    assert [case.contextual for case in judged] == [("no",), ("yes",)]
    assert judged.kind == "yes_no"
    assert judged.report.unit == "answer"
    sample: dict[str, str] = {k: HALU[k] for k in ("knowledge", "question")} | {"answer": "1844"}
    found = read(tmp_path, "halueval", [{**sample, "hallucination": v} for v in ("Yes", "maybe")])
    assert found[0].contextual == ("yes",)


def test_facts_ignore_other_columns_and_merge_objects(tmp_path: Path) -> None:
    row = {
        "subject": "Vinson Massif",
        "attribute": "Antarctica",
        "prompt": "Vinson Massif is located in the continent of",
        "relation_id": "P30",
        "some/model-id": True,
    }
    (case,) = read(tmp_path, "known_1000", [row])
    assert case.contextual == ("Antarctica",)
    assert case.associative == ()
    assert case.group == "P30"
    relation = {
        "name": "job",
        "prompt_templates": ["{} is a", "{} works as a"],
        "properties": {"relation_type": "bias"},
        "samples": [
            {"subject": "Ada", "object": "poet"},
            {"subject": "Bob", "object": "cook"},
            {"subject": "Ada", "object": "nurse"},
            {"subject": "", "object": "x"},
        ],
    }
    found = read(tmp_path, "lre", [relation], template=1)
    assert [(c.prompt, c.contextual) for c in found] == [
        ("Ada works as a", ("poet", "nurse")),
        ("Bob works as a", ("cook",)),
    ]
    assert found.report.units == 4
    assert sum(told(found.report.left_out).values()) == 2
    with pytest.raises(InputError, match="no template 0 in prompt_templates_zs"):
        read(tmp_path, "lre", [relation], zero_shot=True)


# -- circuits ------------------------------------------------------------------------------


def test_ioi_takes_names_from_the_text_not_from_ids(tmp_path: Path) -> None:
    stem = "Then, Aaron and Amber were working. {} decided to give a drink to"
    row = {
        "clean": stem.format("Aaron"),
        "corrupted": stem.format("Tiffany"),
        "corrupted_hard": stem.format("Amber"),
        "correct_idx": "47764",
        "incorrect_idx": "26757",
    }
    (case,) = found = read(tmp_path, "ioi", [row, {**row, "corrupted_hard": row["clean"]}])
    assert case.contextual == ("Amber",)
    assert case.associative == ("Aaron",)
    assert [v.prompt for v in case.swap if isinstance(v, AlignedPrompt)] == [stem.format("Amber")]
    assert [v.prompt for v in case.neutral if isinstance(v, AlignedPrompt)] == [
        stem.format("Tiffany")
    ]
    assert sum(told(found.report.left_out).values()) == 1
    bare = [{"prompt": stem.format("Aaron"), "answer": "Amber"}, {"prompt": "Hi", "answer": "Bo"}]
    (case,) = read(tmp_path, "ioi", bare)
    assert case.associative == ("Aaron",)


def test_ioi_templates_are_drawn_by_a_seed(tmp_path: Path) -> None:
    folder = tmp_path / "IOI_task"
    folder.mkdir()
    stems = [
        "After {name_A} and {name_B} went to the {place}, {name_C} gave a {object} to",
        "After {name_A} and {name_B} went to the {place}, {name_C} gave an {object} to",
    ]
    content = {"templates": stems, "names": ["Ann", "Ben", "Cy"], "places": ["shop"]}
    for name, values in (content | {"objects": ["ring", "kiss"]}).items():
        (folder / f"{name}.json").write_text(json.dumps(values), "utf-8")
    found = load_dataset("ioi_templates", folder, per_template=4, seed=1)
    accounted(found)
    assert found == load_dataset("ioi_templates", folder, per_template=4, seed=1)
    assert found != load_dataset("ioi_templates", folder, per_template=4, seed=2)
    for case in found:
        names = [word for word in str(case.prompt).replace(",", "").split() if word in "AnnBenCy"]
        assert names.count(case.associative[0]) == 2
        assert names.count(case.contextual[0]) == 1
    assert (
        told(found.report.left_out)["no object of the list goes with the template's article"] == 1
    )


def test_greater_than_moves_the_century_to_the_answers(tmp_path: Path) -> None:
    row = {
        "clean": "The war lasted from the year 1352 to the year 13",
        "corrupted": "The war lasted from the year 1301 to the year 13",
        "label": "52",
    }
    late = {**row, "clean": row["clean"].replace("1352", "1399"), "label": "99"}
    early = {**row, "clean": row["clean"].replace("1352", "1302"), "label": 2}  # 02 in a CSV
    found = read(tmp_path, "greater_than", [row, late, early, {**row, "label": "51"}])
    case = found[0]
    assert case.prompt == "The war lasted from the year 1352 to the year"
    assert case.contextual == tuple(f"13{y}" for y in range(53, 100))
    assert case.associative == tuple(f"13{y:02d}" for y in range(2, 53))
    assert case.cue == ("1352",)
    assert case.neutral[0] == AlignedPrompt(
        "The war lasted from the year 1301 to the year", (("1352", "1301"),)
    )
    assert found[1].associative == ("1302",)
    assert sum(told(found.report.left_out).values()) == 2


def test_agreement_keeps_the_last_word_for_the_answer(tmp_path: Path) -> None:
    row = {
        "clean_prefix": "The uncles behind the dog",
        "patch_prefix": "The uncle behind the dog",
        "clean_answer": " do",
        "patch_answer": " does",
        "case": "plural_singular",
    }
    inner = {
        **row,
        "clean_prefix": "The uncle that the dogs",
        "patch_prefix": "The uncle that the dog",
    }
    simple = {**row, "clean_prefix": "The uncle", "patch_prefix": "The uncles"}
    odd = {**row, "patch_prefix": "Uncles behind"}
    found = read(tmp_path, "agreement", [row, inner, simple, odd])
    assert [(c.cue, c.subject) for c in found] == [(("uncles",), None), ((), "uncle"), ((), None)]
    assert all(case.swap for case in found)
    last = "the noun is the last word, where the answer is read"
    assert told(found.report.lacking) == {
        f"subject: {last}": 1,
        f"cue: {last}": 2,
        "subject: the sentence has one noun": 1,
    }


def test_mib_rows_take_the_counterfactual_that_flips(tmp_path: Path) -> None:
    stem = "Ann and Ben went out. {} gave a ring to"
    row = {
        "prompt": stem.format("Ann"),
        "choices": ["Ben", "Ann"],
        "answerKey": 0,
        "abc_counterfactual": {"prompt": stem.format("Cy"), "choices": ["Cy"], "answerKey": 0},
        "s2_io_flip_counterfactual": {
            "prompt": stem.format("Ben"),
            "choices": ["Ann", "Ben"],
            "answerKey": 0,
        },
    }
    letters = {"prompt": "Which?", "choices": {"text": ["red", "blue"]}, "answerKey": "B"}
    found = read(tmp_path, "mib", [row, {**letters, "x": 1}, {**letters, "answerKey": "E"}])
    assert found[0].contextual == ("Ben",)
    assert found[0].associative == ("Ann",)
    assert found[0].swap[0].prompt == stem.format("Ben")  # type: ignore[union-attr]
    assert found[1].contextual == ("blue",)
    assert found[1].swap == ()


# -- senses --------------------------------------------------------------------------------


def test_wordnet_gives_concept_words_that_are_no_answers(tmp_path: Path) -> None:
    fish = {
        "synset": "1",
        "field": "animal",
        "definition": "a freshwater fish with spiny fins",
        "synonyms": ["perch"],
        "hypernym": ["fish"],
        "example": ["he caught a bass."],
    }
    tool = {
        "synset": "2",
        "field": "artifact",
        "definition": "the deepest instrument of a fish band",
        "synonyms": ["bass guitar"],
        "hypernym": ["instrument"],
        "example": ["she tuned it"],
    }
    found = read(tmp_path, "wordnet", [{"lemma": "bass", "senses": [fish, tool]}])
    (case,) = found
    assert case.contextual == ("fish",)
    assert case.associative == ("instrument",)
    assert case.context_words == ("perch", "freshwater", "spiny", "fins")
    assert case.competing_words == ("deepest", "band")
    assert told(found.report.left_out) == {"no example of the sense that holds the word": 1}


def test_homographs_count_bytes(tmp_path: Path) -> None:
    names = "homograph\twordid\tlabel\tpronunciation\thomograph_type\n"
    (tmp_path / "wordids.tsv").write_text(
        names + "bass\tbass\tmusic\tx\tLexical\nbass\tbass_corp\tanimal / fish\tx\tLexical\n"
        "use\tuse_nou\tnoun\tx\tLexical\nuse\tuse_vrb\tverb\tx\tLexical\n",
        "utf-8",
    )
    sentence = "Zo\u00eb plays bass."
    start = len("Zo\u00eb plays ".encode())
    assert start != sentence.index("bass")
    head = "homograph\twordid\tsentence\tstart\tend\n"
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / "bass.tsv").write_text(
        head + f"bass\tbass\t{sentence}\t{start}\t{start + 4}\n"
        f"bass\tbass\t{sentence}!\t{start - 1}\t{start + 3}\n"
        "use\tuse_nou\tNo use.\t3\t6\n",
        "utf-8",
    )
    found = load_dataset("homographs", tmp_path)
    accounted(found)
    (case,) = found
    assert case.contextual == ("music",)
    assert case.associative == ("animal", "fish")
    assert told(found.report.left_out) == {
        "the bytes named are not the word": 1,
        "its pronunciations are parts of speech, not senses with names": 1,
    }
    (folder.parent / "wordids.tsv").unlink()
    with pytest.raises(InputError, match=r"expected wordids\.tsv beside"):
        load_dataset("homographs", folder / "bass.tsv")


# -- rows of one's own ---------------------------------------------------------------------


def test_own_rows_with_a_column_map(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "text": "The bass is a",
            "gold": "['fish', 'animal']",
            "wrong": "tool|instrument",
            "hallucinated": "x",
            "note": 3,
            "chat": "",
            "label": 1,
        },
        {"text": "", "gold": "fish", "wrong": "x"},
        {"text": "One bass is a", "gold": "fish", "subject": "perch"},
    ]
    how = {"prompt": "text", "contextual": "gold", "hallucinated_answer": "wrong"}
    found = read(tmp_path, "own", rows, column_map=how, separator="|")
    assert found[0].contextual == ("fish", "animal")
    assert found[0].associative == ("tool", "instrument")
    assert found[0].label == "1"
    assert found.extra[found[0].case_id]["note"] == 3
    assert "not read: hallucinated, note" in found.report.detected[0]
    assert told(found.report.left_out) == {"no prompt or no contextual answer": 1}


def test_a_cases_file_reads_back_the_same(tmp_path: Path) -> None:
    found = read(tmp_path, "memotrap", [
        {"prompt": 'Ends in the word "a": so', "classes": "[' a', ' b']", "answer_index": 0}
    ])  # fmt: skip
    path = found.save(tmp_path / "cases.jsonl")
    assert list(load_cases(path)) == list(found)
    assert list(load_dataset(str(path))) == list(found)  # told from its columns


# -- HALoGEN -------------------------------------------------------------------------------


def replied(**row: Any) -> dict[str, Any]:
    return {"atomic_units": "[]", "hallucinated_atomic_units": "[]"} | row


def test_halogen_stops_at_the_first_distinguishing_word(tmp_path: Path) -> None:
    prompt = "List 8 planets in the solar system that contain the letter 't'."
    row = replied(
        prompt=prompt,
        response="Sure:\n\n1. Saturn\n2. Titan\n3. Theia",
        atomic_units="['Saturn', 'Titan', 'Theia']",
        hallucinated_atomic_units="['theia', 'titan', 'vesta', 'titan']",
        list_condition="['Jupiter', 'Saturn', 'Neptune']",
        val="8",
        list_name="planets",
    )
    none = replied(**(row | {"hallucinated_atomic_units": "set()"}))
    broken = replied(**(row | {"atomic_units": "[1,"}))
    found = read(tmp_path, "halogen", [row, none, broken])
    assert [(c.associative, c.prefix) for c in found] == [
        (("Theia",), "\nSure:\n\n1. Saturn\n2. Titan\n3."),
        (("Titan",), "\nSure:\n\n1. Saturn\n2."),
    ]
    assert found[0].contextual == ("Jupiter", "Neptune")  # Saturn was said
    assert found.report.units == 5
    assert told(found.report.left_out) == {
        "the reply does not say the atom in words of its own": 1,
        "no false atom": 1,
        "its atoms are no list": 1,
    }


def test_halogen_counts_and_yes_or_no_have_a_right_answer(tmp_path: Path) -> None:
    numbers = replied(
        prompt="How many planets contain letter a.",
        response="Of the 8 planets, 3 of them do:\nMercury",
        atomic_units="[3, 'mercury']",
        hallucinated_atomic_units="{'3', 'mercury'}",
        list_condition="['earth', 'mars', 'saturn', 'uranus']",
        count="4",
    )
    found = read(tmp_path, "halogen", [numbers])
    assert {c.associative[0]: c.contextual for c in found} == {
        "3": ("4",),
        "Mercury": ("earth", "mars", "saturn", "uranus"),
    }
    binary = replied(
        prompt="Is 8089 a prime number?",
        response="No. It is 3 x 5.",
        atomic_units="['no', 3, 5]",
        hallucinated_atomic_units="['no', 3]",
        category="primality",
    )
    found = read(tmp_path, "halogen", [binary])
    assert [(c.contextual, c.associative, c.prefix) for c in found] == [(("yes",), ("No",), "\n")]
    assert "names no true answer" in next(iter(told(found.report.left_out)))


BIO = replied(
    prompt="Tell me a bio of Anna",
    response="Anna was born in 1903. She is a poet in the city. She is at the lake.",
    atoms="| Anna was born in 1903. | False |\n| Anna is a poet.\tTrue |\n",
    **{"hallucinated atoms": "| Anna was born in 1903. |\n| She is at the lake. |\n"},
)
CODE = replied(
    prompt="Write a Python program that reads",
    response="Use the lake module:\nimport os\nimport lake\n",
    atomic_units="['os', 'lake']",
    hallucinated_atomic_units="['lake']",
)


def test_halogen_without_a_true_answer_asks_a_model(tmp_path: Path) -> None:
    path = lines(tmp_path / "bio.jsonl", [{k: v for k, v in BIO.items() if "units" not in k}])
    with pytest.raises(InputError, match=r"No row of .* names no true answer .*model=.* \(2\)"):
        load_dataset("halogen", path)
    tokenizer = tiny.byte_bpe()
    model = load(tiny.model("gpt2", len(tokenizer)), tokenizer=tokenizer, check=False)
    # An untrained model is sure of nothing: no word reaches p = .01 and every atom is counted.
    with pytest.raises(
        InputError, match=r"the model has no other word to give \(CaseError\) \(2\)"
    ):
        load_dataset("halogen", path, model=model)


def test_halogen_takes_the_models_likeliest_other_word(tmp_path: Path) -> None:
    row = replied(
        prompt="Anna is at the lake .",
        response="Anna sees a bass . ",
        atomic_units="| Anna sees a bass. | False |",
        hallucinated_atomic_units="| Anna sees a bass. |",
    )
    # Neither the prompt nor a true atom says "sees"; after "Anna" the model would say "hears".
    model = planted({"sees": 9.0, "hears": 7.0, "is": 8.0}, prompt="Anna is at the lake . Anna")
    (case,) = found = read(tmp_path, "halogen", [row], task="biographies", model=model)
    assert case.prefix == "\nAnna"
    assert case.associative == ("sees",)
    assert case.contextual == ("hears",)  # "is" is likelier and no word that could be an answer
    assert told(found.report.derived)["contextual: the likeliest other word of planted"] == 1


def test_halogen_places_of_sentences_modules_and_verdicts() -> None:
    from dst.studies.adapters import halogen
    from dst.studies.adapters.reading import Row

    def said(task: str, row: dict[str, Any]) -> list[str | None]:
        reply = halogen.read_reply(Row(1, row, "x.csv"), task)
        places = [halogen._said(task, reply, atom) for atom in reply.false]
        return [reply.text[a : b + 5] if (a, b) else None for a, b in filter(None, places)]

    bio = {k: v for k, v in BIO.items() if "units" not in k}
    assert said("biographies", bio) == ["born in 1", "lake."]
    shared = bio | {
        "response": "Later Anna was a poet in Rome.",
        "atoms": "| Anna was a poet. | True |\n| The poet was in Rome. | False |",
        "hallucinated atoms": "| The poet was in Rome. |",
    }
    assert said("biographies", shared) == ["Rome."]  # "poet" is a true atom's word too
    assert said("code", CODE) == ["lake\n"]  # the import, not the first mention
    history = replied(
        prompt="Tell me about the famous meeting between Anna and Ben.",
        response="Anna and Ben met in Rome.",
        hallucinated_atomic_units="['yes']",
    )
    assert said("historical events", history) == ["met in R"]


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ({"name1": "x", "prompt": "Tell me about"}, "historical events"),
        ({"val": "1", "list_condition": "[]", "prompt": "List"}, "false presuppositions"),
        ({"list_condition": "[]", "prompt": "How many"}, "rationalization numerical"),
        ({"category": "graph", "prompt": "Is there"}, "rationalization binary"),
        ({"prompt": " Find relevant scientific or academic references"}, "references"),
        ({"prompt": "Tell me a bio of Anna"}, "biographies"),
        ({"prompt": "Write a Python program that"}, "code"),
        ({"passage": "x", "file": "m_simplification.csv"}, "simplification"),
        ({"passage": "x", "file": "m_summarization.csv"}, "summarization"),
    ],
)
def test_halogen_tells_its_nine_tasks(row: dict[str, str], task: str) -> None:
    from dst.studies.adapters import halogen
    from dst.studies.adapters.reading import Row

    row = dict(row)
    file = row.pop("file", "rows.csv")
    assert halogen.task_of(Row(1, row, file), None) == task
    assert task in halogen.TASKS
    assert len(halogen.TASKS) == 9


def test_halogen_prompts_alone_have_an_answer_in_three_tasks(tmp_path: Path) -> None:
    items = {"prompt": "List 3 planets", "list_condition": "[]", "val": "3"}
    (case,) = read(tmp_path, "halogen", [items])
    assert case.contextual == ("no response",)
    assert case.associative == ()
    with pytest.raises(InputError, match="replies have to be verified before they are traced"):
        read(tmp_path, "halogen", [{"prompt": "Tell me a bio of Anna", "name": "Anna"}])
    with pytest.raises(InputError, match="task is 'poems'"):
        read(tmp_path, "halogen", [items], task="poems")
    with pytest.raises(InputError, match="cannot be told"):
        read(tmp_path, "halogen", [{"prompt": "Sing"}])


# -- what all share ------------------------------------------------------------------------


def test_the_limit_stops_early_and_chat_reaches_every_case(tmp_path: Path) -> None:
    rows = [{"prompt": f"bass {i} is a", "contextual": "fish"} for i in range(9)]
    found = load_dataset("own", lines(tmp_path / "a.jsonl", rows), limit=3, chat=True)
    assert len(found) == 3
    assert found.report.rows == 9
    assert found.report.units == 3
    assert all(case.is_chat for case in found)
    assert found.report.detected[-1].startswith("stopped at 3 cases")


def test_a_split_is_a_column_of_a_file(tmp_path: Path) -> None:
    rows = [{"prompt": f"{s} bass", "contextual": "x", "split": s} for s in ("dev", "test")]
    assert load_dataset("own", lines(tmp_path / "a.jsonl", rows), split="dev")[0].text == "dev bass"


def test_an_aligned_variant_fits_a_tokenizer_that_splits_words_unequally() -> None:
    tokenizer = tiny.byte_bpe()
    prompt = "Anna is at the lake. the bass is a guitar. the bass is a"
    variant = aligned(prompt, prompt.replace("guitar", "the bass"))
    assert variant.aligned[0][1].startswith("the bass.")  # not the first "the bass"
    case = dst.Case(
        prompt=prompt, contextual="guitar", associative="fish", subject="bass", swap=[variant]
    )
    base = tokenize_case(tokenizer, case)
    (row,) = tokenize_variants(tokenizer, base).swap
    after = prompt.index("guitar.") + len("guitar.")
    matched = [
        (i, row.places[i]) for i, (start, _) in enumerate(base.encoding.offsets) if start >= after
    ]
    assert all(base.ids[i] == row.ids[place] for i, place in matched)
    assert len(row.ids) != len(base.ids)


def test_every_adapter_states_licence_kind_and_layouts() -> None:
    from dst.studies.labels import KINDS

    for name, adapter in ADAPTERS.items():
        assert adapter.licence, name
        assert adapter.layouts, name
        assert adapter.kind in KINDS, name


# -- the hub -------------------------------------------------------------------------------


def test_the_hub_reads_a_local_folder_as_it_would_an_id(tmp_path: Path) -> None:
    from dst.studies.adapters.hub import hub_rows

    folder = tmp_path / "some" / "set"
    folder.mkdir(parents=True)
    lines(folder / "train.jsonl", [ANSWERS])
    (row,) = hub_rows(str(folder), None, None)
    assert row.values["Best Answer"] == "Right"


def test_offline_is_a_sentence() -> None:
    with pytest.raises(
        InputError, match=r"The data set nobody/nothing cannot be read from the hub"
    ):
        load_dataset("nobody/nothing")
    with pytest.raises(InputError, match="fetch its file and give path="):
        load_dataset("memotrap")


def test_a_data_set_that_is_a_script_is_read_from_its_parquet_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []

    def answer(of: str, **how: Any) -> Any:
        asked.append({"of": of, **how})
        if "revision" not in how:
            raise RuntimeError("Dataset scripts are no longer supported, but found x.py")
        return [ANSWERS]

    stand_in = types.ModuleType("datasets")
    stand_in.load_dataset = answer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    (case,) = load_dataset("truthfulqa")
    assert case.contextual[0] == "Right"
    known = {"of": "truthfulqa/truthful_qa", "name": "generation", "split": "validation"}
    assert asked == [known, known | {"revision": "refs/convert/parquet"}]

    stand_in.load_dataset = lambda of, **how: {"a": [ANSWERS], "b": []}  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="has the splits a, b"):
        load_dataset("somebody/questions")
    stand_in.load_dataset = lambda of, **how: {"a": [ANSWERS]}  # type: ignore[attr-defined]
    assert load_dataset("somebody/questions").report.name == "truthfulqa"
