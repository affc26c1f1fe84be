"""Next-token agreement: how early a state, inspected, says what the model will say."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from dst.analysis.proportion import wilson
from dst.core.errors import InputError
from dst.core.patchscope_results import PatchscopeAgreement, PatchscopeMap
from dst.core.sites import site_of_state
from dst.models.backend import Backend, require
from dst.models.reference import reference_sentences
from dst.models.text import token_texts
from dst.tracing.concept_vectors import knows
from dst.tracing.inspection import IDENTITY, Placed, generate, inspection_of, known_ids
from dst.tracing.patchscope_maps import check_mapping, mapped, states_of
from dst.tracing.progress import progress

TEXTS = 64
"""Reference sentences that agreement is read on by default."""


def patchscope_agreement(
    model: Backend,
    texts: Sequence[str] | None = None,
    *,
    states: Sequence[int] | None = None,
    target_prompt: str = IDENTITY,
    target_position: int | str = -1,
    target_state: int | Sequence[int] | None = None,
    target_model: Backend | None = None,
    mapping: PatchscopeMap | None = None,
    seed: int = 0,
    show_progress: bool = True,
) -> PatchscopeAgreement:
    """How often an inspected state says the model's own next token: precision@1 and surprisal.

    For each text, t = argmax of the model's own next token; the state h[l] of its last token is
    put into the inspection prompt, whose next-token distribution is p_l. precision[l] = share
    of texts with argmax p_l = t; surprisal[l] = -log p_l(t), in nats. Beside both: the
    unpatched prompt (agreement by chance) and the logit lens.

    Args:
        model: The model.
        texts: Source prompts; by default `TEXTS` of the shipped sentences that it knows, each
            cut after a random token.
        states: As `patchscope`.
        target_prompt: As `patchscope`.
        target_position: As `patchscope`.
        target_state: As `patchscope`.
        target_model: As `patchscope`; its vocabulary must be the model's.
        mapping: As `patchscope`.
        seed: Where the shipped sentences are cut.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Raises:
        InputError: There is no text, or the vocabularies differ.
        InterventionError, TokenError, CapabilityError: As `patchscope`.

    Source: Ghandeharioun et al. 2024, section 4.1. The intervals (Wilson, 95 %) are ours.
    """
    target = model if target_model is None else target_model
    require(target, "edits")
    if target is not model and target.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        raise InputError(
            "The two models have different vocabularies, so that one's next token is no token "
            "of the other",
            do="Use dst.patchscope, which generates text",
        )
    here = states_of(states, model)
    there = check_mapping(model, target, mapping, here, target_state)
    inspection = inspection_of(target, target_prompt, target_position)
    rows = cut_texts(model, seed) if texts is None else [known_ids(model, text) for text in texts]
    if not rows:
        raise InputError("There is no text to read agreement on", do="Give texts=[...]")
    sites = [site_of_state(state, model.spec.n_layers) for state in here]
    run = model.run(rows, capture=sites, logits_at=[-1])
    own: Int[np.ndarray, " text"] = run.last_logits.argmax(dim=-1).cpu().numpy()
    last = [len(row) - 1 for row in rows]
    vectors = [run.states[site][range(len(rows)), last] for site in sites]  # [text d_model]
    cells: list[Placed | None] = [
        (m, vector)
        for l, m, of_state in zip(here, there, vectors, strict=True)
        for vector in mapped(of_state, l, m, mapping)
    ]
    tokens = sorted(set(own.tolist()))
    column = [tokens.index(token) for token in own.tolist()]
    with progress("patchscope agreement", len(cells) + 1, show=show_progress) as tick:
        said = generate(inspection, cells, 1, tokens, tick, ends=False)
        plain = generate(inspection, [None], 1, tokens, tick, ends=False)
    shape = (len(here), len(rows))
    agrees = own[:, None] == said.ids.reshape(shape).T
    first = said.first.reshape(*shape, len(tokens))
    surprisal = -first[:, range(len(rows)), column].T
    lens = [model.unembed(of_state).float().log_softmax(-1).cpu() for of_state in vectors]
    ends = [wilson(int(count), len(rows)) for count in agrees.sum(axis=0)]
    return PatchscopeAgreement(
        states=np.array(here),
        target_states=np.array(there),
        texts=tuple(model.tokenizer.decode(row) for row in rows),
        own=token_texts(model.tokenizer, own.tolist()),
        agrees=agrees,
        surprisal=surprisal.astype(np.float64),
        plain_agrees=plain.ids[0, 0] == own,
        plain_surprisal=-plain.first[0, column],
        lens_agrees=np.stack([l.argmax(-1).numpy() == own for l in lens], axis=1),
        lens_surprisal=-np.stack([l[range(len(rows)), own].numpy() for l in lens], axis=1),
        precision_low=np.array([low for low, _ in ends]),
        precision_high=np.array([high for _, high in ends]),
        target_prompt=inspection.text,
        target_model=target.spec.name,
        notes=inspection.notes,
        provenance=model.provenance(
            seed=seed, target_model=target.spec.name, target_prompt=inspection.text
        ),
    )


def cut_texts(model: Backend, seed: int) -> list[tuple[int, ...]]:
    """Shipped sentences that the model knows, each cut after a random token."""
    texts = [text for text in reference_sentences(model.spec.name) if knows(model, text)]
    rng = random.Random(seed)
    rng.shuffle(texts)
    rows = [known_ids(model, text) for text in texts[:TEXTS]]
    return [row[: rng.randrange(2, len(row))] for row in rows if len(row) > 2]
