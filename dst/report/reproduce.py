"""The lines that compute a report again, in Python and on the command line."""

from __future__ import annotations

import shlex

from dst.core.results import Report

EMBEDDED = ("", "embedded")
# Fields of a case that `dst trace` takes as they are; of several texts each is an option.
_OPTIONS = (
    *("contextual", "associative", "subject", "cue", "question", "distractor"),
    *("prefix", "system", "neutral", "substitute", "swap", "clean", "twin_question"),
)
_NAMES = {"twin_question": "twin"}
# ... and those that it takes in one option, with commas.
_LISTS = ("context_words", "competing_words")

ASKED = {
    "semantic_map": "--map",
    "importance": "--importance",
    "drift": "--drift",
    "spans": "--spans",
}
"""What a report has only if asked for -> the option of `dst trace`."""


def python_lines(report: Report) -> str:
    """A Python program: load the model, state the case, explain it, write the page."""
    model = report.provenance.model
    arguments = [] if model in EMBEDDED else [repr(model)]
    arguments += [f"{name}={value!r}" for name, value in _loading(report)]
    values = report.case.to_dict()
    if report.case.case_id == report.case.content_hash()[:12]:
        del values["case_id"]  # Case makes the same one
    fields = "".join(f"    {key}={value!r},\n" for key, value in values.items())
    return (
        "import dst\n\n"
        f"model = dst.load({', '.join(arguments)})\n"
        f"case = dst.Case(\n{fields})\n"
        f'dst.explain({", ".join(["model", "case", *_asked(report)])}).to_html("report.html")\n'
    )


def command_line(report: Report) -> tuple[str, tuple[str, ...]]:
    """A ``dst trace`` command, and the fields of the case that it has no option for."""
    case = report.case
    if not isinstance(case.prompt, str):
        return "", ("prompt",)
    options: list[tuple[str, str]] = []
    taken = {"prompt", "chat", "case_id", "label", "group"}
    for name in _OPTIONS:
        value = getattr(case, name)
        texts = (value,) if isinstance(value, str) else value or ()
        if all(isinstance(text, str) for text in texts):  # not messages, not an alignment
            taken.add(name)
            options += [(_NAMES.get(name, name), text) for text in texts if text]
    for name in _LISTS:
        listed = getattr(case, name)
        if not any("," in text for text in listed):
            taken.add(name)
            options += [(name.replace("_", "-"), ",".join(listed))] if listed else []
    if report.provenance.model not in EMBEDDED:
        options.append(("model", report.provenance.model))
    options += _loading(report)
    words = []
    for name, text in options:
        # Text with a leading dash would be read as an option of its own.
        words += [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
    words += ["--chat"] if case.chat else []
    words += [option for name, option in ASKED.items() if getattr(report, name) is not None]
    words = [*words, "--", case.prompt] if case.prompt.startswith("-") else [case.prompt, *words]
    left_out = tuple(name for name in case.to_dict() if name not in taken)
    return shlex.join(["dst", "trace", *words]), left_out


def _asked(report: Report) -> list[str]:
    return [f"{name}=True" for name in ASKED if getattr(report, name) is not None]


def _loading(report: Report) -> list[tuple[str, str]]:
    """How the model was loaded, where that is not the default."""
    told = report.provenance
    given = (("backend", told.backend), ("revision", told.revision), ("dtype", told.dtype))
    return [(name, value) for name, value in given if value not in ("", "hooks", "float32")]
