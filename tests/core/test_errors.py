"""Errors are sentences: what was found, what was expected, what to do."""

from __future__ import annotations

import copy

import pytest

from dst.core import errors
from dst.core.errors import (
    CapabilityError,
    CaseError,
    DSTError,
    InputError,
    InterventionError,
    ModelError,
    NumericalError,
    ResultError,
    TokenError,
)


def test_the_three_parts_make_up_to_two_sentences() -> None:
    assert str(InputError("The prompt is empty")) == "The prompt is empty."
    assert str(InputError("It has 3 rows", expected="2")) == "It has 3 rows; expected 2."
    assert str(InputError("It is gone.", do="Look elsewhere.")) == "It is gone. Look elsewhere."
    whole = InputError("It has 3 rows.", expected="2.", do="Drop one.")
    assert str(whole) == "It has 3 rows; expected 2. Drop one."
    assert (whole.found, whole.expected, whole.do) == ("It has 3 rows", "2", "Drop one")


def test_a_case_error_names_its_field() -> None:
    assert CaseError("The subject is absent", field="subject").field == "subject"
    assert CaseError("The file is gone").field == ""


@pytest.mark.parametrize(
    "kind",
    [CaseError, TokenError, ModelError, ResultError, InterventionError, CapabilityError],
)
def test_what_the_user_gave_is_an_input_error(kind: type[DSTError]) -> None:
    assert issubclass(kind, InputError)


def test_a_run_that_contradicts_itself_is_no_input_error() -> None:
    assert issubclass(NumericalError, DSTError)
    assert not issubclass(NumericalError, InputError)


def test_every_error_of_the_module_is_one_of_ours() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(kinds) == 9
    assert all(issubclass(kind, DSTError) for kind in kinds)


def test_an_error_is_copied_whole_as_it_is_between_processes() -> None:
    error = CaseError("It has 3 rows", expected="2", do="Drop one", field="cue")
    other = copy.copy(error)
    assert str(other) == str(error)
    assert (other.found, other.expected, other.do, other.field) == (
        *("It has 3 rows", "2", "Drop one"),
        "cue",
    )
