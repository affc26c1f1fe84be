"""A report made from plain numbers, as a run of a small trained model would give them.

No model runs here: figures, page and terminal only show what they are given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dst.core.case import Case
from dst.core.claims import Claim
from dst.core.failure_results import FailureEvidence, FailureMode, Finding
from dst.core.results import (
    Attribution,
    Coherence,
    Estimate,
    LensReadout,
    Mark,
    Markers,
    Pathways,
    Provenance,
    Repairs,
    Report,
    Score,
    Trace,
)
from dst.core.suggestion import Alternative, Candidate, Suggestion

PROMPT = (
    "anna is at the concert . anna sees a bass . the door is open . what is the bass ? "
    "the bass is a"
)
NAN = float("nan")
VOCABULARY = ("the", "a", "bass", "lake", "instrument", "fish", "concert", "net", "guitar", "kind")
CONTEXTUAL_ID, ASSOCIATIVE_ID = 4, 5

PROVENANCE = Provenance(
    model="embedded",
    weights_hash="8c1f0d3a52be",
    backend="hooks",
    dtype="float32",
    versions={"dst": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
    settings={"k": 5},
    seed=None,
)


def make_report(
    *,
    n_layers: int = 4,
    prompt: str = PROMPT,
    tokens: Sequence[str] | None = None,
    subject: str = "bass",
    cue: str = "concert",
    vocabulary: Sequence[str] = VOCABULARY,
    final: float = -2.31,
    flows: bool = True,
) -> Report:
    """A report whose margin starts at 0, leans to the context, then goes to ``final``.

    Args:
        n_layers: Number of blocks.
        prompt: The prompt; its words are its tokens unless ``tokens`` are given.
        tokens: The tokens, where they are not the words.
        subject: A word of the prompt.
        cue: A word of the prompt.
        vocabulary: Ten words; the fifth is the contextual answer, the sixth the associative.
        final: LD, in logits; negative is a hallucination.
        flows: With the two pathways, the repairs and the attribution, as where a case has a
            cue and a subject.
    """
    tokens = tuple(tokens or prompt.split())
    contextual, associative = vocabulary[CONTEXTUAL_ID], vocabulary[ASSOCIATIVE_ID]
    case = Case(
        prompt=prompt,
        subject=subject,
        cue=(cue,),
        contextual=(contextual,),
        associative=(associative,),
        context_words=("guitar", "song"),
        competing_words=("lake", "net"),
    )
    trace = _trace(case, tokens, n_layers, final)
    lens = _lens(n_layers, vocabulary, final)
    hallucinates = final < 0
    said = associative if hallucinates else contextual
    claims = (
        Claim(
            f"The model answers {said!r} where the context says {contextual!r} "
            f"(LD {final:.2f} logits).",
            "outcome",
        ),
        *((Claim(f"LD {final:+.2f} = base +0.50 + prior and effect.", "sum"),) if flows else ()),
        Claim(
            f"The answer could be repaired up to state 1 of {n_layers}; after that {said!r} is "
            "committed.",
            "repairs",
            "de-prime at state 1: LD +1.70, its control +0.50",
        ),
    )
    paths = make_pathways(trace.roles, n_layers, final) if flows else None
    fixes = make_repairs(n_layers, final) if flows else None
    causal = (*fixes.commitments, *paths.marks[-4:]) if paths and fixes else ()
    return Report(
        case=case,
        trace=trace,
        lens=lens,
        coherence=_coherence(n_layers, lens.margin),
        markers=_markers(n_layers, causal),
        outcome="hallucination" if hallucinates else "correct",
        answer=said,
        answer_prob=float(max(lens.contextual_prob[-1], lens.associative_prob[-1])),
        verdict=tuple(claim.says for claim in claims),
        notes=(
            f"The associative answer {associative!r} was inferred: it is the likeliest word.",
            "The form 'Fish' was dropped: it is no token of this vocabulary.",
        ),
        provenance=PROVENANCE,
        pathways=paths,
        repairs=fixes,
        attribution=make_attribution(n_layers, final) if flows else None,
        claims=claims,
    )


def make_pathways(trace_roles: Sequence[str], n_layers: int, final: float) -> Pathways:
    """Flows as a trained model has them: association first, context over a relay.

    Base 1/2, prior -4; the context travels cue (states 0 and 1), relay, answer (the last two
    states), the association from the first subject (state 0) to the answer. Four draws.
    """
    roles = (*dict.fromkeys(role for role in trace_roles if role != "answer"), "answer")
    base, prior = 0.5, -4.0
    effect = final - base - prior
    spread = np.array([0.9, 1.0, 1.1, 1.0])
    states = np.arange(n_layers + 1)
    late = max(n_layers - 1, 1)
    context, association = (np.zeros((n_layers + 1, len(roles))) for _ in range(2))
    for role, where in (
        ("cue", states < min(2, late)),
        ("relay", (states >= 2) & (states < late)),
        ("answer", states >= late),
    ):
        if role in roles:
            context[where, roles.index(role)] = effect
    for role, where in (("subject_1", states < 1), ("answer", states >= 1)):
        if role in roles:
            association[where, roles.index(role)] = prior

    def mark(name: str, flow: str, role: str, state: float, **more: object) -> Mark:
        definition = f"{flow} flow at {role}"
        return Mark(name, definition, state, n_layers, **more)  # type: ignore[arg-type]

    never = {"reason": "never carries this flow (its removal stays under the floor)"}
    marks = [
        mark("arrival", "contextual", "cue", 0.0, low=0.0, high=0.0),
        mark("departure", "contextual", "cue", float(min(2, late))),
        mark("arrival", "associative", "cue", NAN, **never),
        mark("departure", "associative", "cue", NAN, **never),
        mark("arrival", "associative", "subject_1", 0.0),
        mark("departure", "associative", "subject_1", 1.0),
        mark("arrival", "contextual", "answer", float(late), low=late - 0.5, high=float(late)),
        mark("handover", "contextual", "answer", float(late)),
        mark("arrival", "associative", "answer", 1.0, low=1.0, high=1.0),
        mark("handover", "associative", "answer", 1.0),
    ]
    return Pathways(
        roles=roles,
        positions=tuple(
            tuple(i for i, name in enumerate(trace_roles) if name == role) for role in roles
        ),
        contrast=final,
        base=Estimate(base, 0.4, 0.6, 4),
        prior=Estimate(prior, prior - 0.5, prior + 0.5, 4),
        total_effect=Estimate(effect, effect - 0.2, effect + 0.2, 4),
        contextual_removal=spread[:, None, None] * context,
        contextual_insertion=spread[::-1, None, None] * context,
        associative_removal=spread[:, None, None] * association,
        associative_insertion=spread[::-1, None, None] * association,
        contextual_floor=0.2,
        associative_floor=0.5,
        draw_against_draw=np.full((n_layers + 1, len(roles)), 0.07),
        marks=tuple(marks),
        redundant=np.zeros(n_layers + 1, dtype=bool),
        cancelled=False,
        self_patch_error=3e-7,
        donor_error=0.0,
        notes=(),
        provenance=PROVENANCE,
    )


def make_repairs(n_layers: int, final: float) -> Repairs:
    """Two repairs that exist and one that does not; of a failure the first works up to state 1."""
    states = np.arange(n_layers + 1)
    turned = float(min(2, n_layers))
    early = states < 2
    fails = final < 0

    def mark(name: str, state: float, **more: object) -> Mark:
        floor = {"thresholds": {"floor": 0.5}}
        return Mark("commitment", f"causal, {name}", state, n_layers, **(more | floor))  # type: ignore[arg-type]

    return Repairs(
        names=("de-prime", "remove cue"),
        patched=np.stack([np.where(early, 1.7, final), np.where(early, -3.5, final)]),
        control=np.stack([np.where(early, 0.5, -3.5), np.full(n_layers + 1, 0.6)]),
        commitments=(
            mark("de-prime", turned, low=1.0, high=turned)
            if fails
            else mark("de-prime", NAN, reason="nothing to repair: no failure"),
            mark("restore cue", NAN, reason="no clean variant of equal length"),
            mark("remove cue", NAN, reason="nothing to break: no success")
            if fails
            else mark("remove cue", turned, low=turned, high=turned),
        ),
        provenance=PROVENANCE,
    )


def make_attribution(n_layers: int, final: float) -> Attribution:
    """Two heads, a bias and an MLP a layer; ``nonlinear`` closes the sum to LD."""
    names, layers = ["embedding"], [-1]
    for layer in range(n_layers):
        names += [f"head {layer}.0", f"head {layer}.1", f"attn_bias {layer}", f"mlp {layer}"]
        layers += [layer] * 4
    names += ["norm_bias", "head_bias", "nonlinear"]
    layers += [n_layers] * 3
    base, associative, contextual = 0.2 * np.random.default_rng(1).normal(size=(3, len(names)))
    associative[-3:] = contextual[-3:] = 0.0
    contextual[2], associative[4] = 2.5, -3.25
    base[-1] += final - (base + associative + contextual).sum()
    return Attribution(
        components=tuple(names),
        layers=np.array(layers),
        base=base,
        associative=associative,
        contextual=contextual,
        contrast=final,
        closure_error=2e-8,
        provenance=PROVENANCE,
    )


def make_failure(n_layers: int, final: float) -> FailureMode:
    """A hijack: one condition of the first two rules fails, all of the last hold."""
    nothing = np.zeros((n_layers, n_layers + 1))
    early = np.arange(n_layers + 1) < 2
    hijack = "reasoning shortcut hijack"
    findings = (
        Finding("fails without distractors", False, "it fails in 1 of 4", "knowledge or format"),
        Finding("a late subject turns the answer", False, "no late state does", "lag"),
        Finding("the subject passes no context on", True, "it passes on +0.10", "lag"),
        Finding("senses separable", True, "4.0 times as far", hijack),
        Finding("the subject has a prior", True, "its prior is -4.00", hijack),
    )
    return FailureMode(
        mode=hijack,
        rule=hijack,
        says="Failure mode: reasoning shortcut hijack; 4.0 times as far; its prior is -4.00.",
        findings=findings,
        evidence=FailureEvidence(
            outcome="hallucination",
            contrast=final,
            clean_contrasts=np.array([0.75, -0.25]),
            clean_outcomes=("correct", "hallucination"),
            floor=0.5,
            total_effect=1.19,
            prior=-4.0,
            association_arrived=4.0,
            back_patched=nothing + final,
            back_patched_control=nothing - 3.5,
            subject_brings=np.full(n_layers + 1, 0.1),
            donor_subject=1.75,
            cue_knockout=1.25,
            separated_from="swap",
            separation=4.0,
            separation_threshold=2.5,
            de_primed=np.where(early, 1.7, final),
            de_primed_control=np.where(early, 0.5, -3.5),
            restored=np.full(n_layers + 1, np.nan),
            restored_control=np.full(n_layers + 1, np.nan),
            random_route=np.full((20, n_layers + 1), 0.25),
            notes=("The cue was not cut off: the engine does not offer it.",),
            provenance=PROVENANCE,
        ),
        provenance=PROVENANCE,
    )


def make_suggestion(case: Case, final: float) -> Suggestion:
    """A cue and a subject inferred, a runner-up for the subject, and a word that falls short."""

    def candidate(word: str, mean: float, excess: float) -> Candidate:
        necessity = Estimate(mean, mean - 0.25, mean + 0.25, 8)
        own = Estimate(NAN, NAN, NAN, 0)
        return Candidate((word,), 1, (3,), necessity, excess, 2.5, own, "it was not tried")

    cue, subject = case.cue[0], case.subject or ""
    effect, prior = Estimate(1.19, 0.99, 1.39, 8), Estimate(-4.0, -4.5, -3.5, 8)
    other = Estimate(-3.75, -4.25, -3.25, 8)
    return Suggestion(
        case=case.replace(cue=(), subject=None),
        subject=subject,
        cue=(cue,),
        subject_reason="",
        cue_reason="",
        kind="conflict",
        masked_by="",
        contrast=final,
        total_effect=effect,
        prior=prior,
        alternatives=(Alternative("subject", (cue,), "door", effect, other),),
        candidates=(
            candidate(subject, -3.5, -9.5),
            candidate(cue, 1.25, 4.5),
            candidate("door", 0.125, 0.5),
        ),
        twin=None,
        twin_reason="this is no yes/no question",
        level=0.05,
        forward_passes=96,
        notes=(),
        provenance=PROVENANCE,
    )


def _trace(case: Case, tokens: tuple[str, ...], n_layers: int, final: float) -> Trace:
    rng = np.random.default_rng(0)
    width, n = 16, len(tokens)
    logits = np.zeros(len(VOCABULARY), dtype=np.float32)
    logits[ASSOCIATIVE_ID], logits[CONTEXTUAL_ID] = 4.0, 4.0 + final
    growth = np.linspace(1.0, 9.0, n_layers + 1)[:, None, None]
    return Trace(
        ids=np.arange(n) % len(VOCABULARY),
        tokens=tokens,
        roles=_roles(case, tokens),
        answer_position=n - 1,
        shared=(),
        contextual_ids=np.array([CONTEXTUAL_ID]),
        associative_ids=np.array([ASSOCIATIVE_ID]),
        contextual_forms=case.contextual,
        associative_forms=case.associative,
        dropped_forms=("Fish: not in the vocabulary",),
        resid=growth * rng.normal(size=(n_layers + 1, n, width)),
        attn_out=rng.normal(size=(n_layers, n, width)),
        mlp_out=2 * rng.normal(size=(n_layers, n, width)),
        logits=logits,
        contrast=final,
        model_output=f"{case.associative[0]} .",
        case=case,
        provenance=PROVENANCE,
    )


def _roles(case: Case, tokens: tuple[str, ...]) -> tuple[str, ...]:
    roles, mentions, cue_seen = [], 0, False
    for i, token in enumerate(tokens):
        if i == len(tokens) - 1:
            roles.append("answer")
        elif token.strip() == case.subject:
            mentions += 1
            roles.append(f"subject_{mentions}")
        elif token.strip() in case.cue:
            cue_seen = True
            roles.append("cue")
        else:
            roles.append("relay" if cue_seen and mentions < 3 else "rest")
    return tuple(roles)


def _lens(n_layers: int, vocabulary: Sequence[str], final: float) -> LensReadout:
    depth = np.linspace(0, 1, n_layers + 1)
    margin = 3.0 * np.sin(np.pi * depth) * (1 - depth) + final * depth**2
    share = 1 / (1 + np.exp(-margin))
    mass = 0.02 + 0.9 * depth**2
    ids = np.stack([np.roll(np.arange(10), -state)[:5] for state in range(n_layers + 1)])
    ids[-1, 0] = ASSOCIATIVE_ID if final < 0 else CONTEXTUAL_ID
    said = mass * np.maximum(share, 1 - share)
    log_prob = np.log(np.array([0.5, 0.2, 0.1, 0.05, 0.02]))[None] + np.log(said / 0.5)[:, None]
    return LensReadout(
        lens="logit_lens",
        margin=margin,
        contextual_prob=mass * share,
        associative_prob=mass * (1 - share),
        entropy=3.0 - 2 * depth,
        kl_to_output=2.5 * (1 - depth),
        top_ids=ids,
        top_log_prob=log_prob,
        top_words=tuple(tuple(vocabulary[token] for token in row) for row in ids),
        answer_is_final=np.sign(margin) == np.sign(final),
        provenance=PROVENANCE,
    )


def _coherence(n_layers: int, margin: np.ndarray) -> Coherence:
    depth = np.linspace(0, 1, n_layers + 1)
    none = ("",) * (n_layers + 1)
    first = ("the embedding holds one word only", *none[1:])

    def score(name: str, value: np.ndarray, unit: str, note: str = "", gap: bool = True) -> Score:
        value = value.copy()
        if gap:
            value[0] = NAN
        says = f"What {name} is, in a sentence."
        return Score(name, value, float(value[-1]), unit, first if gap else none, note, says)

    return Coherence(
        (
            score(
                "dss_published", 0.55 - 0.08 * depth, "share", "as coded: |Pearson|, words alone"
            ),
            score(
                "dss_corrected", 0.7 - 0.5 * depth**2, "share", "leading space, in context, r >= 0"
            ),
            score("cas_published", 0.52 + 0.03 * np.sin(7 * depth), "share", "", False),
            score("cas_corrected", 0.12 - 0.3 * depth, "1", "normed, centred, signed", False),
            score("margin", margin, "logits", "lens LD at the answer position", False),
        ),
        PROVENANCE,
    )


def _markers(n_layers: int, causal: Sequence[Mark]) -> Markers:
    late = float(n_layers - 1)

    def mark(name: str, definition: str, state: float, **more: object) -> Mark:
        return Mark(name, definition, state, n_layers, **more)  # type: ignore[arg-type]

    return Markers(
        (
            *causal,
            mark("onset", "published (guide) on dss_published", 1.0, thresholds={"below": 0.6}),
            mark(
                "inversion",
                "published (guide) on dss_published",
                NAN,
                reason="dss_published never falls below 0.5",
                thresholds={"below": 0.5},
            ),
            mark(
                "commitment",
                "published (guide) on dss_published",
                float(n_layers),
                note="the lowest value always exists, so correct answers commit too",
            ),
            mark("onset", "published (code) on cas_published", 1.0, note="99 % on noise"),
            mark("inversion", "lens (dst) on margin", late, low=late - 0.6, high=late + 0.4),
            mark("commitment", "lens (dst) on margin", late),
        ),
        PROVENANCE,
    )
