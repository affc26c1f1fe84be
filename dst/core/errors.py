"""Errors that are sentences: what was found, what was expected, what to do.

`InputError` and its kinds say that what was given is wrong: the command line prints
them and exits with 2. Every other `DSTError` says that a measurement could not be
trusted, or that something asked for cannot be done here.
"""

from __future__ import annotations


class DSTError(Exception):
    """Base of every error that `dst` raises on purpose.

    Args:
        found: What was found, as the start of a sentence.
        expected: What was expected instead, in a few words (optional).
        do: What the reader can do about it, as a sentence (optional).
    """

    def __init__(self, found: str, *, expected: str = "", do: str = "") -> None:
        self.found = found.rstrip(".")
        self.expected = expected.rstrip(".")
        self.do = do.rstrip(".")
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        first = f"{self.found}; expected {self.expected}." if self.expected else f"{self.found}."
        return f"{first} {self.do}." if self.do else first


class InputError(DSTError):
    """What the user gave is wrong: a file, an option, an argument."""


class CaseError(InputError):
    """A case is malformed, or does not fit its own prompt; ``field`` names where."""

    def __init__(self, found: str, *, expected: str = "", do: str = "", field: str = "") -> None:
        super().__init__(found, expected=expected, do=do)
        self.field = field


class TokenError(InputError):
    """Text that the tokenizer cannot represent as the measurement needs it."""


class ModelError(InputError):
    """A model cannot be found, loaded or used."""


class ResultError(InputError):
    """A result file cannot be read or written."""


class InterventionError(InputError):
    """An edit or cut names what does not exist, or did nothing."""


class CapabilityError(InputError):
    """The engine or the model cannot do what was asked; the message names it."""


class NumericalError(DSTError):
    """A run contradicts its own checks: NaN in activations, a lens that misses the logits."""
