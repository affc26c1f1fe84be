"""The prompt's tokens in the colours of their roles, as a piece of HTML."""

from __future__ import annotations

import html
from dataclasses import dataclass

from dst.core.carriers import separator
from dst.core.results import Trace
from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL, OTHER
from dst.plot.text import visible

# role -> (what it is, colour, how it is underlined): METHOD 0, in the order of the legend
_ROLES: dict[str, tuple[str, str, str]] = {
    "subject": ("subject: carries the association", ASSOCIATIVE, "solid"),
    "cue": ("cue: carries the context", CONTEXTUAL, "double"),
    "question": ("question", "#00805E", "dashed"),
    "distractor": ("distractor", "#A8588A", "wavy"),
    "relay": ("relay: between cue and subject", OTHER, "dotted"),
    "answer": ("answer: read after this token", "currentColor", "solid"),
}


@dataclass(frozen=True)
class PromptView:
    """A prompt with its roles, as HTML: shown by a notebook, and placed in the report."""

    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __str__(self) -> str:
        return self.html


def prompt(trace: Trace) -> PromptView:
    """The tokens that were run, each underlined by its role, with a legend of those present.

    The text is escaped, so that a prompt cannot add tags; control characters are shown.
    The style is within the elements and readable on a light and on a dark background.
    """
    gap = separator(trace.tokens)
    kinds = [role_kind(role) for role in trace.roles]
    spans = [_span(token, gap, trace.roles[i], kinds[i], i) for i, token in enumerate(trace.tokens)]
    legend = "".join(
        f'<span style="white-space:nowrap;margin-right:1.2em"><span style="{_style(kind)}">'
        f"{html.escape(kind)}</span>{html.escape(_ROLES[kind][0].removeprefix(kind))}</span> "
        for kind in _ROLES
        if kind in kinds
    )
    return PromptView(
        '<div class="dst-prompt"><p style="line-height:2;overflow-wrap:anywhere;margin:.4em 0">'
        f"{''.join(spans)}</p>"
        f'<p style="font-size:.85em;opacity:.85;line-height:1.9;margin:.4em 0">{legend}</p></div>'
    )


def role_kind(role: str) -> str:
    """A role without its number: ``subject_2`` is a ``subject``."""
    head, _, number = role.rpartition("_")
    return head if number.isdigit() else role


def _span(token: str, gap: str, role: str, kind: str, position: int) -> str:
    body = token.lstrip(" ")
    lead = " " if gap and position else token[: len(token) - len(body)]
    text = html.escape(visible(body))
    if "\n" in body:  # shown, and also obeyed
        text = text.replace("\\n", "\\n<br>")
    style = f' style="{_style(kind)}"' if kind in _ROLES else ""
    role = html.escape(role, quote=True)
    title = f"position {position}, role {role}"
    return f'{lead}<span title="{title}" data-role="{role}"{style}>{text}</span>'


def _style(kind: str) -> str:
    _, colour, line = _ROLES[kind]
    rule = f"text-decoration:underline {line} {colour} 2px;text-underline-offset:.3em;"
    if kind == "answer":
        return "outline:1.5px solid currentColor;outline-offset:1px;border-radius:2px;padding:0 2px"
    if kind in ("subject", "cue"):
        return rule + f"background:{colour}2E;border-radius:2px;font-weight:600"
    return rule
