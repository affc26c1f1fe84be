"""The verdict: the account of one case in sentences, each with the number it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator

from dst.core.case import Case
from dst.core.results import LensReadout, Mark, Markers, Pathways, Repairs, Trace


def verdict(
    case: Case,
    seen: Trace,
    lens: LensReadout,
    marks: Markers,
    outcome: str,
    paths: Pathways | None,
    fixes: Repairs | None,
) -> tuple[str, ...]:
    """What happened, why, when, and what would have helped; nothing that was not measured.

    A flow is named as a cause only where it is above its floor (the width of its interval
    over draws); its controls have passed, else the measurement would have been refused.
    """
    plus, minus = case.contextual[0].strip(), case.associative[0].strip()
    sentences = [_outcome(seen, lens, outcome, plus, minus)]
    if paths is not None:
        sentences += [_sum(paths), *_why(paths, plus, minus), *_when(paths)]
    if fixes is not None:
        sentences += _repair(fixes, outcome)
    sentences += _lens(seen, lens, marks, outcome, plus, minus)
    return tuple(sentences)


def shown(token: str) -> str:
    """A token without the space before it; one that is nothing but white space stays."""
    return token.strip() or token


def answer_of(seen: Trace, lens: LensReadout) -> str:
    """The greedy answer: the whole form where its token begins one of the answers' forms."""
    forms = (*seen.contextual_forms, *seen.associative_forms)
    ids = (*seen.contextual_ids.tolist(), *seen.associative_ids.tolist())
    begun = dict(zip(reversed(ids), reversed(forms), strict=True))
    return shown(begun.get(int(lens.top_ids[-1, 0]), lens.top_words[-1][0]))


def _outcome(seen: Trace, lens: LensReadout, outcome: str, plus: str, minus: str) -> str:
    answer, p = answer_of(seen, lens), math.exp(float(lens.top_log_prob[-1, 0]))
    opening = {
        "hallucination": f"The model hallucinates: it answers {answer!r} (p {p:.2f}) where the "
        f"context supports {plus!r}",
        "correct": f"The model answers {answer!r} (p {p:.2f}), as the context supports",
        "neither": f"The model's likeliest token is {answer!r} (p {p:.2f}), which is neither "
        f"{plus!r} nor {minus!r}",
    }[outcome]
    return f"{opening}; the contrast is LD {seen.contrast:+.2f} logits."


def _sum(paths: Pathways) -> str:
    return (
        f"LD {paths.contrast:+.2f} = base {paths.base} + prior of the subject {paths.prior} + "
        f"effect of the context {paths.total_effect} logits (95 % over draws)."
    )


def _why(paths: Pathways, plus: str, minus: str) -> Iterator[str]:
    """Which of the three terms made the answer, as far as they are above their floors."""
    context, prior = paths.total_effect.mean, paths.prior.mean
    has_context = abs(context) >= paths.contextual_floor
    has_prior = abs(prior) >= paths.associative_floor
    if paths.cancelled:
        yield "The context's effect is under its floor although parts of it are not: they cancel."
    elif not has_context:
        yield (
            f"The cue moves the answer by no more than one neutral cue differs from another "
            f"(under {paths.contextual_floor:.2f} logits): its context did not count."
        )
    if has_context and context < 0:
        yield f"The cue pushes toward {minus!r}: the model is misled by the context itself."
    if has_context and context > 0 and has_prior and prior < 0:
        share = context / (context - prior)
        yield (
            f"Context (toward {plus!r}) and association (toward {minus!r}) compete; the "
            f"context has {share:.0%} of the evidence."
        )
    if not has_prior:
        yield "The subject by itself moves the answer by less than its draws differ."
    elif prior > 0:
        yield f"The subject by itself leans to {plus!r}: there is no conflict with the context."
    if paths.contrast < 0 and paths.base.mean < 0 and paths.base.mean <= min(prior, 0.0):
        yield (
            f"Most of the lean to {minus!r} is there without cue and subject (base "
            f"{paths.base.mean:+.2f}): it comes from the rest of the prompt."
        )


def _when(paths: Pathways) -> Iterator[str]:
    """When each flow was at the answer position."""
    n_layers = len(paths.redundant) - 1
    at = {
        flow: Markers(paths.marks).get("arrival", f"{flow} flow at answer")
        for flow in ("associative", "contextual")
    }
    there = {flow: mark for flow, mark in at.items() if not math.isnan(mark.state)}
    if len(there) == 2:
        first, second = sorted(there, key=lambda flow: there[flow].state)
        start, later = there[first].state, there[second].state
        if start == later:
            yield f"Both flows reach the answer position at state {start:.0f} of {n_layers}."
        else:
            yield (
                f"The {first} flow is at the answer position from state {start:.0f} of "
                f"{n_layers} on, the {second} one from state {later:.0f}."
            )
    for flow, mark in there.items() if len(there) == 1 else ():
        yield (
            f"The {flow} flow is at the answer position from state {mark.state:.0f} of "
            f"{n_layers} on."
        )


def _repair(fixes: Repairs, outcome: str) -> list[str]:
    """From which state on nothing helps any more, by repair."""
    if outcome == "neither" or not fixes.commitments:
        return []
    asked = [m for m in fixes.commitments if not m.reason.startswith("nothing to")]
    asked = [m for m in asked if not m.reason.startswith("no ")]
    words = {
        "causal, de-prime": "taking away what the subject brings",
        "causal, replace subject": "replacing its states",
        "causal, restore cue": "giving the states of the clean twin",
        "causal, remove cue": "taking the cue away",
    }
    sentences = []
    for breaking, effect in ((False, "repair it"), (True, "break it")):
        alike: dict[str, list[str]] = {}
        for mark in asked:
            if (mark.definition == "causal, remove cue") == breaking:
                alike.setdefault(_reach(mark), []).append(words[mark.definition])
        never = " or ".join(alike.pop("", []))
        if never:
            sentences.append(f"At no state does {never} {effect} beyond its control.")
        told = [f"up to {reach} by {' or '.join(what)}" for reach, what in alike.items()]
        if told:
            can = "broken" if breaking else "repaired"
            sentences.append(
                f"The answer could be {can} {', '.join(told)}; after that it is committed."
            )
    return sentences


def _reach(mark: Mark) -> str:
    """The last state at which a repair works, "" if there is none; with the commitment's spread."""
    if math.isnan(mark.state):
        return ""
    spread = f" (commitment {mark.low:.0f} to {mark.high:.0f} over draws)"
    known = not math.isnan(mark.low) and mark.low < mark.high
    return f"state {mark.state - 1:.0f} of {mark.n_layers}{spread if known else ''}"


def _lens(
    seen: Trace, lens: LensReadout, marks: Markers, outcome: str, plus: str, minus: str
) -> Iterator[str]:
    """When the lens readout turned; it shows what would be said, not what caused it."""
    winner = plus if seen.contrast > 0 else minus
    of_lens = {mark.name: mark for mark in marks.marks if mark.definition.endswith(" on margin")}
    if not math.isnan(of_lens["commitment"].state):
        yield (
            f"Read through the lens, {winner!r} leads for good from state "
            f"{of_lens['commitment'].state:.0f} of {seen.n_layers} on."
        )
    inversion = of_lens["inversion"]
    if not math.isnan(inversion.state):
        yield (
            f"Before that the lens held {plus!r}: its margin turns to {minus!r} at state "
            f"{inversion.state:.0f}."
        )
    elif outcome == "hallucination" and float(lens.margin.max()) <= 0:
        yield f"At no state does the lens prefer {plus!r}."
