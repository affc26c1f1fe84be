"""transformer_lens' TransformerBridge as an engine.

Booting a bridge rewires the transformers model it is given: modules are wrapped, fused
projections split, attention made eager. So a model in memory is copied first, weights and
all. Then every site of the bridge is compared with the reference engine's on the very
same weights: a site whose name means another tensor in transformer_lens is switched off.

The bridge gets no tokenizer: it is only ever given ids, so it cannot add a special token.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from dst.core.errors import CapabilityError, ModelError
from dst.core.results import Provenance
from dst.core.sites import KINDS, RESIDUAL_KINDS, Site
from dst.models.backend import Cut, Edit, Positions, Run
from dst.models.check import TOLERANCE, _relative
from dst.models.families import find_anatomy
from dst.models.hooks import HooksBackend, _at_least_float32, _evaluating
from dst.models.identity import made_by
from dst.models.interventions import cut_mask
from dst.models.request import Request, work_out

PROBE = (5, 3, 8, 2, 9, 4, 7)
"""Token ids of the prompt on which bridge and reference are compared."""

OTHER_TENSOR = 1e-2
"""Relative difference from which two states are not one tensor rounded differently."""


class BridgeBackend(HooksBackend):
    """A model traced and edited through the hook points of a TransformerBridge.

    Only the forward pass is transformer_lens'; reading states out is the reference's, on
    the bridge's own norm and unembedding.

    Args:
        model: A transformers model, which is copied, or a TransformerBridge, which is
            used as it is.
        tokenizer: Its tokenizer; used as it is, and not shown to the bridge.
        name: Name for reports, by default the config's.
        revision: Commit of the weights, if known.
        owned: The model is nobody else's, and need not be copied.

    Raises:
        ModelError: transformer_lens cannot bridge it, or gets other logits than
            transformers.
    """

    lacks: ClassVar[Mapping[str, str]] = {
        "gradients": "only the engine 'hooks' keeps a graph",
        "replay": "only the engine 'hooks' calls blocks by themselves",
    }

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str = "",
        revision: str = "",
        owned: bool = False,
    ) -> None:
        reference = None
        if made_by(model, "transformer_lens"):
            super().__init__(model.original_model, tokenizer, name=name, revision=revision)
            self.bridge, self.notes = model, _done_before(model, tokenizer)
        else:
            own = model if owned else copy.deepcopy(model).eval()
            super().__init__(own, tokenizer, name=name, revision=revision)
            self.notes = () if owned else (_COPIED,)
            reference = self._read_everything()
            self.bridge = _boot(own)
        missing = {**self.anatomy.missing, **_unnamed(self.bridge)}
        # Once more: the modules are transformer_lens' now.
        self.anatomy = dataclasses.replace(
            find_anatomy(self.bridge.original_model), missing=missing
        )
        self.engine = "bridge"
        if reference is not None:
            self._compare(reference)

    def run(
        self,
        ids: torch.Tensor | Sequence[Sequence[int]],
        mask: torch.Tensor | None = None,
        *,
        capture: Iterable[Site] = (),
        edits: Sequence[Edit] = (),
        cuts: Sequence[Cut] = (),
        logits_at: Positions | None = None,
    ) -> Run:
        """One forward pass; see `dst.models.backend.Backend.run`."""
        request = work_out(
            self.spec, self.anatomy.missing, ids, mask, capture, edits, cuts, logits_at
        )
        return request.answer(self.spec, *self._forward(request))

    def provenance(self, *, seed: int | None = None, **settings: Any) -> Provenance:
        """What it takes to compute a number of this model again."""
        plain = super().provenance(seed=seed, **settings)
        used = {
            **plain.versions,
            "transformer_lens": importlib.metadata.version("transformer_lens"),
        }
        return dataclasses.replace(plain, versions=used)

    # -- inside ------------------------------------------------------------------------

    def _forward(
        self, request: Request
    ) -> tuple[torch.Tensor, dict[Site, torch.Tensor], dict[int, torch.Tensor]]:
        """Logits at the places asked for, states, and per cut layer what was readable."""
        states: dict[Site, torch.Tensor] = {}
        readable: dict[int, torch.Tensor] = {}
        hooks = [(_hook_name(site), _visit(request, site, states)) for site in request.sites]
        tokens = request.batch.ids.to(next(self.model.parameters()).device)
        with self._lock, torch.no_grad(), _evaluating(self.model), self._cut(request, readable):
            logits = self.bridge.run_with_hooks(
                tokens, return_type="logits", fwd_hooks=hooks, use_cache=False
            )
        rows = torch.arange(len(tokens), device=logits.device).unsqueeze(1)
        wanted = logits[rows, request.places.to(logits.device)]
        return _at_least_float32(wanted), states, readable

    @contextlib.contextmanager
    def _cut(self, request: Request, readable: dict[int, torch.Tensor]) -> Iterator[None]:
        """The cuts in the attention masks inside the block; fills in what was readable."""
        handles = []
        try:
            for layer in request.blocked:
                attention = self.bridge.blocks[layer].attn
                hook = _cutter(request, layer, readable)
                handles.append(attention.register_forward_pre_hook(hook, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _probe(self) -> list[list[int]]:
        return [[token % self.spec.d_vocab for token in PROBE[: self.spec.window]]]

    def _read_everything(self) -> Run:
        """Every site by the reference engine; patterns where attention returns them."""
        kinds = [kind for kind in KINDS if kind not in self.anatomy.missing]
        sites = [Site(layer, kind) for layer in range(self.spec.n_layers) for kind in kinds]
        try:
            return super().run(self._probe(), capture=sites)
        except CapabilityError as error:
            self.anatomy.missing.setdefault("pattern", str(error))
            sites = [site for site in sites if site.kind != "pattern"]
            return super().run(self._probe(), capture=sites)

    def _compare(self, reference: Run) -> None:
        """Switch off what the bridge has under the same name but not the same tensor.

        Raises:
            ModelError: The logits themselves differ.
        """
        missing = self.anatomy.missing
        limit = max(OTHER_TENSOR, 5 * TOLERANCE.get(self.spec.dtype, 0.0))
        sites = [site for site in reference.states if site.kind not in missing]
        asked = work_out(self.spec, missing, self._probe(), None, sites, (), (), None)
        logits, states, _ = self._forward(asked)
        error = _relative(logits, reference.logits)
        if error > limit:
            raise ModelError(
                f"transformer_lens gets other logits for {self.spec.name} than transformers "
                f"(relative difference {error:.1e})",
                expected="the logits of the model itself",
                do="Use backend='hooks'",
            )
        # What is added to a stream this large is known no better than it is rounded there.
        stream = max(
            float(state.abs().max())
            for site, state in reference.states.items()
            if site.kind in RESIDUAL_KINDS
        )
        rounding = torch.finfo(logits.dtype).eps * stream
        for site in sites:
            hook = f"transformer_lens' {_hook_name(site)}"
            if site not in states:
                missing.setdefault(site.kind, f"{hook} never fires in this family")
                continue
            gap = (states[site].float() - reference.states[site].float()).abs().max()
            error = _relative(states[site], reference.states[site])
            if error > limit and float(gap) > rounding:
                missing.setdefault(
                    site.kind,
                    f"{hook} is another tensor in this family (relative difference {error:.1e})",
                )


_COPIED = (
    "transformer_lens rewires the model it is given, so it runs on a copy: the weights are in "
    "memory twice. Load by name or folder to have them once."
)


def _boot(model: Any) -> Any:
    """A bridge around a model that may be rewired.

    Raises:
        ModelError: transformer_lens has no adapter for it, or the adapter does not fit.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    config = model.config
    named = getattr(config, "architectures", None) or [type(model).__name__]
    # Only eager attention shows its scores and patterns, which the bridge hooks.
    model.set_attn_implementation("eager")
    try:
        return build_bridge_from_module(
            model, named[0], hf_config=copy.deepcopy(config), tokenizer=None
        )
    except Exception as error:  # noqa: BLE001 - adapters raise every kind of error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ModelError(
            f"transformer_lens cannot bridge a {type(model).__name__} ({reason})",
            do="Use backend='hooks'",
        ) from None


