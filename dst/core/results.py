"""Results: frozen, shape-checked NumPy on the CPU, saved as `.npz` with a JSON header.

A result never holds a model and is never pickled. Axes: ``state`` = n_layers + 1
(0 = embedding, l = after block l), ``layer`` (0-based), ``pos``, ``role``, ``concept``.
Contrasts are in logits: LD = logsumexp(contextual answers) - logsumexp(associative answers).
"""

import dataclasses
import importlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar, dataclass_transform

import numpy as np
from jaxtyping import Bool, Float, Int, jaxtyped

from dst.core.case import Case
from dst.core.errors import ResultError
from dst.core.files import write_atomic
from dst.core.shapes import beartype
from dst.core.sites import state_at

FORMAT = 1
"""Version of the file format; raised when a file written before can no longer be read."""

NOT_GIVEN = 0.05
"""p(A+) + p(A-) at i* under which neither answer is what the model says there (METHOD 0)."""

_CLASSES: dict[str, type] = {}

FAMILIES = (
    "dst.core.claims",
    "dst.core.comparison_results",
    "dst.core.drift_results",
    "dst.core.estimate_results",
    "dst.core.failure_results",
    "dst.core.importance_results",
    "dst.core.label_results",
    "dst.core.lens_results",
    "dst.core.map_results",
    "dst.core.patch_results",
    "dst.core.patchscope_results",
    "dst.core.path_results",
    "dst.core.position_results",
    "dst.core.published_map_results",
    "dst.core.span_results",
    "dst.core.statistics_results",
    "dst.core.study_summary",
    "dst.core.suggestion",
)
"""Modules beside this one that define results; `open_result` reads those too."""


