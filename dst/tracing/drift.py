"""Representational drift: where a prompt's states leave those of its matched twin."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from jaxtyping import Bool, Float

from dst.analysis.drift import (
    LEAST_ROWS,
    MEASURES,
    SAME_RUN,
    angle_distance,
    critical_z,
    drift_onset,
    drift_published,
    mean_over,
    null_pairs,
    z_scores,
)
from dst.analysis.flows import estimate
from dst.core.case import Case
from dst.core.drift_results import Drift
from dst.core.errors import InputError
from dst.core.results import Mark
from dst.models.backend import Backend
from dst.models.text import token_texts
from dst.tracing.donors import Donor
from dst.tracing.drift_runs import Null, Seen, null_of, twins_of
from dst.tracing.ordinary_states import OrdinaryStates, ordinary_states
from dst.tracing.prepare import DRAWS, prepare
from dst.tracing.swaps import record


def drift(
    model: Backend,
    case: Case,
    against: Donor = "clean",
    *,
    null: Null = None,
    reference: OrdinaryStates | None = None,
    texts: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    show_progress: bool = True,
) -> Drift:
    """How far each word's state lies from the same word's state in a matched run.

    drift[l, i] = 1 - cos(f(h[l, i](x)), f(h[l, i'](twin))), mean over twins, where f takes off
    the mean of ordinary states (``centred``) and divides by the root of their covariance too
    (``whitened``); [measure state pos], from 0 to 2. z counts it in standard deviations of the
    same distance between runs that mean the same: paraphrases where the case has them (unless
    neutral draws score more positions), else neutral draws. Only a position with the same word
    in both runs has a z: another word is another embedding, not drift. Nor has one before the
    first difference of the two runs.

    Drift begins at the first state at which some z exceeds the critical one, which the largest
    z over all states and positions exceeds in 5 % of runs without drift.

    Args:
        model: The model.
        case: The case.
        against: The twin: ``clean`` (no distractors), ``neutral``, ``swap``, ``substitute``, a
            text or another case. One of another length is matched role by role from the right.
        null: ``paraphrases`` (the prompt and its paraphrases against one another), ``neutral``
            (neutral draws against one another), or texts that mean the same as each other.
        reference: What is ordinary, by `ordinary_states`; made here by default.
        texts: The sentences that it is made from, by default the shipped ones.
        draws: Neutral and substitute variants drawn where the case gives none.
        seed: Seed of the draws.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Returns:
        `Drift`: also by role, the onsets, and the published form beside it.

    Raises:
        CaseError: The case has no such twin, or no associative answer.
        TokenError: The twin does not fit the prompt.
        InputError: The reference is of another model, the null is none of those there are, or
            there are no reference sentences that the model knows.

    Source: METHOD 1b. The published form takes raw states, compares positions of unequal prompts
    one to one, and has no null: here it is ``published``.
    """
    if reference is not None and reference.weights_hash != model.spec.weights_hash:
        raise InputError(
            "The reference is of another model", do="Make one of this model with ordinary_states"
        )
    ready = prepare(model, case, draws=draws, seed=seed)
    name, twins, notes = twins_of(model, ready, against)
    null_name, null_rows, null_notes = null_of(model, ready, null, draws, seed)
    reference = reference or ordinary_states(model, texts, show_progress=show_progress)
    place = {row: i for i, row in enumerate(dict.fromkeys([ready.x, *twins, *null_rows]))}
    seen = Seen.of(ready.x, list(place))
    x, own, them = place[ready.x], [place[row] for row in twins], [place[row] for row in null_rows]

    recorded = record(model, list(place), ready.metric)
    whole = recorded.base.states if recorded.base is not None else recorded.states
    n_states, n_pos = len(reference.spaces), len(ready.x.ids)
    shape = (len(MEASURES), n_states, n_pos)
    away = np.empty((len(own), *shape))
    among = np.empty((len(them), len(them), *shape))
    published = np.empty((len(own), n_states))
    for l, space in enumerate(reference.spaces):
        states = recorded.states[l].cpu().double().numpy()  # [row pos d_model]
        for m, measure in enumerate(MEASURES):
            view = getattr(space, measure)(states)
            away[:, m, l] = angle_distance(view[x], view[own])
            for i, row in enumerate(them):
                among[i, :, m, l] = angle_distance(view[row], view[them])
        for t, row in enumerate(own):
            lengths = [len(recorded.rows[i]) for i in (x, row)]
            one, two = (
                whole[l, i, :n].cpu().double().numpy()
                for i, n in zip((x, row), lengths, strict=True)
            )
            published[t, l] = drift_published(one, two)
    away[:, :, :, ~seen.matched(own)] = np.nan
    distinct = seen.distinct(them)
    for i, j in product(range(len(them)), repeat=2):
        among[i, j, :, :, ~(distinct[i] & distinct[j])] = np.nan

    mean, low, high = _over_twins(away)
    reasons = _reasons(seen, x, own, distinct.sum(axis=0), mean, null_name, null_notes)
    scored = np.array([not reason for reason in reasons])
    same = np.all([seen.same[row] for row in own], axis=0)
    roles = [np.isin(np.arange(n_pos), places) for places in ready.positions]
    z, critical, onsets = _scores(mean, among, scored, "position", [""])
    by_role = np.stack([mean_over(mean, scored & role) for role in roles], axis=-1)
    null_by_role = np.stack([mean_over(among, scored & role) for role in roles], axis=-1)
    has_role = np.array([bool((scored & role).any()) for role in roles])
    role_z, role_critical, role_onsets = _scores(
        by_role, null_by_role, has_role, "role", list(ready.roles)
    )
    return Drift(
        against=name,
        null=null_name,
        measures=MEASURES,
        drift=mean,
        low=low,
        high=high,
        z=z,
        reasons=reasons,
        role_drift=np.stack([mean_over(mean, same & role) for role in roles], axis=-1),
        role_z=role_z,
        role_reasons=tuple(
            "" if scored[list(places)].any() else reasons[places[-1]] for places in ready.positions
        ),
        critical=critical,
        role_critical=role_critical,
        onsets=onsets,
        role_onsets=role_onsets,
        published=published.mean(axis=0),
        coverage=min(row.coverage for row in twins),
        same_word=same,
        tokens=ready.tokenized.tokens,
        twin_tokens=tuple(
            token_texts(model.tokenizer, [twins[0].ids[p]])[0] if p >= 0 else ""
            for p in twins[0].places
        ),
        token_roles=ready.tokenized.roles,
        roles=ready.roles,
        role_positions=ready.positions,
        n_twins=len(twins),
        n_null=len(null_rows),
        n_reference=reference.n_tokens,
        shrinkage=np.array([space.shrinkage for space in reference.spaces]),
        case=case,
        notes=(*ready.notes, *notes, *null_notes),
        provenance=model.provenance(
            seed=seed, against=name, null=null_name, draws=draws, reference_texts=texts is not None
        ),
    )


def _over_twins(
    away: Float[np.ndarray, "twin measure state pos"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over twins with its 95 % interval, cell by cell."""
    mean, shape = away.mean(axis=0), away.shape[1:]
    if len(away) < 2:
        return mean, np.full(shape, np.nan), np.full(shape, np.nan)
    cells = [estimate(draws) for draws in away.reshape(len(away), -1).T]
    low, high = np.array([[cell.low, cell.high] for cell in cells]).T
    return mean, low.reshape(shape), high.reshape(shape)


def _reasons(
    seen: Seen,
    x: int,
    twins: Sequence[int],
    contexts: np.ndarray,
    mean: np.ndarray,
    null: str,
    null_notes: Sequence[str],
) -> tuple[str, ...]:
    """Why each position has no z; "" where it has one."""
    unread = np.any([seen.read_the_same(x, row) for row in twins], axis=0)
    matched, same = seen.matched(twins), np.all([seen.same[row] for row in twins], axis=0)
    no_direction = np.isnan(mean).any(axis=(0, 1))
    found = []
    for p in range(len(matched)):
        if not matched[p]:
            found.append("the twin has no counterpart here")
        elif not same[p]:
            found.append("the twin has another word here")
        elif unread[p]:
            found.append(SAME_RUN)
        elif not null:
            found.append(null_notes[0].rstrip(".") if null_notes else "there is no null")
        elif contexts[p] < LEAST_ROWS:
            found.append(
                f"{contexts[p]} runs of the null ({null}) read this word in different contexts, "
                f"and {LEAST_ROWS} are needed"
            )
        else:
            found.append("a state here has no direction" if no_direction[p] else "")
    return tuple(found)


def _scores(
    away: Float[np.ndarray, "measure state cell"],
    among: Float[np.ndarray, "row row measure state cell"],
    scored: Bool[np.ndarray, " cell"],
    what: str,
    names: Sequence[str],
) -> tuple[np.ndarray, np.ndarray, tuple[Mark, ...]]:
    """z, the critical z and the onsets per measure: of each named cell, or of all ("")."""
    z = np.full(away.shape, np.nan)
    critical, marks = np.full(len(away), np.nan), []
    for m, measure in enumerate(MEASURES):
        z[m] = np.where(scored, z_scores(away[m], null_pairs(among[:, :, m])), np.nan)
        mask = np.broadcast_to(scored, z[m].shape)
        critical[m], why = critical_z(among[:, :, m], mask)
        for i, name in enumerate(names):
            cells = slice(i, i + 1) if name else slice(None)
            state, none = drift_onset(z[m][:, cells], critical[m])
            if np.isnan(z[m][:, cells]).all():
                why = ""
            marks.append(
                Mark(
                    "onset",
                    f"{measure} drift{f' at {name}' if name else ''}, largest z over states and "
                    f"{what}s",
                    state,
                    len(away[m]) - 1,
                    (why or none) if np.isnan(state) else "",
                    thresholds={"z": float(critical[m])},
                )
            )
    return z, critical, tuple(marks)
