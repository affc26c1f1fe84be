"""Results of representational drift: one prompt's states beside those of its matched twin."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from dst.core.case import Case
from dst.core.results import Mark, Provenance, Result, result


@result
class Drift(Result):
    """How far each word's state lies from the same word's in a matched run, state by state.

    Axes: ``measure`` (centred, whitened), ``state``, ``pos`` (the prompt's positions), ``role``,
    ``twin``. Distances are 1 - cos, from 0 (the same direction) to 2 (the opposite one).

    Attributes:
        against: The twin: ``clean``, ``neutral``, ``swap``, ``substitute``, ``text`` or a case.
        null: What z counts in: ``paraphrases``, ``neutral`` draws, ``texts``; "" where there is
            none.
        measures: How states are seen before their angle is taken.
        drift: Mean over twins; NaN where the twin has no counterpart.
        low: Lower end of its 95 % interval over twins; NaN for one twin.
        high: Upper end.
        z: (drift - mean of the null) / its standard deviation; NaN where there is a reason.
        reasons: Why a position has no z; "" where it has.
        role_drift: Mean over a role's positions that have the same word in every twin.
        role_z: z of the mean over those that have a z.
        role_reasons: Why a role has no z; "" where it has.
        critical: The z that the largest of all states and positions exceeds by chance in 5 % of
            runs, per measure; NaN with the reason in the onset.
        role_critical: The same over states and roles.
        onsets: First state with a z over the critical one at some position, per measure.
        role_onsets: The same of each role, one per measure and role, measure by measure.
        published: 1 - mean_i cos of raw states over the first min(T, T') positions, mean over
            twins: the published form.
        coverage: Share of the prompt's positions that every twin has.
        same_word: Whether every twin has the same token there.
        tokens: The prompt's tokens as text.
        twin_tokens: Those of the first twin at the matched positions; "" where it has none.
        token_roles: The role of each token.
        roles: The roles that occur.
        role_positions: The positions of each.
        n_twins: Twins that ``drift`` is a mean over.
        n_null: Runs that the null's pairs are made of.
        n_reference: Tokens that the mean and covariance of ordinary states are from.
        shrinkage: Ledoit and Wolf's rho of that covariance, per state.
        case: The case.
        notes: What was drawn, matched, chosen or left out.
        provenance: What it takes to compute this again.
    """

    against: str
    null: str
    measures: tuple[str, ...]
    drift: Float[np.ndarray, "measure state pos"]
    low: Float[np.ndarray, "measure state pos"]
    high: Float[np.ndarray, "measure state pos"]
    z: Float[np.ndarray, "measure state pos"]
    reasons: tuple[str, ...]
    role_drift: Float[np.ndarray, "measure state role"]
    role_z: Float[np.ndarray, "measure state role"]
    role_reasons: tuple[str, ...]
    critical: Float[np.ndarray, " measure"]
    role_critical: Float[np.ndarray, " measure"]
    onsets: tuple[Mark, ...]
    role_onsets: tuple[Mark, ...]
    published: Float[np.ndarray, " state"]
    coverage: float
    same_word: Bool[np.ndarray, " pos"]
    tokens: tuple[str, ...]
    twin_tokens: tuple[str, ...]
    token_roles: tuple[str, ...]
    roles: tuple[str, ...]
    role_positions: tuple[tuple[int, ...], ...]
    n_twins: int
    n_null: int
    n_reference: int
    shrinkage: Float[np.ndarray, " state"]
    case: Case
    notes: tuple[str, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        n_pos, n_roles, n_measures = len(self.same_word), len(self.roles), len(self.measures)
        per_pos = (self.tokens, self.twin_tokens, self.token_roles, self.reasons)
        if any(len(field) != n_pos for field in per_pos):
            raise ValueError("one token, role and reason per position is needed")
        if not n_roles == self.role_z.shape[2] == len(self.role_positions):
            raise ValueError("one name and list of positions per role is needed")
        if len(self.role_reasons) != n_roles or n_measures != len(self.z):
            raise ValueError("one reason per role and one name per measure is needed")
        if len(self.onsets) != n_measures or len(self.role_onsets) != n_measures * n_roles:
            raise ValueError("one onset per measure, and one per measure and role, is needed")
        for z, reasons in ((self.z, self.reasons), (self.role_z, self.role_reasons)):
            undefined = np.isnan(z)
            if (undefined.any(axis=(0, 1)) != undefined.all(axis=(0, 1))).any() or undefined.all(
                axis=(0, 1)
            ).tolist() != [bool(reason) for reason in reasons]:
                raise ValueError("z is NaN at every state if and only if there is a reason")

    def onset(self, measure: str = "whitened", role: str = "") -> Mark:
        """The state at which drift begins, of the whole prompt or of one role.

        Raises:
            KeyError: There is no such measure or role; the message lists those there are.
        """
        m = self._measure(measure)
        if not role:
            return self.onsets[m]
        if role not in self.roles:
            raise KeyError(f"{role!r}; the roles here are {', '.join(self.roles)}")
        return self.role_onsets[m * len(self.roles) + self.roles.index(role)]

    def of(self, measure: str) -> Float[np.ndarray, "state pos"]:
        """The drift by one measure, mean over twins."""
        return self.drift[self._measure(measure)]

    def z_of(self, measure: str) -> Float[np.ndarray, "state pos"]:
        """Its z."""
        return self.z[self._measure(measure)]

    def _measure(self, name: str) -> int:
        if name not in self.measures:
            raise KeyError(f"{name!r}; the measures here are {', '.join(self.measures)}")
        return self.measures.index(name)

    def to_records(self) -> list[dict[str, Any]]:
        """One row per measure, state and position."""
        return [
            {
                "measure": measure,
                "state": state,
                "pos": pos,
                "token": self.tokens[pos],
                "role": self.token_roles[pos],
                "drift": float(self.drift[m, state, pos]),
                "low": float(self.low[m, state, pos]),
                "high": float(self.high[m, state, pos]),
                "z": float(self.z[m, state, pos]),
                "critical": float(self.critical[m]),
                "reason": self.reasons[pos],
            }
            for m, measure in enumerate(self.measures)
            for state in range(self.z.shape[1])
            for pos in range(len(self.tokens))
        ]
