"""Every data set beside the repository: each row a case or counted, and the counts of the docs.

Skipped where the data are not there. The numbers are those of `docs/datasets.md`.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dst.core.case import AlignedPrompt, Case, load_cases, mentions
from dst.models.tokens import tokenize_case
from dst.models.variants import tokenize_variants
from dst.studies.datasets import Dataset, load_dataset

COMP_MECH = "counterfact_compmech/full_data_sampled_"

# name, path, options, rows, cases; the large ones in full by `make check-all`
SMALL: list[tuple[str, str, dict[str, Any], int, int]] = [
    ("memotrap", "memotrap", {}, 2539, 2502),
    ("winobias", "llmsknow", {}, 3168, 3162),
    ("truthfulqa", "truthfulqa/TruthfulQA.csv", {}, 790, 790),
    ("truthfulqa", "truthfulqa/data/v1/TruthfulQA.csv", {}, 817, 817),
    ("truthfulqa", "truthfulqa/data/mc_task.json", {}, 790, 790),
    ("truthfulqa", "truthfulqa/data/v1/mc_task.json", {}, 817, 817),
    ("halueval", "halueval/generation/qa", {}, 1000, 987),
    ("halueval", "halueval/generation/qa", {"judge": True}, 1000, 1487),
    ("known_1000", "known_1000/known_1000.json", {}, 1209, 1209),
    ("ioi", "known_1000/ioi.json", {}, 841, 841),
    ("ioi", "eap_ig/ioi_llama.csv", {}, 499, 499),
    ("greater_than", "eap_ig/greater_than_data.csv", {}, 1000, 975),
    ("ioi_templates", "mib/IOI_task", {}, 70, 195),
    ("winogender", "winogender", {}, 720, 720),
]
LARGE: list[tuple[str, str, dict[str, Any], int, int]] = [
    ("counterfact", f"{COMP_MECH}gpt2_with_subjects.json", {}, 10000, 10000),
    ("counterfact", f"{COMP_MECH}pythia-6.9b.json", {}, 10000, 10000),
    ("lre", "lre_relations", {}, 47, 10997),
    ("agreement", "feature_circuits", {}, 5400, 3997),
    ("wordnet", "wordnet_polysemy", {}, 2108, 2181),
    ("homographs", "wikipedia_homographs", {}, 16102, 1581),
]
REAL = [*SMALL, *(pytest.param(*large, marks=pytest.mark.full) for large in LARGE)]
QUICK = 400
"""Cases of a data set that are looked at one by one."""


@pytest.mark.parametrize(("name", "path", "options", "rows", "cases"), REAL)
def test_every_row_is_a_case_or_is_counted(
    shared_data: Path, name: str, path: str, options: dict[str, Any], rows: int, cases: int
) -> None:
    found = load_dataset(name, shared_data / path, **options)
    report = found.report
    assert (report.rows, report.cases, len(found)) == (rows, cases, cases)
    assert report.cases + sum(count.n for count in report.left_out) == report.units
    assert len({case.case_id for case in found}) == len({c.content_hash() for c in found}) == cases
    for case in sample(found):
        assert Case.from_dict(case.to_dict()) == case
    for case in found:
        for variant in (*case.swap, *case.neutral):
            assert isinstance(variant, AlignedPrompt)
            ((ours, theirs),) = variant.aligned
            start, end = mentions(case.text, ours)[0]
            assert f"{case.text[:start]}{theirs}{case.text[end:]}" == variant.prompt


@pytest.mark.parametrize(("name", "path", "options", "rows", "cases"), LARGE)
def test_the_first_rows_of_the_large_ones(
    shared_data: Path, name: str, path: str, options: dict[str, Any], rows: int, cases: int
) -> None:
    found = load_dataset(name, shared_data / path, limit=50, **options)
    assert len(found) == 50
    assert sum(count.n for count in found.report.left_out) == found.report.units - 50


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("memotrap", "memotrap/1-proverb-ending.csv"),
        ("truthfulqa", "truthfulqa/TruthfulQA.csv"),
        ("winogender", "winogender/all_sentences.tsv"),
        ("known_1000", "known_1000/known_1000.json"),
        ("greater_than", "eap_ig/greater_than_data.csv"),
        ("ioi", "eap_ig/ioi_llama.csv"),
        ("winobias", "llmsknow/winobias_dev.csv"),
        ("halueval", "halueval/generation/qa/qa_one-turn_data.json"),
        ("agreement", "feature_circuits/simple_test.json"),
        ("wordnet", "wordnet_polysemy/senses.jsonl"),
        ("lre", "lre_relations/bias/name_gender.json"),
    ],
)
def test_a_data_set_is_told_from_its_columns(shared_data: Path, name: str, path: str) -> None:
    assert load_dataset(str(shared_data / path), limit=1).report.name == name


def sample(found: Dataset) -> list[Case]:
    return random.Random(0).sample(list(found), min(QUICK, len(found)))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("counterfact", f"{COMP_MECH}gpt2_with_subjects.json"),
        ("memotrap", "memotrap/1-proverb-ending.csv"),
        ("ioi", "eap_ig/ioi_llama.csv"),
        ("greater_than", "eap_ig/greater_than_data.csv"),
        ("agreement", "feature_circuits/nounpp_test.json"),
    ],
)
def test_real_variants_are_aligned_token_by_token(shared_data: Path, name: str, path: str) -> None:
    """Roles, answers and variants of real rows, in a tokenizer that splits words unequally."""
    cases = load_dataset(name, shared_data / path, limit=60)
    said = [f"{case.text} {form.strip()} " for case in cases for form in answers(case)]
    tokenizer = trained(said)
    for case in cases:
        base = tokenize_case(tokenizer, case)
        for role, given in (("subject", case.subject), ("cue", case.cue)):
            assert bool(base.positions_of(role)) == bool(given)
        variants = tokenize_variants(tokenizer, base)
        for row in (*variants.swap, *variants.neutral):
            assert row.places[-1] == len(row.ids) - 1
            other = [p for p, place in enumerate(row.places) if place < 0]
            assert len(other) <= len(base.encoding.positions([whole_span(case)]))


def answers(case: Case) -> tuple[str, ...]:
    return (*case.contextual[:9], *case.associative[:9])


def whole_span(case: Case) -> tuple[int, int]:
    variant = (*case.swap, *case.neutral)[0]
    assert isinstance(variant, AlignedPrompt)
    return mentions(case.text, variant.aligned[0][0])[0]


def trained(texts: Iterable[str]) -> Any:
    """Byte-level BPE of 600 pieces: a space goes with its word, rare words are cut up."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    capitals = [f" {letter}" * 9 for letter in string.ascii_letters + string.digits]
    tokenizer.train_from_iterator([*texts, *capitals], trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_real_cases_are_written_and_read(shared_data: Path, tmp_path: Path) -> None:
    found = load_dataset("memotrap", shared_data / "memotrap")
    path = found.save(tmp_path / "cases.jsonl")
    assert list(load_cases(path)) == list(found)


def test_real_chinese_and_cyrillic_stay(shared_data: Path) -> None:
    found = load_dataset("memotrap", shared_data / "memotrap" / "2-proverb-translation.csv")
    assert found[0].cue == ("\u7f3a\u5e2d\u4f7f\u5fc3\u810f\u53d8\u5f97\u6c89\u91cd\u3002",)


def test_real_targets_keep_their_leading_space(shared_data: Path) -> None:
    path = shared_data / f"{COMP_MECH}gpt2_with_subjects.json"
    found = load_dataset("counterfact", path, limit=50)
    assert all(case.contextual[0].startswith(" ") for case in found)
    assert all(case.contextual[0] in case.text for case in found)
    assert len(found) == 50