def _done_before(bridge: Any, tokenizer: Any) -> tuple[str, ...]:
    """What transformer_lens had already done to the model of a bridge that was given."""
    notes = [
        "This TransformerBridge was made before dst saw it: the transformers model inside has its "
        "modules wrapped, its weights renamed (so has the weights hash) and its attention made "
        "eager. Its sites could not be compared with the plain model's."
    ]
    if getattr(bridge, "compatibility_mode", False):
        notes.append(
            "It is in compatibility mode: weights are folded and centred, so states are not the "
            "plain model's and logits may be shifted by a constant at every position."
        )
    hooked = sorted(name for name, point in bridge.hook_dict.items() if point.fwd_hooks)
    if hooked:
        notes.append(f"It carries hooks of its own, which run in every pass: {', '.join(hooked)}.")
    if tokenizer is bridge.tokenizer and bridge.cfg.tokenizer_prepends_bos:
        notes.append(
            "Its tokenizer was remade by transformer_lens, and puts a beginning-of-sequence token "
            "in front of every text. Give tokenizer= for the model's own."
        )
    return tuple(notes)


def _unnamed(bridge: Any) -> dict[str, str]:
    """Kinds of site that this bridge has no hook point for."""
    return {
        kind: f"this TransformerBridge has no {_hook_name(Site(0, kind))}"
        for kind in KINDS
        if _hook_name(Site(0, kind)) not in bridge.hook_dict
    }


def _hook_name(site: Site) -> str:
    inner = "" if site.kind in RESIDUAL_KINDS else "attn."
    return f"blocks.{site.layer}.{inner}hook_{site.kind}"


def _visit(
    request: Request, site: Site, states: dict[Site, torch.Tensor]
) -> Callable[..., torch.Tensor | None]:
    """The hook of one site: its edits first, then what is captured."""
    edits = request.at(site)

    def at_hook_point(value: torch.Tensor, hook: Any) -> torch.Tensor | None:
        for item in edits:
            value = item.apply(value)
        if site in request.capture:
            states[site] = value.detach().clone()
        return value if edits else None

    return at_hook_point


def _cutter(request: Request, layer: int, readable: dict[int, torch.Tensor]) -> Callable[..., Any]:
    def before_attention(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "attention_mask" not in kwargs:
            raise CapabilityError(
                f"{type(module).__name__} is not given its attention mask by name, so cuts cannot "
                "be made",
                do="Use backend='hooks'",
            )
        hidden = args[0] if args else kwargs["hidden_states"]
        blocked = request.blocked[layer].to(hidden.device)
        mask, readable[layer] = cut_mask(kwargs["attention_mask"], blocked)
        return args, {**kwargs, "attention_mask": mask}

    return before_attention