T = TypeVar("T")


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
def result(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass whose shapes are checked when it is made."""
    frozen: type[T] = dataclass(frozen=True, eq=False)(cls)
    checked: type[T] = jaxtyped(typechecker=beartype)(frozen)
    _CLASSES[checked.__name__] = checked
    return checked


@dataclass(frozen=True)
class Provenance:
    """What it takes to compute a result again.

    Attributes:
        model: Name or path of the model.
        revision: Its revision, where it has one.
        weights_hash: Hash of every weight and its name.
        backend: The engine that ran it.
        dtype: Number type of the run.
        versions: Versions of dst and of the libraries that computed.
        settings: Every argument that can change a number.
        seed: Seed of whatever was drawn, if anything was.
    """

    model: str = ""
    revision: str = ""
    weights_hash: str = ""
    backend: str = ""
    dtype: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None


class Result:
    """What every result can do: be saved, be read back, become rows."""

    provenance: Provenance

    def save(self, path: str | Path) -> Path:
        """Write one ``.npz`` (arrays plus a JSON header) atomically; no pickle.

        Raises:
            ResultError: The path cannot be written.
        """
        arrays: dict[str, np.ndarray] = {}
        header = {"format": FORMAT, "result": _encode(self, "", arrays)}
        arrays["header"] = np.frombuffer(
            json.dumps(header, ensure_ascii=False, allow_nan=False).encode("utf-8"), dtype=np.uint8
        )
        target = Path(path)
        target = target if target.suffix == ".npz" else target.with_name(target.name + ".npz")
        return write_atomic(
            target, lambda stream: np.savez_compressed(stream, allow_pickle=False, **arrays)
        )

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to_records(self) -> list[dict[str, Any]]:
        """Rows for a data frame: one per state where there is a state axis."""
        raise NotImplementedError


def open_result(path: str | Path) -> Any:
    """Read a result that was saved; its class is looked up in the table of result classes.

    Raises:
        ResultError: The file is missing, is not one of ours, was written by a newer
            format, or is damaged.
    """
    path = Path(path)
    do = "Give a .npz that was written by save()"
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(arrays.pop("header").tobytes().decode("utf-8"))
        version, encoded = header["format"], header["result"]
    except FileNotFoundError:
        raise ResultError(f"The result file {path} does not exist", do="Check the path") from None
    except Exception as error:  # noqa: BLE001 - numpy, zip and zlib fail in many ways
        raise ResultError(
            f"{path} is no result of dst, or is damaged ({_reason(error)})", do=do
        ) from None
    if version != FORMAT:
        raise ResultError(
            f"{path} has format {version}", expected=f"format {FORMAT}", do="Use the dst it is from"
        )
    try:
        opened = _decode(encoded, arrays)
    except Exception as error:  # noqa: BLE001 - whatever a file of ours does not hold
        raise ResultError(f"{path} is damaged ({_reason(error)})", do=do) from None
    if not isinstance(opened, Result):
        raise ResultError(f"{path} is damaged (it holds a {type(opened).__name__})", do=do)
    return opened


def _reason(error: Exception) -> str:
    """An error's first line: shape errors go on for a page."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__


def _check_reasons(name: str, value: np.ndarray, reasons: tuple[str, ...]) -> None:
    """A value per state is NaN where there is a reason, and nowhere else."""
    if len(reasons) != len(value):
        raise ValueError("one reason per state is needed, empty where the value is defined")
    for state, (number, reason) in enumerate(zip(value, reasons, strict=True)):
        if np.isnan(number) != bool(reason):
            raise ValueError(f"{name} at state {state}: NaN if and only if a reason")


# -- the results ------------------------------------------------------------------------


@result
class Trace(Result):
    """What one forward pass did on one case: the residual stream and what each block adds.

    Attributes:
        ids: Token ids, without padding.
        tokens: The same as text, one per position.
        roles: The role of each position (METHOD 0); exactly one each.
        answer_position: i*, where the answer is read.
        shared: Answer tokens that were teacher-forced because both answers begin with them.
        contextual_ids: First tokens, at i*, of the contextual answer's forms.
        associative_ids: First tokens, at i*, of the associative answer's forms.
        contextual_forms: The forms those tokens begin.
        associative_forms: The forms those tokens begin.
        dropped_forms: Forms that were not used, each with its reason.
        resid: Residual stream; state 0 is the embedding, state l the output of block l.
        attn_out: What attention adds to the residual.
        mlp_out: What the MLP adds to the residual.
        logits: Output logits at i*.
        contrast: LD at i*, in logits.
        model_output: The likeliest token at i*, as text.
        case: The case that was traced.
        provenance: What it takes to compute this again.
        notes: What was done to the prompt, such as the chat template it went through.
    """

    ids: Int[np.ndarray, " pos"]
    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    answer_position: int
    shared: tuple[str, ...]
    contextual_ids: Int[np.ndarray, " contextual"]
    associative_ids: Int[np.ndarray, " associative"]
    contextual_forms: tuple[str, ...]
    associative_forms: tuple[str, ...]
    dropped_forms: tuple[str, ...]
    resid: Float[np.ndarray, "state pos d_model"]
    attn_out: Float[np.ndarray, "layer pos d_model"]
    mlp_out: Float[np.ndarray, "layer pos d_model"]
    logits: Float[np.ndarray, " d_vocab"]
    contrast: float
    model_output: str
    case: Case
    provenance: Provenance
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.roles) == len(self.ids):
            raise ValueError("one token and one role per position are needed")
        if not 0 <= self.answer_position < len(self.ids):
            raise ValueError(f"the answer position {self.answer_position} is outside the prompt")
        if len(self.resid) != len(self.attn_out) + 1:
            raise ValueError("one state more than layers is needed")

    @property
    def n_layers(self) -> int:
        """Number of blocks L."""
        return self.resid.shape[0] - 1

    def to_records(self) -> list[dict[str, Any]]:
        """One row per position: its token, role and residual norm at every state."""
        norms = np.linalg.norm(self.resid, axis=-1)
        return [
            {"pos": i, "token": token, "role": role}
            | {f"resid_norm_{state}": float(norms[state, i]) for state in range(len(norms))}
            for i, (token, role) in enumerate(zip(self.tokens, self.roles, strict=True))
        ]


