"""Labels on models whose probabilities are planted, and on the world's cases."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dst
from dst.analysis.readout import log_softmax
from dst.core.case import Case
from dst.core.errors import CaseError, InputError
from dst.core.label_results import Labels
from dst.core.results import Provenance, open_result
from dst.models.backend import Backend
from dst.models.load import load
from dst.models.tokens import tokenize_case
from dst.studies import labels
from dst.studies.adapters.account import Dataset
from dst.studies.adapters.halogen import ABSTAINED
from dst.studies.datasets import load_dataset
from dst.studies.labels import KINDS, halogen_report, label, rates, yes_bias
from dst.studies.sampling import sample_outcomes
from dst.studies.worker import labels_named, with_labels
from tests import tiny
from tests.studies.planted import PROMPT, planted

FISH = Case(prompt=PROMPT, contextual="fish", associative="instrument", group="bass")


def probabilities(model: Backend, *words: str) -> list[float]:
    ids = model.tokenizer(PROMPT)["input_ids"]
    logits = model.run([ids], logits_at=[-1]).last_logits[0].numpy()
    prob = np.exp(log_softmax(logits))
    return [float(prob[model.tokenizer.get_vocab()[word]]) for word in words]


# -- greedy and contrast ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "greedy", "contrast"),
    [
        ({"fish": 4.0, "instrument": 2.0}, "correct", "correct"),
        ({"fish": 2.0, "instrument": 4.0}, "hallucination", "hallucination"),
        ({"fish": 2.0, "instrument": 1.0, "lake": 9.0}, "neither", "correct"),
    ],
)
def test_invalid_answers_are_counted_apart(
    logits: dict[str, float], greedy: str, contrast: str
) -> None:
    model = planted(logits)
    assert label(model, [FISH]).outcome == (greedy,)
    found = label(model, [FISH], "contrast")
    assert found.outcome == (contrast,)
    assert found.numbers["label_contrast"][0] == pytest.approx(
        logits["fish"] - logits["instrument"], abs=1e-3
    )


def test_an_error_is_1_0_or_nan() -> None:
    model = planted({"fish": 4.0, "instrument": 2.0, "guitar": 3.0})
    cases = [
        FISH,
        FISH.replace(contextual="instrument", associative="fish"),
        FISH.replace(contextual="guitar", associative="song"),
        FISH.replace(contextual="unheard"),
    ]
    found = label(model, cases)
    assert found.outcome == ("correct", "hallucination", "neither", "")
    np.testing.assert_array_equal(found.error, [0, 1, math.nan, math.nan])
    assert found.counts() == {"correct": 1, "hallucination": 1, "neither": 1, "unlabelled": 1}
    assert "does not know the answer 'unheard'" in found.reason[3]
    assert (
        str(found) == "4 cases by greedy_token: 1 correct, 1 hallucination, 1 neither, 1 unlabelled"
    )
    row = found.to_records()[1]
    assert (row["outcome"], row["error"], row["greedy_token"]) == ("hallucination", 1.0, "fish")


# -- samples -----------------------------------------------------------------------------


def test_sampled_rates_agree_with_the_models_own_probabilities() -> None:
    model = planted({"fish": 3.0, "instrument": 2.5, "lake": 2.0})
    p_fish, p_instrument = probabilities(model, "fish", "instrument")
    n = 20_000
    counts = sample_outcomes(model, FISH, samples=n, seed=3)
    for name, p in (("correct", p_fish), ("hallucination", p_instrument)):
        assert counts[name] == pytest.approx(n * p, abs=4 * math.sqrt(n * p * (1 - p)))
    assert sum(counts.values()) == n


def test_samples_depend_on_seed_and_case_alone() -> None:
    model = planted({"fish": 3.0, "instrument": 2.9})
    one, two = (label(model, [FISH], "sampled", seed=seed) for seed in (1, 2))
    again = label(model, [FISH.replace(group="x"), FISH], "sampled", seed=1)
    assert one.numbers["error_rate"][0] == again.numbers["error_rate"][1]
    draws = [sample_outcomes(model, FISH, samples=200, seed=seed) for seed in range(6)]
    assert len({tuple(sorted(d.items())) for d in draws}) > 1
    assert one.provenance.seed == 1
    assert two.provenance.seed == 2
    low, high = (one.numbers[f"error_rate_{end}"][0] for end in ("low", "high"))
    assert 0 <= low <= one.numbers["error_rate"][0] <= high <= 1
    with pytest.raises(InputError, match="at least 20"):
        sample_outcomes(model, FISH, samples=19)


def test_answers_of_several_tokens_are_sampled_as_chains() -> None:
    """The rate of a chain is the product of its steps, read by separate runs."""
    tokenizer = tiny.byte_bpe()
    model = load(tiny.model("gpt2", len(tokenizer), scale=6.0), tokenizer=tokenizer, check=False)
    case = Case(prompt="the bass is a", contextual=" qu", associative=" b")
    ids = tokenizer("the bass is a")["input_ids"]

    def chain(text: str) -> float:
        forms, total = tokenizer(f"the bass is a{text}")["input_ids"][len(ids) :], 0.0
        for i in range(len(forms)):
            logits = model.run([[*ids, *forms[:i]]], logits_at=[-1]).last_logits[0].numpy()
            total += float(log_softmax(logits)[forms[i]])
        return math.exp(total)

    seen = tokenize_case(tokenizer, case)
    assert max(len(answer.ids) for answer in (*seen.contextual, *seen.associative)) > 1
    # Both begin with the token of a space: it is given to the model, so rates are conditional.
    given = chain(" ") if seen.shared else 1.0
    n = 40_000
    counts = sample_outcomes(model, case, samples=n, seed=0)
    for name, answers in (("correct", seen.contextual), ("hallucination", seen.associative)):
        p = sum(chain(answer.form) for answer in answers) / given
        assert counts[name] == pytest.approx(n * p, abs=5 * math.sqrt(n * p) + 1)


# -- yes and no --------------------------------------------------------------------------


def yes_no_words() -> tuple[str, str]:
    """Two words of the small vocabulary that stand for yes and no."""
    return "fish", "instrument"


def test_yes_no_sums_forms_and_tells_invalid_answers_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    yes, no = yes_no_words()
    monkeypatch.setattr(labels, "_polarity", lambda forms: "yes" if yes in forms else "no")
    asked = [FISH, FISH.replace(contextual=no, associative=yes)]
    found = label(planted({yes: 6.0, no: 5.0}), asked, "yes_no")
    assert found.texts["gold"] == ("yes", "no")
    assert found.texts["said"] == ("yes", "yes")
    assert found.outcome == ("correct", "hallucination")
    report = yes_bias(found)
    assert (report.accuracy_yes, report.accuracy_no, report.balanced_accuracy) == (1, 0, 0.5)
    assert report.yes_bias == 0.5
    assert report.provenance.settings["kind"] == "yes_no"
    silent = label(planted({"lake": 12.0}), asked, "yes_no")
    assert silent.texts["said"] == ("invalid", "invalid")
    assert silent.outcome == ("neither", "neither")
    assert "No valid answer" in yes_bias(silent).reason
    with pytest.raises(InputError, match="of the kind greedy_token"):
        yes_bias(label(planted({}), asked))


def test_polarity_is_read_from_the_right_answer() -> None:
    assert labels._polarity(("Yes", " TRUE")) == "yes"
    assert labels._polarity(("no",)) == "no"
    with pytest.raises(CaseError, match="yes or no, true or false"):
        labels._polarity(("fish",))


# -- whole texts -------------------------------------------------------------------------


def test_choices_are_scored_by_their_whole_log_probability() -> None:
    tokenizer = tiny.byte_bpe()
    model = load(tiny.model("llama", len(tokenizer)), tokenizer=tokenizer, check=False)
    case = Case(
        prompt="Q: What is the bass?\nA:",
        contextual=["a fish", "an animal in the lake"],
        associative=["a guitar", "an instrument"],
    )
    choices = (*case.contextual, *case.associative)
    got = labels.choice_log_probs(model, case, choices)
    ids = tokenizer(case.text)["input_ids"]
    for choice, value in zip(choices, got, strict=True):
        whole = tokenizer(f"{case.text} {choice}")["input_ids"]
        assert whole[: len(ids)] == ids
        logits = model.run([whole]).logits[0].numpy()
        steps = log_softmax(logits)[np.arange(len(ids) - 1, len(whole) - 1), whole[len(ids) :]]
        assert value == pytest.approx(steps.sum(), abs=1e-4)
    found = label(model, [case], "multiple_choice")
    p = np.exp(got)
    assert found.numbers["mc2"][0] == pytest.approx(p[:2].sum() / p.sum(), abs=1e-6)
    assert found.numbers["mc1"][0] == float(got[0] > got[2:].max())
    assert found.texts["choice"][0] == choices[int(got.argmax())]
    alone = label(model, [case.replace(associative=())], "multiple_choice")
    assert alone.reason == ("The case has no wrong choice. Give associative answers.",)


def test_generation_is_matched_to_either_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = planted({"fish": 9.0})
    said = {"text": "fish ."}
    vocabulary = model.tokenizer.get_vocab()
    monkeypatch.setattr(
        type(model), "generate", lambda self, ids, n: [vocabulary[w] for w in said["text"].split()]
    )
    bare = FISH.replace(associative=())
    other = FISH.replace(contextual="instrument", associative="fish")
    found = label(model, [FISH, other, bare], "generation")
    assert found.outcome == ("correct", "hallucination", "correct")
    assert found.texts["generated"][0].startswith("fish")
    said["text"] = "guitar"
    found = label(model, [FISH, bare], "generation")
    assert found.outcome == ("neither", "hallucination")  # no wrong answer named: any other is one
    said["text"] = "."
    assert label(model, [bare], "generation").outcome == ("neither",)
    said["text"] = "a fish"
    assert label(model, [bare], "generation", match="exact").outcome == ("correct",)
    with pytest.raises(InputError, match="exact, starts or contains"):
        label(model, [bare], "generation", match="fuzzy")


# -- knowledge, groups, files ------------------------------------------------------------------


def test_the_knowledge_filter_asks_the_clean_variants() -> None:
    model = planted({"fish": 4.0, "instrument": 2.0})
    clean = FISH.replace(clean=[PROMPT])
    wrong = clean.replace(contextual="instrument", associative="fish")
    found = label(model, [clean, wrong, FISH])
    np.testing.assert_array_equal(found.numbers["knows"], [1, 0, math.nan])
    (whole,) = [row for row in rates(found) if row["group"] == "all"]
    assert (whole["error_rate"], whole["n"]) == (1 / 3, 3)
    (known,) = [row for row in rates(found, known=True) if row["group"] == "all"]
    assert (known["error_rate"], known["n"]) == (0.0, 1)
    assert "knows" not in label(model, [FISH], knowledge=False).numbers


def test_rates_of_groups_come_with_wilsons_interval() -> None:
    outcome = ("hallucination", "correct", "correct", "neither", "hallucination")
    found = Labels(
        kind="greedy_token",
        case_id=tuple("abcde"),
        group=("bass", "bass", "bat", "bat", ""),
        outcome=outcome,
        numbers={},
        texts={},
        reason=("",) * 5,
        note="",
        provenance=Provenance(),
    )
    bass, bat, whole = rates(found)
    assert (bass["group"], bass["error_rate"], bass["n"]) == ("bass", 0.5, 2)
    assert (bat["error_rate"], bat["n"], bat["n_invalid"]) == (0.0, 1, 1)
    assert (whole["error_rate"], whole["n"]) == (0.5, 4)
    assert whole["low"] < 0.5 < whole["high"]


def test_labels_are_saved_and_checked(tmp_path: Path) -> None:
    found = label(planted({"fish": 4.0}), [FISH, FISH.replace(contextual="unheard")])
    again = open_result(found.save(tmp_path / "labels.npz"))
    assert again.to_records()[0] == pytest.approx(found.to_records()[0], nan_ok=True)
    assert again.reason == found.reason
    with pytest.raises(ValueError, match="an outcome is one of"):
        found.replace(outcome=("wrong", ""))
    with pytest.raises(ValueError, match="one entry per case"):
        found.replace(group=("x",))


def test_the_kind_is_the_data_sets_unless_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"prompt,contextual,associative\n{PROMPT},fish,instrument\n", "utf-8")
    cases = load_dataset("own", path)
    assert isinstance(cases, Dataset)
    model = planted({"fish": 4.0})
    assert label(model, cases).kind == "greedy_token"
    cases.kind = "contrast"
    assert label(model, cases).kind == "contrast"
    assert label(model, cases, "sampled").kind == "sampled"


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        ("judged", {}, "one of contrast, greedy_token"),
        ("greedy_token", {"samples": 20}, "no setting 'samples'"),
        ("sampled", {"k": 20}, "its settings: samples, seed"),
    ],
)
def test_unknown_kinds_and_settings(kind: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        label(planted({}), [FISH], kind, **settings)


def test_every_kind_is_a_function_of_model_and_case_that_a_study_can_name() -> None:
    model = planted({"fish": 4.0, "instrument": 2.0})
    for kind, (define, note) in KINDS.items():
        if kind == "yes_no":
            continue
        columns = define(model, FISH)
        assert (columns["label_outcome"], columns["label_error"]) == ("correct", 0.0), kind
        assert getattr(labels, define.__name__) is define
        assert note.endswith(".")
        assert not {"outcome", "error", "label", "reason"} & set(columns)


def test_a_study_finds_labels_by_name() -> None:
    model = planted({"fish": 3.0, "instrument": 2.9})
    named = labels_named("dst.studies.labels:sampled")
    assert named is not None
    found = label(model, [FISH], "sampled")
    row = with_labels({"case_id": "a", "outcome": "correct"}, lambda: named(model, FISH))
    assert row["error_rate"] == found.numbers["error_rate"][0]
    assert (row["label_outcome"], row["outcome"]) == (found.outcome[0], "correct")


@pytest.mark.full
def test_a_study_takes_labels_by_name(tmp_path: Path) -> None:
    from dst.testbed import world

    model = dst.load()
    cases = world.cases("test", n=3, seed=0)
    table = dst.run_study(
        model, cases, out=tmp_path / "s", draws=2, measures=(), show_progress=False,
        labels="dst.studies.labels:sampled",
    )  # fmt: skip
    found = label(model, cases, "sampled")
    assert table.column("error_rate") == pytest.approx(list(found.numbers["error_rate"]))
    assert list(table.column("label_outcome")) == list(found.outcome)


@pytest.mark.full
def test_greedy_labels_agree_with_the_whole_account() -> None:
    from dst.testbed import world

    model = dst.load()
    cases = world.cases("test", n=8, seed=1)
    found = label(model, cases, show_progress=False)
    for case, outcome in itertools.islice(zip(cases, found.outcome, strict=True), 2):
        assert dst.explain(model, case, draws=2).outcome == outcome


# -- HALoGEN's scores ----------------------------------------------------------------------


def halogen_file(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def code(response: str, atoms: str, false: str) -> dict[str, str]:
    return {
        "prompt": "Write a Python program that sorts",
        "response": response,
        "atomic_units": atoms,
        "hallucinated_atomic_units": false,
    }


def test_halogen_scores_of_a_file(tmp_path: Path) -> None:
    rows = [
        code("import os, lake", "['os', 'lake']", "['lake']"),
        code("No module is needed.", "[]", "[]"),
        code("I'm sorry, I cannot help.", "['x']", "['x']"),
        code("", "[]", "[]"),
    ]
    scores = halogen_report(halogen_file(tmp_path / "code.csv", rows))
    assert scores.task == "code"
    assert scores.hallucination_score == 0.25
    assert scores.response_ratio == 0.5
    assert scores.utility == (0.5 + 1) / 4
    every = halogen_report(tmp_path / "code.csv", abstains=lambda reply: False)
    assert every.response_ratio == 0.75  # an empty reply is none
    assert every.hallucination_score == pytest.approx((0.5 + 0 + 1) / 3)


def test_halogen_tasks_with_rules_of_their_own(tmp_path: Path) -> None:
    binary = {
        "prompt": "Is 5471 a prime number?",
        "category": "primality",
        "atomic_units": "['no', 3, 3]",
        "hallucinated_atomic_units": "['no', 3, 3]",
    }
    rows = [binary | {"response": reply} for reply in ("No: 3 x 3", "Yes.\nOr no", "no\nyes")]
    scores = halogen_report(halogen_file(tmp_path / "b.csv", rows))
    assert scores.hallucination_score == pytest.approx(2 / 3)  # right in its first line: none

    history = {
        "prompt": "Tell me",
        "name1": "A",
        "response": "They met.",
        "atomic_units": "['yes']",
        "hallucinated_atomic_units": "['yes']",
    }
    rows = [history | {"verified_response": verdict} for verdict in (" Yes.", " No.")]
    scores = halogen_report(halogen_file(tmp_path / "h.csv", rows))
    assert (scores.hallucination_score, scores.utility) == (1.0, 0.5)

    rows = [code("See:", "[]", "[]") | {"s2_ids": "[]"}]
    scores = halogen_report(halogen_file(tmp_path / "r.csv", rows))
    assert (scores.response_ratio, scores.utility, scores.n_answered) == (0.0, 1.0, 0)

    zero = code("0 planets do.", "[0, 'mars']", "{'mars'}") | {"list_condition": "[]"}
    rows = [zero | {"true_answer": "[0]"}, zero | {"true_answer": "[2]"}]
    scores = halogen_report(halogen_file(tmp_path / "n.csv", rows))
    assert scores.hallucination_score == 0.25


@pytest.mark.parametrize(
    ("reply", "abstains"),
    [
        ("I'm sorry, but I cannot help.", True),
        ("I don't know of such a meeting.", True),
        ("There is no record of this meeting.", True),
        ("Unfortunately, nothing is known.", True),
        ("They met in Rome and I doubt it mattered.", False),
        ("import os", False),
    ],
)
def test_what_counts_as_an_abstention(reply: str, abstains: bool) -> None:
    assert bool(ABSTAINED.search(reply)) is abstains
