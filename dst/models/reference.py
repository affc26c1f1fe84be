"""Reference sentences: ordinary text against which a state or a word is ordinary or not."""

from __future__ import annotations

from pathlib import Path

from dst.models.draws import shipped_nouns
from dst.models.pretrained import folder_of

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
SENTENCES, NOUNS = "reference_sentences.txt", "neutral_nouns.txt"


def reference_sentences(model: str = "") -> tuple[str, ...]:
    """200 sentences: those in a model's folder if it ships some, else plain English ones.

    The English ones put the shipped neutral nouns into a few frames, so that they have no
    topic; a model with a closed vocabulary brings its own.

    Args:
        model: The model's name, as `dst.load` was given it.
    """
    own = _own(model, SENTENCES)
    if own is not None:
        return tuple(line for line in own.read_text("utf-8").splitlines() if line.strip())
    nouns = shipped_nouns()
    return tuple(
        FRAMES[i % len(FRAMES)].format(noun, nouns[(i * 7 + 3) % len(nouns)])
        for i, noun in enumerate(nouns)
    )


def neutral_nouns(model: str = "") -> tuple[str, ...]:
    """The nouns that neutral variants are drawn from: a model's own list, else the shipped one.

    Args:
        model: The model's name, as `dst.load` was given it.
    """
    own = _own(model, NOUNS)
    return tuple(own.read_text("utf-8").split()) if own is not None else shipped_nouns()


def _own(model: str, name: str) -> Path | None:
    """A file in the folder of a model, if it is there."""
    file = folder_of(model) / name
    return file if model and file.is_file() else None
