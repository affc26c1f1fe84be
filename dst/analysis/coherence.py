"""Coherence scores: how much of a run is the context's, state by state.

Arrays in, a `Score` out; no model. States count from 0 (the embedding) to L (after the last
block), a score's total is its last state, and a value is NaN if and only if a reason says why.
``*_published`` functions are what the authors' code computes, faults included, to compare
with; the others are ours. `DEFINITIONS` holds the words in which all of them are described.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from dst.core.errors import InputError, NumericalError
from dst.core.results import Score


class Definition(NamedTuple):
    """A score in one sentence, with its unit and where it comes from."""

    says: str
    unit: str
    source: str


DEFINITIONS = {
    "dss_causal": Definition(
        "Share of the causal evidence at the answer position that came from the context: "
        "1 is all context, 0 all association.",
        "share",
        "dst (DSS*)",
    ),
    "dss_removal": Definition(
        "The same share, counted by what is lost when the answer position's state is replaced.",
        "share",
        "dst (DSS*, removal form)",
    ),
    "dss_in_transit": Definition(
        "The same share, counted by removal over all positions before the answer: evidence "
        "still on its way.",
        "share",
        "dst (DSS*, in-transit form)",
    ),
    "dss_attribution": Definition(
        "The same share, counted by what the components up to a state write toward each answer.",
        "share",
        "dst (DSS*, attribution form)",
    ),
    "margin_causal": Definition(
        "Contextual plus associative evidence that has arrived at the answer position; above 0 "
        "the context is ahead.",
        "logits",
        "dst",
    ),
    "separation": Definition(
        "Distance at the answer position between the prompt's states and those under the cue of "
        "the other sense, as a share of their norms; 0: the cue makes no difference.",
        "1",
        "dst",
    ),
    "separation_projected": Definition(
        "The same distance once the directions of all answer forms are taken out of the states: "
        "what is left does not know the answer.",
        "1",
        "dst",
    ),
    "separation_neutral": Definition(
        "The same distance from the states under neutral cues.",
        "1",
        "dst",
    ),
    "dss_published": Definition(
        "Summed |correlation| of neighbouring words in the contextual chain, as a share of both "
        "chains' sums.",
        "share",
        "published: arXiv 2510.06107v1, authors' compute_dss",
    ),
    "dss_corrected": Definition(
        "Mean positive correlation of neighbouring words in the contextual chain, centred and "
        "read in the prompt, as a share of both chains' means.",
        "share",
        "dst, after arXiv 2510.06107v1",
    ),
    "cas_signed": Definition(
        "Preference of the lens for context words over competing words, each word standardised, "
        "minus the same on neutral prompts; above 0 is contextual.",
        "1",
        "dst (CAS*)",
    ),
    "cas_signed_logit_lens": Definition(
        "The same preference read with the logit lens: a check that it is not the tuned lens's "
        "making.",
        "1",
        "dst (CAS*, logit lens)",
    ),
    "cas_published": Definition(
        "Summed |cosine| of the raw residual with the context words, as a share of both word "
        "lists' sums.",
        "share",
        "published: arXiv 2510.06107v3, authors' compute_cas",
    ),
    "cas_prob_published": Definition(
        "Lens probability of the context words, as a share of that of both word lists.",
        "share",
        "published: a later notebook of the authors",
    ),
    "cas_corrected": Definition(
        "Half the difference between the mean signed cosine of the normed residual with the "
        "context words and with the competing words; above 0 is contextual.",
        "1",
        "dst, after arXiv 2510.06107v3",
    ),
    "margin": Definition(
        "Lens logit of the contextual answer minus that of the associative answer; above 0 is "
        "contextual.",
        "logits",
        "logit lens",
    ),
    "margin_tuned": Definition(
        "The same margin read with the tuned lens, which knows how this model's states turn "
        "into its output.",
        "logits",
        "tuned lens",
    ),
}
"""Every score by name. The terminal, the page and docs/scores.md print these words."""

PER_BLOCK = "published per block: there is no value before the first"
NO_WORDS = "no concept words"
NOTHING_ARRIVED = "nothing has arrived"
MISLED = "misled by the context"
NO_CONFLICT = "no conflict"
NO_SUPPORT = "no support"


# -- DSS: two chains of words, or two flows -------------------------------------------------


def dss_causal(
    contextual_flow: Float[np.ndarray, " state"],
    associative_flow: Float[np.ndarray, " state"],
    floor: float | tuple[float, float],
    *,
    name: str = "dss_causal",
) -> Score:
    """Share of the causal evidence at the answer position that came from the context (DSS*).

    With c = D_ctx[l, i*], what inserting the prompt's own state there adds to a neutral run,
    and a = D_asc[l, i*], what inserting the neutral run's state adds where the subject was
    unrelated, DSS*[l] = [c]+ / ([c]+ + [-a]+). At the last state c is the total effect and a
    the prior, so that strengths alpha and beta give alpha / (alpha + beta).

    Open cases: c and a both toward the contextual answer is 1, noted "no conflict"; both
    toward the associative answer is 0, noted "no support"; c < -floor with a > floor is NaN
    "misled by the context"; both within the floor is NaN "nothing has arrived"; and one
    within the floor while the other pushes away from its own answer is NaN with its own reason.

    Args:
        contextual_flow: D_ctx at i*, logits toward the contextual answer. NaN is undefined.
        associative_flow: D_asc at i*, in logits; negative is toward the associative answer.
        floor: What counts as nothing, in logits: one number, or one for each flow.
        name: ``dss_causal``; the same formula makes ``dss_removal``, ``dss_in_transit`` and
            ``dss_attribution`` from flows counted otherwise.

    Returns:
        A share in [0, 1] per state.

    Raises:
        InputError: The flows differ in length, or a floor is no number from 0 up.

    Source: dst; it replaces the published DSS, which correlates word vectors and, on words
    that are not in the prompt, does not depend on the prompt at all. The last state restates
    the output: to predict an error, use an earlier one.
    """
    context, association = _checked(
        ("contextual_flow", contextual_flow, "state"),
        ("associative_flow", associative_flow, "state"),
        nan=True,
    )
    floors = floor if isinstance(floor, tuple) else (floor, floor)
    if len(floors) != 2 or not all(np.isfinite(f) and f >= 0 for f in floors):
        raise InputError(
            f"The floor is {floor}", expected="one or two numbers of logits, from 0 up"
        )
    rows = [_evidence(c, a, *floors) for c, a in zip(context, association, strict=True)]
    open_cases = [
        f"{case} at {_states(hits)}"
        for case in (NO_CONFLICT, NO_SUPPORT)
        if (hits := [state for state, row in enumerate(rows) if row[2] == case])
    ]
    return score_of(name, [r[0] for r in rows], [r[1] for r in rows], "; ".join(open_cases))


def _evidence(c: float, a: float, c_floor: float, a_floor: float) -> tuple[float, str, str]:
    """DSS* of one state: its value, why it is NaN, and which open case it is."""
    if np.isnan(c) or np.isnan(a):
        return np.nan, f"the {'contextual' if np.isnan(c) else 'associative'} flow is undefined", ""
    if abs(c) <= c_floor and abs(a) <= a_floor:
        return np.nan, NOTHING_ARRIVED, ""
    if c < -c_floor and a > a_floor:
        return np.nan, MISLED, ""
    contextual, associative = max(c, 0.0), max(-a, 0.0)
    if contextual <= c_floor and associative <= a_floor:
        # A share of what is under the floor would be the sign of a rounding error.
        return np.nan, "neither flow pushes toward its own answer", ""
    case = NO_CONFLICT if a > a_floor else NO_SUPPORT if c < -c_floor else ""
    # Scaled first, so that flows of any size neither overflow nor underflow in the sum.
    largest = max(contextual, associative)
    contextual, associative = contextual / largest, associative / largest
    return contextual / (contextual + associative), "", case


def dss_published(
    contextual: Float[np.ndarray, "state context_word d_model"],
    associative: Float[np.ndarray, "state competing_word d_model"],
) -> Score:
    """Correlation along the contextual word chain as a share of both chains, as published (DSS v1).

    strength(chain) = sum over neighbouring words of |Pearson r| across d_model;
    DSS[l] = strength_c / (strength_c + strength_a + 1e-10), from the first block on.

    Args:
        contextual: Vectors of the context words, in chain order. As published, a word's vector
            is its mean over subtokens where the word is found without a leading space, else
            the mean over the word encoded alone.
        associative: Vectors of the competing words, likewise.

    Returns:
        A share in [0, 1] per state; NaN at state 0. A chain of one word has strength 0, as
        published, and the note says so. NaN where the published code would give 0 for want of
        any pair, or nan for a vector without spread.

    Raises:
        InputError: The arrays do not have these axes, or disagree in states or width.
        NumericalError: A value is NaN or infinite.

    Source: arXiv 2510.06107v1 and the authors' ``compute_dss``, with one chain a side. Where it
    falls short: |r| counts opposite vectors as support, sums favour the longer chain, and
    vectors that share a large common part all correlate, which leaves the ratio of the
    numbers of pairs. `dss_corrected` mends these three.
    """
    name = "dss_published"
    chains = _checked(
        ("contextual", contextual, "state context_word d_model"),
        ("associative", associative, "state competing_word d_model"),
    )
    n_states, lengths = len(chains[0]), [chain.shape[1] for chain in chains]
    if min(lengths) == 0:
        return undefined(name, n_states, NO_WORDS)
    if max(lengths) == 1:
        return undefined(name, n_states, "one word a chain makes no pair (published: 0)")
    strength_c, strength_a = (np.abs(_neighbour_pearson(chain)).sum(axis=1) for chain in chains)
    value = strength_c / (strength_c + strength_a + 1e-10)
    value[0] = np.nan
    flat = "a word vector has no spread, so its correlation is undefined (published: nan)"
    reasons = [flat if np.isnan(v) else "" for v in value]
    reasons[0] = PER_BLOCK
    note = ""
    if min(lengths) == 1:
        side = "contextual" if lengths[0] == 1 else "associative"
        note = f"the {side} chain has a single word: its strength is 0, as published"
    return score_of(name, value, reasons, note)


def dss_corrected(
    contextual: Float[np.ndarray, "state context_word d_model"],
    associative: Float[np.ndarray, "state competing_word d_model"],
    centre: Float[np.ndarray, "state d_model"],
) -> Score:
    """Positive correlation along the contextual word chain as a share of both, corrected (DSS v1).

    With r = Pearson across d_model of neighbouring words, each minus the centre,
    strength(chain) = mean over pairs of max(r, 0); DSS[l] = strength_c / (strength_c + strength_a).

    Args:
        contextual: State of each context word at the last subtoken of its mention in the
            prompt, in chain order; NaN throughout for a word that is not there.
        associative: The same for the competing words.
        centre: Mean state over a reference corpus.

    Returns:
        A share in [0, 1] per state. Pairs with a missing word are left out and the note counts
        those used; NaN for a chain without a pair, and where no pair correlates positively.

    Raises:
        InputError: The arrays do not have these axes, or disagree in states or width.
        NumericalError: A value is infinite, or a word's vector is NaN only in part.

    Source: dst, after arXiv 2510.06107v1. It differs from `dss_published` by the word's vector
    (in the prompt), centring, the sign and the mean over pairs. The chains are still
    somebody's choice of words.
    """
    name = "dss_corrected"
    c, a, middle = _checked(
        ("contextual", contextual, "state context_word d_model"),
        ("associative", associative, "state competing_word d_model"),
        ("centre", centre, "state d_model"),
        nan=True,
    )
    if np.isnan(middle).any():
        raise NumericalError("The centre holds NaN", do="Check the reference run")
    if min(c.shape[1], a.shape[1]) == 0:
        return undefined(name, len(c), NO_WORDS)
    strengths, lacks, used = [], [], []
    for side, chain in (("contextual", c), ("associative", a)):
        missing = np.isnan(chain)
        absent = missing.all(axis=(0, 2))
        if missing[:, ~absent].any():
            raise NumericalError(f"A vector of the {side} chain is NaN in part")
        paired = ~absent[:-1] & ~absent[1:]
        r = _neighbour_pearson(chain - middle[:, None])
        counted = np.isfinite(r)
        strength = np.where(counted, np.maximum(r, 0), 0).sum(axis=1)
        count = counted.sum(axis=1)
        strengths.append(np.where(count > 0, strength / np.maximum(count, 1), np.nan))
        lacks.append(
            f"the {side} chain has no two neighbouring words whose vectors differ from the centre"
            if paired.any()
            else f"the {side} chain has no two neighbouring words in the prompt"
        )
        used.append(f"{paired.sum()} of {len(paired)} {side}")
    value, reasons = np.full(len(c), np.nan), []
    for state, (sc, sa) in enumerate(zip(*strengths, strict=True)):
        if np.isnan(sc) or np.isnan(sa):
            reasons.append(lacks[0] if np.isnan(sc) else lacks[1])
        elif sc + sa == 0:
            reasons.append("no neighbouring words correlate positively in either chain")
        else:
            value[state] = sc / (sc + sa)
            reasons.append("")
    return score_of(name, value, reasons, f"pairs in the prompt: {used[0]}, {used[1]}")


# -- CAS: the residual at the answer position against two word lists ----------------------------


def cas_signed(
    z_context: Float[np.ndarray, "state context_word"],
    z_competing: Float[np.ndarray, "state competing_word"],
    z_context_neutral: Float[np.ndarray, "draw state context_word"],
    z_competing_neutral: Float[np.ndarray, "draw state competing_word"],
    *,
    name: str = "cas_signed",
    note: str = "",
) -> Score:
    """How far the lens prefers context words to competing words because of the prompt (CAS*).

    CAS*[l] = sigmoid(mean_c z - mean_a z) minus the mean over neutral draws of the same, where z
    is a word's lens logit, standardised per word and state over reference sentences.

    Args:
        z_context: z of the context words on the prompt; NaN where the reference has no spread.
        z_competing: z of the competing words on the prompt.
        z_context_neutral: z of the context words on each draw of the neutral prompt.
        z_competing_neutral: z of the competing words on each draw of the neutral prompt.
        name: ``cas_signed`` with the tuned lens's z, ``cas_signed_logit_lens`` with the other's.
        note: Which lens and reference were used, and which words were left out.

    Returns:
        A number in (-1, 1) per state; above 0 the prompt moved the lens toward the context. NaN
        where any z is, for a mean over other words would be another score.

    Raises:
        InputError: The arrays do not have these axes, disagree, or hold no draw.

    Source: dst; it replaces the published CAS, whose unsigned cosines have no zero that means
    "no preference" and depend on the sizes of the lists.
    """
    arrays = _checked(
        ("z_context", z_context, "state context_word"),
        ("z_competing", z_competing, "state competing_word"),
        ("z_context_neutral", z_context_neutral, "draw state context_word"),
        ("z_competing_neutral", z_competing_neutral, "draw state competing_word"),
        nan=True,
    )
    c, a, c_neutral, a_neutral = arrays
    if min(c.shape[1], a.shape[1]) == 0:
        return undefined(name, len(c), NO_WORDS)
    if len(c_neutral) == 0:
        raise InputError("There is no draw of the neutral prompt", expected="one or more")
    preference = expit(c.mean(axis=-1) - a.mean(axis=-1))
    neutral = expit(c_neutral.mean(axis=-1) - a_neutral.mean(axis=-1)).mean(axis=0)
    value = preference - neutral
    flat = "a concept word's lens logit has no spread over the reference sentences"
    return score_of(name, value, [flat if np.isnan(v) else "" for v in value], note)


def cas_published(
    resid: Float[np.ndarray, "state d_model"],
    context_directions: Float[np.ndarray, "context_word d_model"],
    competing_directions: Float[np.ndarray, "competing_word d_model"],
) -> Score:
    """Alignment of the residual with context words as a share of both lists, as published (CAS).

    With a(v) = cos(h, e(v)), CAS[l] = sum_c |a| / (sum_c |a| + sum_a |a|), from the first block
    on; a zero vector has cosine 0, and a zero denominator gives 0.5.

    Args:
        resid: Residual stream at the answer position, no final norm.
        context_directions: e(v) of the context words: mean unembedding row over subtokens.
        competing_directions: e(v) of the competing words.

    Returns:
        A share in [0, 1] per state; NaN at state 0 and for an empty list (the published
        pipeline then computes nothing). Where 0.5 only fills a zero denominator the note says so.

    Raises:
        InputError: The arrays do not have these axes, or disagree in width.
        NumericalError: A value is NaN or infinite.

    Source: arXiv 2510.06107v3 and the authors' ``compute_cas``. Where it falls short: no final
    norm and no centring, so it compares h with directions that the head never sees; |cos|
    counts pointing away as support; and for an h unrelated to the words its mean is
    n_c / (n_c + n_a), .67 for six words against three. `cas_corrected` mends these.
    """
    name = "cas_published"
    h, c, a = _checked(
        ("resid", resid, "state d_model"),
        ("context_directions", context_directions, "context_word d_model"),
        ("competing_directions", competing_directions, "competing_word d_model"),
    )
    if min(len(c), len(a)) == 0:
        return undefined(name, len(h), NO_WORDS)
    sum_c, sum_a = (np.abs(_cosine(h, words)).sum(axis=1) for words in (c, a))
    both = sum_c + sum_a
    value = np.where(both > 0, sum_c / np.where(both > 0, both, 1), 0.5)
    value[0] = np.nan
    filled = [state for state in range(1, len(h)) if both[state] == 0]
    note = f"0.5 at {_states(filled)} fills a zero denominator, as published" if filled else ""
    return score_of(name, value, [PER_BLOCK] + [""] * (len(h) - 1), note)


def cas_prob_published(
    context_prob: Float[np.ndarray, " state"], competing_prob: Float[np.ndarray, " state"]
) -> Score:
    """Lens probability of the context words as a share of both lists', as published (CAS-prob).

    CAS-prob[l] = p(V_c) / (p(V_c) + p(V_a)), from the first block on; the same number as
    sigmoid(logsumexp of V_c's lens logits - logsumexp of V_a's).

    Args:
        context_prob: Summed lens probability of the context words' tokens.
        competing_prob: Summed lens probability of the competing words' tokens.

    Returns:
        A share in [0, 1] per state; NaN at state 0, where both probabilities are 0, and
        throughout for a list without words, whose probability is given as NaN.

    Raises:
        InputError: The arrays differ in length, or hold no probabilities.
        NumericalError: A value is NaN or infinite.

    Source: a later notebook of the authors. Where it falls short: with an answer among the
    words its last state is the output itself, and any correlation with error is circular.
    """
    if np.isnan(context_prob).all() or np.isnan(competing_prob).all():
        return undefined("cas_prob_published", len(context_prob), NO_WORDS)
    c, a = _checked(
        ("context_prob", context_prob, "state"), ("competing_prob", competing_prob, "state")
    )
    if min(c.min(), a.min()) < 0 or (c + a).max() > 1 + 1e-6:
        raise InputError("The probabilities of the word lists are below 0 or sum to more than 1")
    both = c + a
    value = np.where(both > 0, c / np.where(both > 0, both, 1), np.nan)
    value[0] = np.nan
    reasons = ["the lens gives neither list any probability" if np.isnan(v) else "" for v in value]
    reasons[0] = PER_BLOCK
    return score_of("cas_prob_published", value, reasons)


def cas_corrected(
    normed: Float[np.ndarray, "state d_model"],
    context_directions: Float[np.ndarray, "context_word d_model"],
    competing_directions: Float[np.ndarray, "competing_word d_model"],
) -> Score:
    """Signed alignment of the normed residual, context against competing words, corrected (CAS).

    CAS[l] = (mean_c cos(N(h), u(v)) - mean_a cos(N(h), u(v))) / 2.

    Args:
        normed: N(h) at the answer position: the residual after the model's final norm.
        context_directions: u(v) of the context words: mean over subtokens of the rows of the
            unembedding minus its row mean.
        competing_directions: u(v) of the competing words.

    Returns:
        A number in [-1, 1] per state; above 0 is contextual, 0 is no preference. NaN for an
        empty list or a zero vector.

    Raises:
        InputError: The arrays do not have these axes, or disagree in width.
        NumericalError: A value is NaN or infinite.

    Source: dst, after arXiv 2510.06107v3. It differs from `cas_published` by the final norm,
    centring, the sign, and means in place of sums. It says what is encoded, not what caused it.
    """
    name = "cas_corrected"
    h, c, a = _checked(
        ("normed", normed, "state d_model"),
        ("context_directions", context_directions, "context_word d_model"),
        ("competing_directions", competing_directions, "competing_word d_model"),
    )
    if min(len(c), len(a)) == 0:
        return undefined(name, len(h), NO_WORDS)
    if not (c.any(axis=1).all() and a.any(axis=1).all()):
        return undefined(name, len(h), "a concept word's direction is zero")
    value = (_cosine(h, c).mean(axis=1) - _cosine(h, a).mean(axis=1)) / 2
    value[~h.any(axis=1)] = np.nan
    return score_of(
        name, value, ["the normed residual is zero" if np.isnan(v) else "" for v in value]
    )


# -- the margin ---------------------------------------------------------------------------------


def margin(lens_margin: Float[np.ndarray, " state"], *, name: str = "margin") -> Score:
    """How much the lens prefers the contextual answer at each state, in logits.

    M[l] = logsumexp(lens logits of A+) - logsumexp(lens logits of A-); the last state is the
    model's own contrast LD.

    Args:
        lens_margin: M per state.
        name: ``margin`` for the logit lens, ``margin_tuned`` for the tuned lens.

    Raises:
        InputError: The array is not one number per state.
        NumericalError: A value is NaN or infinite.

    Source: the logit lens and the tuned lens. It does not saturate, unlike a share; it shows
    what the head would read at a state, which need not be what later blocks use.
    """
    (value,) = _checked(("lens_margin", lens_margin, "state"))
    return score_of(name, value, [""] * len(value))


def margin_causal(
    contextual_flow: Float[np.ndarray, " state"], associative_flow: Float[np.ndarray, " state"]
) -> Score:
    """Evidence that has arrived at the answer position, both flows together, in logits.

    D_ctx[l, i*] + D_asc[l, i*]; at the last state TE + prior = LD - base. Unlike a share it
    does not saturate, and it is defined under the floor.

    Raises:
        InputError: The flows differ in length.
        NumericalError: A value is NaN or infinite.

    Source: METHOD 3a.
    """
    context, association = _checked(
        ("contextual_flow", contextual_flow, "state"),
        ("associative_flow", associative_flow, "state"),
    )
    return score_of("margin_causal", context + association, [""] * len(context))


# -- shared -------------------------------------------------------------------------------------


def _neighbour_pearson(
    chain: Float[np.ndarray, "state word d_model"],
) -> Float[np.ndarray, "state pair"]:
    """Pearson r of each word with the next, NaN where a vector is missing or has no spread."""
    deviation = chain - chain.mean(axis=-1, keepdims=True)
    spread = np.linalg.norm(deviation, axis=-1, keepdims=True)
    rounding = 1e-12 * np.linalg.norm(chain, axis=-1, keepdims=True)
    unit = deviation / np.where(spread > rounding, spread, np.nan)
    return np.clip((unit[:, :-1] * unit[:, 1:]).sum(axis=-1), -1, 1)


def _cosine(
    states: Float[np.ndarray, "state d_model"], words: Float[np.ndarray, "word d_model"]
) -> Float[np.ndarray, "state word"]:
    """Cosine of each state with each word; 0 where either is the zero vector."""
    units = []
    for vectors in (states, words):
        # By the largest entry first: squares of tiny or huge vectors leave the range of floats.
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        scaled = vectors / np.where(largest > 0, largest, 1)
        norm = np.linalg.norm(scaled, axis=1, keepdims=True)
        units.append(scaled / np.where(norm > 0, norm, 1))
    return np.clip(units[0] @ units[1].T, -1, 1)


def _checked(*named: tuple[str, np.ndarray, str], nan: bool = False) -> list[np.ndarray]:
    """The arrays as float64, once each has its axes and axes of one name have one size."""
    sizes: dict[str, tuple[int, str]] = {}
    arrays = []
    for name, given, axes in named:
        array = np.asarray(given, dtype=np.float64)
        if array.ndim != len(axes.split()):
            raise InputError(f"{name} has shape {list(array.shape)}", expected=f"axes [{axes}]")
        for axis, size in zip(axes.split(), array.shape, strict=True):
            known, owner = sizes.setdefault(axis, (size, name))
            if size != known:
                raise InputError(
                    f"{name} has {axis} = {size}, but {owner} has {known}", expected="one size"
                )
        if np.isinf(array).any() or (not nan and np.isnan(array).any()):
            raise NumericalError(
                f"{name} holds NaN or infinite values", do="Check the run that it is from"
            )
        arrays.append(array)
    if sizes["state"][0] < 2:
        raise InputError(
            f"There are {sizes['state'][0]} states", expected="the embedding and at least one block"
        )
    return arrays


def _states(states: Sequence[int]) -> str:
    """``state 3``, or ``states 1, 2, 5``."""
    return f"state{'s' if len(states) > 1 else ''} {', '.join(map(str, states))}"


def undefined(name: str, n_states: int, reason: str) -> Score:
    """A score of that name that is NaN throughout, with the reason."""
    return score_of(name, np.full(n_states, np.nan), [reason] * n_states)


def score_of(name: str, value: Iterable[float], reasons: Iterable[str], note: str = "") -> Score:
    """A score of that name, with the words and the unit of `DEFINITIONS`."""
    value = np.array(value, dtype=np.float64)
    return Score(
        name=name,
        value=value,
        total=float(value[-1]),
        unit=DEFINITIONS[name].unit,
        reasons=tuple(reasons),
        note=note,
        says=DEFINITIONS[name].says,
    )
