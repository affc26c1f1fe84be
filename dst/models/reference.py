"""Reference sentences: ordinary text against which a state or a word is ordinary or not."""

from __future__ import annotations

from pathlib import Path

from dst.models.variants import shipped_nouns

FRAMES = (
    "The {} is near the {}.",
    "There is a {} and a {} here.",
    "We saw the {} behind the {}.",
    "He put the {} next to the {}.",
    "The {} was older than the {}.",
    "She drew a {} and then a {}.",
    "Nobody had moved the {} or the {}.",
    "They talked about the {} and the {}.",
)
SENTENCES = "reference_sentences.txt"


def reference_sentences(folder: str | Path | None = None) -> tuple[str, ...]:
    """200 sentences: those of a model's folder if it ships some, else plain English ones.

    The English ones put the shipped neutral nouns into a few frames, so that they have no
    topic; a model with a closed vocabulary brings its own.
    """
    own = Path(folder) / SENTENCES if folder is not None else None
    if own is not None and own.is_file():
        return tuple(line for line in own.read_text("utf-8").splitlines() if line.strip())
    nouns = shipped_nouns()
    return tuple(
        FRAMES[i % len(FRAMES)].format(noun, nouns[(i * 7 + 3) % len(nouns)])
        for i, noun in enumerate(nouns)
    )




def neutral_nouns(folder: str | Path | None = None) -> tuple[str, ...]:
    """The nouns that neutral variants are drawn from: a model's own list, else the shipped one."""
    own = Path(folder) / "neutral_nouns.txt" if folder is not None else None
    if own is not None and own.is_file():
        return tuple(own.read_text("utf-8").split())
    return shipped_nouns()
