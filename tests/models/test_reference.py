"""Reference sentences and neutral nouns: shipped ones, or those of a model's folder."""

from __future__ import annotations

from pathlib import Path

from dst.models.reference import neutral_nouns, reference_sentences
from dst.models.variants import shipped_nouns


def test_there_are_two_hundred_plain_sentences() -> None:
    sentences = reference_sentences()
    assert len(sentences) == len(set(sentences)) == 200
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in sentences)
    said = " ".join(sentences)
    assert all(noun in said for noun in shipped_nouns())


def test_no_sentence_says_a_noun_twice() -> None:
    for sentence in reference_sentences():
        nouns = [word.strip(".") for word in sentence.split() if word.strip(".") in shipped_nouns()]
        assert len(nouns) == len(set(nouns)) == 2, sentence


def test_a_models_folder_may_bring_its_own(tmp_path: Path) -> None:
    (tmp_path / "reference_sentences.txt").write_text("a bat is a bat .\n\nthe lake is green .\n")
    (tmp_path / "neutral_nouns.txt").write_text("bat\nlake\n")
    assert reference_sentences(str(tmp_path)) == ("a bat is a bat .", "the lake is green .")
    assert neutral_nouns(str(tmp_path)) == ("bat", "lake")
    assert neutral_nouns(str(tmp_path / "none")) == shipped_nouns()
    assert neutral_nouns("org/model") == shipped_nouns()
