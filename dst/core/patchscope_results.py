"""Results of Patchscopes: what a model says when a state of another run is put into a prompt."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from dst.core.results import Provenance, Result, result


@result
class Patchscope(Result):
    """What an inspection prompt goes on with, per state and position that was put into it.

    Axes: ``state`` (those asked for), ``pos`` (positions of the source), ``step`` (generated
    tokens; -1 and NaN after the end of the text).

    Attributes:
        states: The source's states.
        target_states: The state of the target model that each is put in at.
        positions: The source's positions.
        tokens: The token at each.
        source: The source prompt's tokens as text.
        target_prompt: The inspection prompt.
        target_tokens: Its tokens as text.
        target_position: Where in it the state is put.
        target_model: The model that generates.
        mapping: ``identity``, or ``affine`` with its held-out R^2.
        ids: The generated tokens, greedy.
        words: The generated text.
        log_prob: Log-probability of each generated token, in nats.
        plain_log_prob: Log-probability of the first one without the patch.
        plain_ids: What the inspection prompt says without a patch.
        plain_words: The same as text.
        other_ids: What it says with a state of another prompt; no rows where there is none.
        other_words: The same as text, one per state.
        other_log_prob: Log-probability of each of those tokens, in nats.
        other_source: That prompt, its token in brackets; "" where there is none.
        claimed: Generated tokens that neither control says at any step: only these say
            something of the source.
        fired: Places changed, over all steps; one per step.
        delta_norm: L2 norm of the change: 0 where the state was there already.
        notes: What was chosen or replaced.
        provenance: What it takes to compute this again.
    """

    states: Int[np.ndarray, " state"]
    target_states: Int[np.ndarray, " state"]
    positions: tuple[int, ...]
    tokens: tuple[str, ...]
    source: tuple[str, ...]
    target_prompt: str
    target_tokens: tuple[str, ...]
    target_position: int
    target_model: str
    mapping: str
    ids: Int[np.ndarray, "state pos step"]
    words: tuple[tuple[str, ...], ...]
    log_prob: Float[np.ndarray, "state pos step"]
    plain_log_prob: Float[np.ndarray, "state pos"]
    plain_ids: Int[np.ndarray, " step"]
    plain_words: str
    other_ids: Int[np.ndarray, "other step"]
    other_words: tuple[str, ...]
    other_log_prob: Float[np.ndarray, "other step"]
    other_source: str
    claimed: Bool[np.ndarray, "state pos step"]
    fired: Int[np.ndarray, "state pos"]
    delta_norm: Float[np.ndarray, "state pos"]
    notes: tuple[str, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        n_states, n_pos = self.ids.shape[:2]
        if [len(row) for row in self.words] != [n_pos] * n_states:
            raise ValueError("one text per state and position is needed")
        if not n_pos == len(self.tokens) == len(self.positions):
            raise ValueError("one token per position is needed")
        if len(self.other_words) != len(self.other_ids) or len(self.other_ids) not in (0, n_states):
            raise ValueError("the other prompt's state has one text per state, or there is none")
        if bool(self.other_source) != bool(len(self.other_ids)):
            raise ValueError("other_source names the other prompt if and only if there is one")

    @property
    def first_prob(self) -> Float[np.ndarray, "state pos"]:
        """Probability of the first generated token."""
        return np.exp(self.log_prob[:, :, 0])

    @property
    def lift(self) -> Float[np.ndarray, "state pos"]:
        """How much likelier the patch makes the first generated token, in nats."""
        return self.log_prob[:, :, 0] - self.plain_log_prob

    def to_records(self) -> list[dict[str, Any]]:
        """One row per state and position."""
        return [
            {
                "state": int(state),
                "target_state": int(self.target_states[s]),
                "pos": self.positions[j],
                "token": self.tokens[j],
                "words": self.words[s][j],
                "first_prob": float(self.first_prob[s, j]),
                "lift": float(self.lift[s, j]),
                "claimed": int(self.claimed[s, j].sum()),
                "fired": int(self.fired[s, j]),
                "delta_norm": float(self.delta_norm[s, j]),
            }
            for s, state in enumerate(self.states)
            for j in range(len(self.positions))
        ]


@result
class PatchscopeAgreement(Result):
    """How often an inspected state says the model's own next token, state by state.

    Attributes:
        states: The source's states.
        target_states: The state that each is put in at.
        texts: The source prompts, each inspected at its last token.
        own: The model's own next token after each.
        agrees: Whether the patched inspection prompt's likeliest token is that one.
        surprisal: -log probability of that token after the patch, in nats.
        plain_agrees: The same of the unpatched inspection prompt: agreement by chance.
        plain_surprisal: Likewise.
        lens_agrees: The same of the source model's logit lens, which asks no prompt.
        lens_surprisal: Likewise.
        precision_low: Lower end of the 95 % interval of ``precision``.
        precision_high: Upper end.
        target_prompt: The inspection prompt.
        target_model: The model that says.
        notes: What was chosen or replaced.
        provenance: What it takes to compute this again.
    """

    states: Int[np.ndarray, " state"]
    target_states: Int[np.ndarray, " state"]
    texts: tuple[str, ...]
    own: tuple[str, ...]
    agrees: Bool[np.ndarray, "text state"]
    surprisal: Float[np.ndarray, "text state"]
    plain_agrees: Bool[np.ndarray, " text"]
    plain_surprisal: Float[np.ndarray, " text"]
    lens_agrees: Bool[np.ndarray, "text state"]
    lens_surprisal: Float[np.ndarray, "text state"]
    precision_low: Float[np.ndarray, " state"]
    precision_high: Float[np.ndarray, " state"]
    target_prompt: str
    target_model: str
    notes: tuple[str, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.own) == len(self.agrees):
            raise ValueError("one next token per text is needed")

    @property
    def precision(self) -> Float[np.ndarray, " state"]:
        """Precision@1: share of the texts whose own next token is said."""
        return self.agrees.mean(axis=0, dtype=np.float64)

    def to_records(self) -> list[dict[str, Any]]:
        """One row per state, means over texts."""
        return [
            {
                "state": int(state),
                "target_state": int(self.target_states[s]),
                "precision": float(self.precision[s]),
                "low": float(self.precision_low[s]),
                "high": float(self.precision_high[s]),
                "surprisal": float(self.surprisal[:, s].mean()),
                "plain_precision": float(self.plain_agrees.mean()),
                "plain_surprisal": float(self.plain_surprisal.mean()),
                "lens_precision": float(self.lens_agrees[:, s].mean()),
                "lens_surprisal": float(self.lens_surprisal[:, s].mean()),
            }
            for s, state in enumerate(self.states)
        ]


@result
class PatchscopeMap(Result):
    """One affine map per state, from the states of one model to those of another.

    A row vector h goes to h @ weight.T + bias.

    Attributes:
        source_states: States that are mapped.
        target_states: The state of the target model that each goes to.
        weight: A.
        bias: b.
        r2: 1 - |y - f(x)|^2 / |y - mean(y)|^2 on texts that were not fitted to, mean(y) that of
            the texts that were.
        n_fit: Token pairs that it was fitted to.
        n_held_out: Token pairs that ``r2`` is from.
        source_hash: Weights of the source model.
        target_hash: Weights of the target model.
        notes: What a reader must know.
        provenance: What it takes to compute this again.
    """

    source_states: Int[np.ndarray, " state"]
    target_states: Int[np.ndarray, " state"]
    weight: Float[np.ndarray, "state target_width source_width"]
    bias: Float[np.ndarray, "state target_width"]
    r2: Float[np.ndarray, " state"]
    n_fit: int
    n_held_out: int
    source_hash: str
    target_hash: str
    notes: tuple[str, ...]
    provenance: Provenance

    def to_records(self) -> list[dict[str, Any]]:
        """One row per state."""
        return [
            {"state": int(s), "target_state": int(t), "r2": float(r2)}
            for s, t, r2 in zip(self.source_states, self.target_states, self.r2, strict=True)
        ]