@result
class LensReadout(Result):
    """What the residual at i* would say after each state, read through the unembedding.

    Attributes:
        lens: ``logit_lens`` or ``tuned_lens``.
        margin: Lens LD per state, in logits; the last entry is LD.
        contextual_prob: Lens probability of the contextual answer's tokens, p(A+).
        associative_prob: The same of the associative answer's, p(A-).
        entropy: Entropy of the lens distribution, in nats.
        kl_to_output: KL(output || lens), in nats: 0 at the last state.
        top_ids: The k likeliest tokens per state.
        top_log_prob: Their log-probabilities, in nats.
        top_words: The same tokens as text.
        answer_is_final: Whether the likelier answer form equals the final one, per state.
        provenance: What it takes to compute this again.
    """

    lens: str
    margin: Float[np.ndarray, " state"]
    contextual_prob: Float[np.ndarray, " state"]
    associative_prob: Float[np.ndarray, " state"]
    entropy: Float[np.ndarray, " state"]
    kl_to_output: Float[np.ndarray, " state"]
    top_ids: Int[np.ndarray, "state k"]
    top_log_prob: Float[np.ndarray, "state k"]
    top_words: tuple[tuple[str, ...], ...]
    answer_is_final: Bool[np.ndarray, " state"]
    provenance: Provenance

    def __post_init__(self) -> None:
        if [len(words) for words in self.top_words] != [self.top_ids.shape[1]] * len(self.margin):
            raise ValueError("one text per state and likeliest token is needed")

    @property
    def answer_prob(self) -> Float[np.ndarray, " state"]:
        """p(A+) + p(A-) per state: under `NOT_GIVEN` at the last, the answer is not given at i*."""
        return self.contextual_prob + self.associative_prob

    def to_records(self) -> list[dict[str, Any]]:
        """One row per state."""
        return [
            {
                "state": state,
                "margin": float(self.margin[state]),
                "contextual_prob": float(self.contextual_prob[state]),
                "associative_prob": float(self.associative_prob[state]),
                "entropy": float(self.entropy[state]),
                "kl_to_output": float(self.kl_to_output[state]),
                "top_word": self.top_words[state][0],
            }
            for state in range(len(self.margin))
        ]


@result
class Score(Result):
    """One score over depth, by the name of its definition.

    Attributes:
        name: Such as ``dss_published``; see `dst.analysis.coherence` for each definition.
        value: The score per state, NaN where it is undefined.
        total: The score of the whole run (by default the last state's).
        unit: ``share``, ``logits`` or ``1``.
        reasons: Why a state's value is NaN, "" where it is not.
        note: What a reader must know of the value, such as an open case; "" if nothing.
        says: Its definition in a sentence.
        provenance: What it takes to compute this again.
    """

    name: str
    value: Float[np.ndarray, " state"]
    total: float
    unit: str
    reasons: tuple[str, ...]
    note: str = ""
    says: str = ""
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        _check_reasons(self.name, self.value, self.reasons)

    def at(self, depth: float) -> float:
        """The value at a share of depth (`dst.core.sites.state_at`).

        Raises:
            InputError: The depth is not between 0 and 1.
        """
        return float(self.value[state_at(depth, len(self.value) - 1)])

    def to_records(self) -> list[dict[str, Any]]:
        """One row per state."""
        return [
            {"score": self.name, "state": state, "value": float(value), "reason": reason}
            for state, (value, reason) in enumerate(zip(self.value, self.reasons, strict=True))
        ]


