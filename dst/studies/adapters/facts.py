"""Facts without context: ROME's known_1000 and the LRE relations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dst.studies.adapters.account import Left, Made
from dst.studies.adapters.reading import Row
from dst.studies.adapters.wording import MISSING, fields, has, text

KNOWN = frozenset(("subject", "attribute", "prompt"))
RELATION = frozenset(("name", "prompt_templates", "samples"))
LACKING = (
    "cue: a bare fact has no context",
    "associative: none given; explaining a case asks the model for its own answer",
)


def known(rows: Sequence[Row], detected: list[str]) -> Iterator[Made | Left]:
    """known_1000: one case a row; columns that copies add (such as one per model) are ignored."""
    for row in rows:
        if not has(row, *KNOWN):
            yield Left(row, MISSING)
            continue
        subject = text(row, "subject").strip()
        yield Made(
            row,
            fields(
                prompt=text(row, "prompt"),
                contextual=text(row, "attribute"),
                subject=subject,
                group=text(row, "relation_id").strip() or subject,
            ),
            lacking=LACKING,
        )


def relations(
    rows: Sequence[Row], detected: list[str], *, template: int = 0, zero_shot: bool = False
) -> Iterator[Made | Left]:
    """LRE: one case a pair of subject and object; several objects of a subject are one case.

    Args:
        rows: The rows, one a relation.
        detected: Takes what was chosen.
        template: Which of the relation's prompt templates, from 0.
        zero_shot: Use ``prompt_templates_zs``, which say more.
    """
    column = "prompt_templates_zs" if zero_shot else "prompt_templates"
    for row in rows:
        stems, samples = row.values.get(column) or [], row.values.get("samples") or []
        if not isinstance(stems, list) or not 0 <= template < len(stems):
            yield Left(row, f"it has no template {template} in {column}")
            continue
        if not samples:
            yield Left(row, "no pair of subject and object")
            continue
        yield from _pairs(row, str(stems[template]), samples)


def _pairs(row: Row, stem: str, samples: Sequence[object]) -> Iterator[Made | Left]:
    objects: dict[str, list[str]] = {}
    for pair in samples:
        if not isinstance(pair, Mapping) or not pair.get("subject") or not pair.get("object"):
            yield Left(row, MISSING)
            continue
        known = objects.setdefault(str(pair["subject"]), [])
        if known:
            yield Left(row, "another object of a subject that has a case: taken as its answer too")
        known.append(str(pair["object"]))
    properties = row.values.get("properties") or {}
    kind = properties.get("relation_type") if isinstance(properties, Mapping) else None
    for subject, answers in objects.items():
        yield Made(
            row,
            fields(
                prompt=stem.replace("{}", subject),
                contextual=tuple(dict.fromkeys(answers)),
                subject=subject,
                group=text(row, "name"),
            ),
            ("prompt: the relation's template with the subject",),
            LACKING,
            extra={"relation_type": kind} if kind else {},
        )