@result
class Coherence(Result):
    """Every coherence score of one case, by name."""

    scores: tuple[Score, ...]
    provenance: Provenance = field(default_factory=Provenance)

    def __getitem__(self, name: str) -> Score:
        """The score of that name.

        Raises:
            KeyError: There is none; the message lists the names there are.
        """
        for score in self.scores:
            if score.name == name:
                return score
        raise KeyError(f"{name!r}; the scores here are {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the scores, in order."""
        return tuple(score.name for score in self.scores)

    def to_records(self) -> list[dict[str, Any]]:
        """One row per score and state."""
        return [row for score in self.scores for row in score.to_records()]


@result
class Mark(Result):
    """One marker: a state (after block l of L), or NaN with a reason.

    Attributes:
        name: ``onset``, ``inversion``, ``commitment``, ``handover``...
        definition: Whose and on what, such as ``published (guide) on dss_published``.
        state: The state, or NaN.
        n_layers: L, so that ``state / n_layers`` is a depth.
        reason: Why it is NaN; "" where it is not.
        low: Lower end of its interval, NaN where none was computed.
        high: Upper end of its interval.
        thresholds: The numbers that its definition used.
        note: What a reader must know, such as how often it fires on noise.
    """

    name: str
    definition: str
    state: float
    n_layers: int
    reason: str = ""
    low: float = float("nan")
    high: float = float("nan")
    thresholds: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if math.isnan(self.state) != bool(self.reason):
            raise ValueError(f"{self.name}: NaN if and only if there is a reason")
        if not math.isnan(self.state) and not 0 <= self.state <= self.n_layers:
            raise ValueError(f"{self.name}: state {self.state} is outside 0..{self.n_layers}")

    @property
    def depth(self) -> float:
        """The state as a share of depth, l / L."""
        return self.state / self.n_layers

    def to_records(self) -> list[dict[str, Any]]:
        """One row."""
        return [
            {
                "mark": self.name,
                "definition": self.definition,
                "state": self.state,
                "low": self.low,
                "high": self.high,
                "reason": self.reason,
            }
        ]


@result
class Markers(Result):
    """Every marker of one case, by name and definition."""

    marks: tuple[Mark, ...]
    provenance: Provenance = field(default_factory=Provenance)

    def get(self, name: str, definition: str) -> Mark:
        """The mark of that name and definition.

        Raises:
            KeyError: There is none; the message lists those there are.
        """
        for mark in self.marks:
            if (mark.name, mark.definition) == (name, definition):
                return mark
        known = ", ".join(f"{mark.name} ({mark.definition})" for mark in self.marks)
        raise KeyError(f"{name} ({definition}); the marks here are {known}")

    def to_records(self) -> list[dict[str, Any]]:
        """One row per mark."""
        return [row for mark in self.marks for row in mark.to_records()]


@result
class Estimate:
    """A mean over draws with its 95 % interval (NaN ends for a single draw)."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.mean:+.2f} (one draw)"
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@result
class Pathways(Result):
    """How context and association reach the answer: two flows, role by depth, in logits.

    LD(x) = base + prior + total effect. The contextual flow is measured between x and the
    neutral runs x_0, the associative flow between x_0 and the runs x_0,sub.

    Attributes:
        roles: The roles that occur, ``answer`` last: the role axis.
        positions: The positions of each role.
        contrast: LD(x).
        base: LD(x_0,sub): what the answers differ by without cue and without subject.
        prior: LD(x_0) - base: what the subject brings by itself.
        total_effect: LD(x) - LD(x_0): what the context brings.
        contextual_removal: N_ctx = LD(x) - LD(x with h[l, r] of x_0).
        contextual_insertion: D_ctx = LD(x_0 with h[l, r] of x) - LD(x_0).
        associative_removal: N_asc = LD(x_0) - LD(x_0 with h[l, r] of x_0,sub).
        associative_insertion: D_asc = LD(x_0,sub with h[l, r] of x_0) - LD(x_0,sub).
        contextual_floor: tau of the contextual flow.
        associative_floor: tau of the associative flow.
        draw_against_draw: Control: root mean square of the effect of putting one neutral
            draw into another; NaN for a single draw.
        marks: Arrival, departure and handover of both flows.
        redundant: States at which no single role is needed for the context.
        cancelled: Whether the context's total is under the floor though parts of it are not.
        self_patch_error: Control: largest effect of putting a run's own states back, in logits.
        donor_error: Control: largest difference from the donor's LD when every role is swapped;
            NaN where no variant has the prompt's length.
        notes: What was drawn, left out or cannot be known.
        provenance: What it takes to compute this again.
    """

    roles: tuple[str, ...]
    positions: tuple[tuple[int, ...], ...]
    contrast: float
    base: Estimate
    prior: Estimate
    total_effect: Estimate
    contextual_removal: Float[np.ndarray, "context_draw state role"]
    contextual_insertion: Float[np.ndarray, "context_draw state role"]
    associative_removal: Float[np.ndarray, "association_draw state role"]
    associative_insertion: Float[np.ndarray, "association_draw state role"]
    contextual_floor: float
    associative_floor: float
    draw_against_draw: Float[np.ndarray, "state role"]
    marks: tuple[Mark, ...]
    redundant: Bool[np.ndarray, " state"]
    cancelled: bool
    self_patch_error: float
    donor_error: float
    notes: tuple[str, ...]
    provenance: Provenance

    def at_answer(self, name: str) -> Float[np.ndarray, " state"]:
        """The mean over draws of a flow at the answer position, by its field's name."""
        return getattr(self, name)[:, :, self.roles.index("answer")].mean(axis=0)

    def to_records(self) -> list[dict[str, Any]]:
        """One row per state and role, means over draws."""
        names = (
            "contextual_removal",
            "contextual_insertion",
            "associative_removal",
            "associative_insertion",
        )
        means = {name: getattr(self, name).mean(axis=0) for name in names}
        return [
            {"state": state, "role": role} | {name: float(means[name][state, i]) for name in names}
            for state in range(len(self.redundant))
            for i, role in enumerate(self.roles)
        ]


@result
class Repairs(Result):
    """Repairs of a run at every state, their controls, and the commitment each implies.

    Attributes:
        names: The repairs that exist for this case.
        patched: LD of the run repaired at each state, mean over draws.
        control: LD of the control run repaired likewise, mean over draws.
        commitments: One mark per repair: 1 + the last state at which it works.
        provenance: What it takes to compute this again.
    """

    names: tuple[str, ...]
    patched: Float[np.ndarray, "repair state"]
    control: Float[np.ndarray, "repair state"]
    commitments: tuple[Mark, ...]
    provenance: Provenance

    def to_records(self) -> list[dict[str, Any]]:
        """One row per repair and state."""
        return [
            {
                "repair": name,
                "state": state,
                "patched": float(self.patched[i, state]),
                "control": float(self.control[i, state]),
            }
            for i, name in enumerate(self.names)
            for state in range(self.patched.shape[1])
        ]


@result
class Attribution(Result):
    """What each component adds to LD at i*, split into base, association and context.

    Attributes:
        components: ``embedding``, ``head l.h``, ``attn_bias l``, ``mlp l`` (layers from 0),
            ``norm_bias``, ``head_bias``, and ``nonlinear``, the residue that closes the sum.
        layers: The layer of each component; -1 for the embedding, L for what comes after.
        base: s(c; x_0,sub), mean over draws, in logits.
        associative: s(c; x_0) - s(c; x_0,sub), mean over draws.
        contextual: s(c; x) - s(c; x_0), mean over draws.
        contrast: LD(x), which all parts of all components add up to.
        closure_error: |sum - LD(x)| before the residue is added, without the residue's own
            part: the error of the decomposition of the residual stream, in logits.
        provenance: What it takes to compute this again.
    """

    components: tuple[str, ...]
    layers: Int[np.ndarray, " component"]
    base: Float[np.ndarray, " component"]
    associative: Float[np.ndarray, " component"]
    contextual: Float[np.ndarray, " component"]
    contrast: float
    closure_error: float
    provenance: Provenance

    @property
    def total(self) -> Float[np.ndarray, " component"]:
        """s(c; x) = base + associative + contextual, in logits; sums to LD(x)."""
        return self.base + self.associative + self.contextual

    def up_to(self, part: str) -> Float[np.ndarray, " state"]:
        """What a part ("base", "associative", "contextual") adds up to by each state, in logits.

        State l sums the embedding and blocks 0..l-1; the last state is the part's whole sum,
        final norm, head and residue included.
        """
        values, n_layers = getattr(self, part), int(self.layers.max())
        by_state = [values[self.layers < state].sum() for state in range(n_layers)]
        return np.array([*by_state, values.sum()])

    def to_records(self) -> list[dict[str, Any]]:
        """One row per component."""
        return [
            {
                "component": name,
                "layer": int(self.layers[i]),
                "base": float(self.base[i]),
                "associative": float(self.associative[i]),
                "contextual": float(self.contextual[i]),
            }
            for i, name in enumerate(self.components)
        ]


@result
class CutEffects(Result):
    """What LD loses when every later position stops reading a source, in logits.

    Attributes:
        sources: Roles that were cut off.
        all_layers: LD(x) - LD(x with the source cut off in every block).
        one_layer: The same with the cut in one block only: where the first hop is.
        up_to_layer: The same with the cut in blocks 0..l: when the first hop is over.
        control: The effect of cutting off as many random keys in every block.
        provenance: What it takes to compute this again.
    """

    sources: tuple[str, ...]
    all_layers: Float[np.ndarray, " source"]
    one_layer: Float[np.ndarray, "source layer"]
    up_to_layer: Float[np.ndarray, "source layer"]
    control: Float[np.ndarray, "source draw"]
    provenance: Provenance

    def to_records(self) -> list[dict[str, Any]]:
        """One row per source and layer."""
        return [
            {
                "source": source,
                "layer": layer,
                "one_layer": float(self.one_layer[i, layer]),
                "up_to_layer": float(self.up_to_layer[i, layer]),
                "all_layers": float(self.all_layers[i]),
            }
            for i, source in enumerate(self.sources)
            for layer in range(self.one_layer.shape[1])
        ]


@result
class Dose(Result):
    """How hard the state at i* must be pushed to turn the answer, state by state.

    Attributes:
        value: Smallest push along the answers' direction that changes the sign of LD, as a
            share of the state's norm; NaN where none up to 8 norms does.
        reasons: Why a state's value is NaN, "" where it is not.
        contrast: LD of the run; a failure is pushed toward A+, a success toward A-.
        commitment: First state that asks for more than correct runs do.
        provenance: What it takes to compute this again.
    """

    value: Float[np.ndarray, " state"]
    reasons: tuple[str, ...]
    contrast: float
    commitment: Mark
    provenance: Provenance

    def __post_init__(self) -> None:
        _check_reasons("dose", self.value, self.reasons)

    def to_records(self) -> list[dict[str, Any]]:
        """One row per state."""
        return [
            {"state": state, "dose": float(value), "reason": reason}
            for state, (value, reason) in enumerate(zip(self.value, self.reasons, strict=True))
        ]


@result
class Report(Result):
    """The whole account of one case: what `dst.explain` returns.

    Attributes:
        case: The case, its associative answer filled in where it was inferred.
        trace: The forward pass.
        lens: The logit lens at i*.
        coherence: Every score, by name.
        markers: Every mark, by name and definition.
        outcome: ``hallucination`` (the greedy answer is an associative form), ``correct``
            (a contextual form) or ``neither`` (counted apart).
        answer: The greedy answer at i*, as text.
        answer_prob: Its probability.
        verdict: The account in sentences, each with its number.
        notes: What was inferred, dropped, or cannot be known of this case.
        provenance: What it takes to compute this again.
        pathways: The two flows; None where the case has no cue or no subject.
        repairs: What repairs it, and the commitment; None likewise.
        attribution: What each component adds to LD; None likewise.
        continuation: How the model goes on where neither answer is given at i*; else "".
        suggestion: How subject and cue were inferred (`dst.core.suggestion.Suggestion`); None
            where the case names both.
        failure: How the run fails (`dst.core.failure_results.FailureMode`); None where it is
            correct, or where the two pathways could not be measured.
        claims: The verdict's sentences, each with what it rests on and the control that it passed
            (`dst.core.claims.Claim`); empty in a report that was made without.
        semantic_map: The concepts at i* and their effects (`dst.core.map_results.SemanticMap`),
            where it was asked for.
        importance: What LD owes to them (`dst.core.importance_results.ConceptImportance`),
            likewise.
        drift: Drift from a matched run (`dst.core.drift_results.Drift`), likewise.
        spans: The words that the answer hangs on (`dst.core.span_results.Spans`), likewise.
    """

    case: Case
    trace: Trace
    lens: LensReadout
    coherence: Coherence
    markers: Markers
    outcome: str
    answer: str
    answer_prob: float
    verdict: tuple[str, ...]
    notes: tuple[str, ...]
    provenance: Provenance
    pathways: Pathways | None = None
    repairs: Repairs | None = None
    attribution: Attribution | None = None
    continuation: str = ""
    suggestion: Result | None = None
    failure: Result | None = None
    claims: tuple[Result, ...] = ()
    semantic_map: Result | None = None
    importance: Result | None = None
    drift: Result | None = None
    spans: Result | None = None

    def to_records(self) -> list[dict[str, Any]]:
        """One row: the case, its outcome, every score's total and every mark."""
        row: dict[str, Any] = {
            "case_id": self.case.case_id,
            "group": self.case.group,
            "outcome": self.outcome,
            "answer": self.answer,
            "answer_prob": self.answer_prob,
            "contrast": self.trace.contrast,
        }
        row |= {score.name: score.total for score in self.coherence.scores}
        row |= {f"{mark.name} ({mark.definition})": mark.state for mark in self.markers.marks}
        return [row]

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one offline HTML page (see `dst.report.page`)."""
        from dst.report.page import write_page

        return write_page(self, path)


# -- encoding ---------------------------------------------------------------------------


def _encode(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """JSON for ``value``; arrays go to ``arrays`` under their path, and leave a pointer."""
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise ResultError(f"The field {path} holds Python objects", expected="numbers or text")
        while path in arrays:  # {"a/b": ...} beside {"a": {"b": ...}}
            path += "_"
        arrays[path] = np.asarray(value, order="C")
        return {"$array": path}
    if isinstance(value, Case):
        return {"$case": value.to_dict()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        join = lambda name: f"{path}/{name}" if path else name  # noqa: E731
        return {
            "$class": type(value).__name__,
            "fields": {
                spec.name: _encode(getattr(value, spec.name), join(spec.name), arrays)
                for spec in dataclasses.fields(value)
            },
        }
    if isinstance(value, Mapping):
        return {"$map": [[str(k), _encode(v, f"{path}/{k}", arrays)] for k, v in value.items()]}
    if isinstance(value, (tuple, list)):
        return [_encode(item, f"{path}/{i}", arrays) for i, item in enumerate(value)]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return number if math.isfinite(number) else {"$float": repr(number)}
    if value is None or isinstance(value, str):
        return value
    raise ResultError(f"The field {path} is a {type(value).__name__}, which is not saved")


def _decode(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item, arrays) for item in value)
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        return arrays[value["$array"]]
    if "$float" in value:
        return float(value["$float"])
    if "$case" in value:
        return Case.from_dict(value["$case"])
    if "$map" in value:
        return {key: _decode(item, arrays) for key, item in value["$map"]}
    name = value["$class"]
    for module in FAMILIES:
        importlib.import_module(module)
    table = {**_CLASSES, "Provenance": Provenance}
    if name not in table:
        raise ValueError(f"it holds a {name}, which this dst does not know")
    fields = {key: _decode(item, arrays) for key, item in value["fields"].items()}
    return table[name](**fields)
