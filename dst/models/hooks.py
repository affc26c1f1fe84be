"""transformers models through forward hooks: the reference engine.

Nothing of the model is changed: hooks are removed when a run ends, also after an error;
weights, module tree and attention kind stay as they are. Only where attention patterns
are asked for does a run switch to eager attention, and back.

Rows are padded on the right and run without a padding mask: under a causal mask no real
token sees what comes after it, so position ids and batch size cannot change a row.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from dst.core.errors import CapabilityError
from dst.core.results import Provenance
from dst.core.sites import HEAD_KINDS, Site
from dst.models.backend import (
    CAPABILITIES,
    Cut,
    Differentiable,
    Edit,
    Gradients,
    ModelSpec,
    Positions,
    Run,
    Through,
)
from dst.models.backward import Tape, reads
from dst.models.families import Anatomy, find_anatomy, text_config
from dst.models.identity import spec_of, versions
from dst.models.interventions import cut_mask
from dst.models.request import Request, work_out

_LOCKS: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()


class HooksBackend:
    """A transformers causal language model, traced and edited through forward hooks.

    Args:
        model: The model, in any dtype, on any device; used as it is.
        tokenizer: Its tokenizer; used as it is.
        name: Name for reports, by default the config's.
        revision: Commit of the weights, if known.

    Raises:
        ModelError: It is not a decoder-only language model.
    """

    lacks: ClassVar[Mapping[str, str]] = {}
    """What an engine does not offer, with the reason."""

    computes: ClassVar[bool] = True
    """Whether it runs the model, and does not only say what it would run."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, name: str = "", revision: str = ""
    ) -> None:
        self.anatomy: Anatomy = find_anatomy(model)
        self.tokenizer = tokenizer
        self.spec: ModelSpec = spec_of(self.anatomy, name, revision)
        self.can: frozenset[str] = frozenset(CAPABILITIES) - set(self.lacks)
        self.cannot: Mapping[str, str] = dict(self.lacks)
        self.notes: tuple[str, ...] = ()
        self.engine = "hooks"
        with _LOCKS_GUARD:
            self._lock = _LOCKS.setdefault(model, threading.RLock())

    @property
    def model(self) -> Any:
        """The transformers model itself."""
        return self.anatomy.model

    def __repr__(self) -> str:
        spec = self.spec
        return f"HooksBackend({spec.name!r}, {spec.n_layers} layers x {spec.d_model}, {spec.dtype})"

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
        """One forward pass; see `dst.models.backend.Backend.run`.

        Raises:
            InputError: The ids do not fit the model.
            InterventionError: A site, row, position or head does not exist, or an
                intervention did nothing.
            CapabilityError: A site was not found in this model, or cannot be edited.
            ModelError: Activations or logits are not finite.
        """
        request = work_out(
            self.spec, self.anatomy.missing, ids, mask, capture, edits, cuts, logits_at
        )
        hooks = _Hooks(self.anatomy, request)
        with self._lock, torch.no_grad(), hooks.placed(), _evaluating(self.model):
            logits = self._logits(request)
        return request.answer(self.spec, logits, hooks.states, hooks.readable)

    def gradients(
        self,
        ids: torch.Tensor | Sequence[Sequence[int]],
        mask: torch.Tensor | None = None,
        *,
        sites: Iterable[Site],
        metric: Differentiable,
        edits: Sequence[Edit] = (),
        logits_at: Positions = (-1,),
        drop: Iterable[int] = (),
        through: Sequence[Through] = (),
    ) -> Gradients:
        """One forward and one backward pass; see `dst.models.backend.Backend.gradients`.

        Raises:
            InputError: The ids do not fit the model.
            InterventionError: A site, row, position or head does not exist, or the metric is
                not one differentiable number per row.
            CapabilityError: A site was not found in this model.
            ModelError: Activations, logits or gradients are not finite.
        """
        # Whatever the caller's mode is, a graph is needed here; a tensor made in inference mode
        # could not be part of it.
        with self._lock, torch.inference_mode(False), torch.enable_grad():
            tape, sites = Tape(drop), list(dict.fromkeys(sites))
            receivers = [part.receiver for part in through]
            nodes = [Site(site.layer, kind) for site in receivers for kind in reads(site)]
            request = work_out(
                self.spec,
                self.anatomy.missing,
                ids,
                mask,
                [*sites, *receivers, *nodes, *tape.needs],
                edits,
                (),
                logits_at,
            )
            with _Hooks(self.anatomy, request, tape).placed(), _evaluating(self.model):
                logits = self._logits(request)
            request.answer(self.spec, logits.detach(), tape.states, {})
            return tape.backward(logits, metric, sites, through, self.spec.name)

    def final_norm(
        self, resid: torch.Tensor, scale_from: torch.Tensor | None = None
    ) -> torch.Tensor:
        """N(h) with the gain, [... d_model]; see `Backend.final_norm`."""
        with self._lock, _graph_if_asked(resid):
            if scale_from is not None:
                return self._frozen_norm(resid, scale_from)
            like = next(self.anatomy.final_norm.parameters(), self.anatomy.head.weight)
            return self.anatomy.final_norm(resid.to(like.device, like.dtype))

    def unembed(self, resid: torch.Tensor, scale_from: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of residual states, [... d_vocab]; see `Backend.unembed`."""
        with _graph_if_asked(resid):
            return self._head(self.final_norm(resid, scale_from))

    def directions(self, ids: torch.Tensor | Sequence[int] | None = None) -> torch.Tensor:
        """Rows of U, [id d_model], detached."""
        weight = self.anatomy.head.weight.detach()
        if ids is None:
            return weight
        return weight[torch.as_tensor(ids, dtype=torch.long, device=weight.device)]

    def plain_logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Logits [pos d_vocab] of transformers' own forward pass, for `check_model`."""
        with self._lock, torch.no_grad(), _evaluating(self.model):
            device = next(self.model.parameters()).device
            row = torch.tensor([list(ids)], device=device)
            return _at_least_float32(self.model(input_ids=row, use_cache=False).logits[0])

    def head_outputs(self, layer: int, z: torch.Tensor, attn_out: torch.Tensor) -> torch.Tensor:
        """What each head adds to the residual, [... head d_model]; see `Backend.head_outputs`."""
        parts = self.anatomy.blocks[layer]
        projection = parts.output_projection
        if projection is None:
            raise CapabilityError(f"Heads were not found: {self.anatomy.missing['z']}")
        weight = projection.weight.detach()
        if type(projection).__name__ != "Conv1D":
            weight = weight.T  # GPT-2's maps are stored the other way round
        per_head = weight.unflatten(0, (-1, self.anatomy.d_head)).double()
        heads = torch.einsum("...he,hed->...hd", z.to(weight.device).double(), per_head)
        if parts.attn_out is parts.attention:
            return heads
        # A post-norm (Gemma-2, OLMo-2) with its scale frozen multiplies each dimension by one
        # factor: what was added, divided by what all heads put out.
        raw = heads.sum(dim=-2)
        factor = torch.where(raw != 0, attn_out.to(raw.device).double() / raw, 0.0)
        return heads * factor.unsqueeze(-2)

    def head_bias(self, ids: Sequence[int]) -> torch.Tensor:
        """The unembedding's bias of some tokens, [id]; 0 where it has none."""
        bias = getattr(self.anatomy.head, "bias", None)
        if bias is None:
            return torch.zeros(len(ids))
        return bias.detach()[list(ids)].float()

    def generate(self, ids: Sequence[int], n: int) -> list[int]:
        """The next ``n`` greedy tokens, ended by an end-of-sequence token (not included)."""
        stop = _end_ids(self.model, self.tokenizer)
        prompt, new = list(ids), list[int]()
        while len(new) < n and len(prompt) + len(new) < self.spec.window:
            step = int(self.run([prompt + new], logits_at=[-1]).last_logits[0].argmax())
            if step in stop:
                break
            new.append(step)
        return new

    def provenance(self, *, seed: int | None = None, **settings: Any) -> Provenance:
        """What it takes to compute a number of this model again."""
        return Provenance(
            model=self.spec.name,
            revision=self.spec.revision,
            weights_hash=self.spec.weights_hash,
            backend=self.engine,
            dtype=self.spec.dtype,
            versions=versions(),
            settings=settings,
            seed=seed,
        )

    # -- inside ------------------------------------------------------------------------

    def _logits(self, request: Request) -> torch.Tensor:
        """The forward pass of a request, [row k d_vocab]; hooks see to the rest."""
        patterns = any(site.kind == "pattern" for site in request.capture)
        device = next(self.model.parameters()).device
        with _eager(self.model) if patterns else contextlib.nullcontext():
            output = self.anatomy.body(input_ids=request.batch.ids.to(device), use_cache=False)
        hidden = output[0]
        rows = torch.arange(len(request.places), device=hidden.device).unsqueeze(1)
        return self._head(hidden[rows, request.places.to(hidden.device)])

    def _head(self, normed: torch.Tensor) -> torch.Tensor:
        """Unembedding with its soft cap or scale, as the model's own forward does it."""
        head = self.anatomy.head
        return self._scaled(head(normed.to(head.weight.device, head.weight.dtype)))

    def _scaled(self, raw: torch.Tensor) -> torch.Tensor:
        """Soft cap or scale on what the unembedding puts out."""
        logits = _at_least_float32(raw) * self.anatomy.logit_scale
        if cap := self.anatomy.soft_cap:
            logits = cap * torch.tanh(logits / cap)
        return logits

    def _frozen_norm(self, resid: torch.Tensor, scale_from: torch.Tensor) -> torch.Tensor:
        """The final norm as an affine map, with the scale s that it gives to ``scale_from``.

        N(x; s) = gain * (x - c(x)) / s + bias, where c is the mean for a LayerNorm and 0 for
        an RMSNorm. All of it is read off the norm by probing it in double precision, so that
        no kind of norm (Gemma's gain 1 + w, Cohere's own LayerNorm) is a special case.
        """

        def norm(x: torch.Tensor) -> torch.Tensor:
            return self.final_norm(x).double()

        def centre(x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(-1, keepdim=True) if centred else x

        signs = torch.ones(resid.shape[-1], dtype=torch.float64)
        signs[1::2] = -1
        bias = norm(torch.zeros_like(signs))
        flat = norm(torch.ones_like(signs)) - bias  # what a LayerNorm takes away
        centred = bool(flat.abs().max() < 0.1 * (norm(signs) - bias).abs().max())
        probe = norm(1e3 * signs) - bias  # so large that eps is nothing
        unit = centre(signs).to(bias.device)
        gain = probe * unit.pow(2).mean().sqrt() / unit
        x, like = (centre(state.to(bias.device).double()) for state in (resid, scale_from))
        # norm(like) - bias = gain * like / s, solved for s by least squares.
        raw, normed = gain * like, norm(scale_from) - bias
        scale = raw.pow(2).sum(-1, keepdim=True) / (raw * normed).sum(-1, keepdim=True)
        return (gain * x / scale + bias).to(resid.dtype)


class _Hooks:
    """The hooks of one run: edits first, then what is captured, at every site in use.

    With a tape, states are kept in the graph, for gradients.
    """

    def __init__(self, anatomy: Anatomy, request: Request, tape: Tape | None = None) -> None:
        self.anatomy = anatomy
        self.request = request
        self.tape = tape
        self.n_rows = len(request.batch.ids)
        self.states: dict[Site, torch.Tensor] = {}
        self.readable: dict[int, torch.Tensor] = {}
        self.thread = threading.get_ident()

    @contextlib.contextmanager
    def placed(self) -> Iterator[None]:
        """Hooks in place inside the block, gone after it whatever happens."""
        handles: list[Any] = []
        try:
            for site in self.request.sites:
                handles.append(self._place(site))
            for layer in self.request.blocked:
                attention = self.anatomy.blocks[layer].attention
                hook = self._cutter(layer, attention)
                handles.append(attention.register_forward_pre_hook(hook, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _visit(self, site: Site, value: torch.Tensor) -> torch.Tensor:
        """Apply the edits at a site to ``value`` [row pos ...] and keep what was asked for."""
        for item in self.request.at(site):
            value = item.apply(value)
        if self.tape is not None:
            return self.tape.keep(site, value)
        if site in self.request.capture:
            # A clone: some blocks add to their tensors in place later on.
            self.states[site] = value.detach().clone()
        return value

    def _place(self, site: Site) -> Any:
        parts = self.anatomy.blocks[site.layer]
        if site.kind in ("q", "k", "v"):
            part = parts.qkv[site.kind]
            return part.module.register_forward_hook(self._on_slice(site, part.index))
        if site.kind == "pattern":
            return parts.attention.register_forward_hook(self._on_pattern(site))
        module = {
            "resid_pre": parts.block,
            "z": parts.output_projection,
            "attn_out": parts.attn_out,
            "mlp_out": parts.mlp_out,
            "resid_post": parts.block,
        }[site.kind]
        assert module is not None  # `work_out` refuses a site whose module was not found
        if site.kind in ("resid_pre", "z"):
            return module.register_forward_pre_hook(self._on_input(site), with_kwargs=True)
        return module.register_forward_hook(self._on_output(site))

    def _on_input(self, site: Site) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if threading.get_ident() != self.thread:
                return None
            value = args[0] if args else kwargs["hidden_states"]
            new = self._heads(site, value)
            if args:
                return (new, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": new}

        return hook

    def _on_output(self, site: Site) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if threading.get_ident() != self.thread:
                return None
            if isinstance(output, torch.Tensor):
                return self._shaped(site, output)
            return (self._shaped(site, output[0]), *output[1:])

        return hook

    def _on_slice(self, site: Site, index: torch.Tensor | None) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> Any:
            if threading.get_ident() != self.thread:
                return None
            if index is None:
                return self._heads(site, output)
            columns = index.to(output.device)
            new = self._heads(site, output[..., columns])
            if not self.request.at(site) and self.tape is None:
                return None
            out = output.clone()
            out[..., columns] = new
            return out

        return hook

    def _on_pattern(self, site: Site) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if threading.get_ident() != self.thread:
                return
            if not isinstance(output, tuple) or len(output) < 2 or output[1] is None:
                raise CapabilityError(
                    f"{type(module).__name__} does not return its attention pattern",
                    do="Leave out the site pattern",
                )
            if self.tape is not None:
                self.tape.keep_pattern(site, output[1])
            else:
                self.states[site] = output[1].detach().clone()

        return hook

    def _shaped(self, site: Site, value: torch.Tensor) -> torch.Tensor:
        """`_visit`, for modules that flatten rows and positions into one axis (OPT, MoE)."""
        if value.ndim == 3:
            return self._visit(site, value)
        split = value.view(self.n_rows, -1, value.shape[-1])
        return self._visit(site, split).view(value.shape)

    def _heads(self, site: Site, value: torch.Tensor) -> torch.Tensor:
        """`_visit`, with the head axis split off at head sites."""
        if site.kind not in HEAD_KINDS:
            return self._visit(site, value)
        split = value.unflatten(-1, (-1, self.anatomy.d_head))
        return self._visit(site, split).flatten(-2)

    def _cutter(self, layer: int, attention: nn.Module) -> Callable[..., Any]:
        kind = getattr(text_config(self.anatomy.model), "_attn_implementation", None)
        names = list(inspect.signature(attention.forward).parameters)
        if kind not in ("eager", "sdpa") or "attention_mask" not in names:
            raise CapabilityError(
                f"This model's attention ({kind}) takes no mask per query and key",
                do="Load it with attn_implementation='sdpa' or 'eager'",
            )
        place = names.index("attention_mask")

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if threading.get_ident() != self.thread:
                return None
            hidden = args[0] if args else kwargs["hidden_states"]
            if "attention_mask" in kwargs or len(args) <= place:
                return args, {**kwargs, "attention_mask": cut(kwargs.get("attention_mask"), hidden)}
            return (*args[:place], cut(args[place], hidden), *args[place + 1 :]), kwargs

        def cut(mask: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor:
            blocked = self.request.blocked[layer].to(hidden.device)
            closed, self.readable[layer] = cut_mask(mask, blocked)
            return closed

        return hook


@contextlib.contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Eager attention inside the block: the only kind that returns its pattern."""
    configs = {id(config): config for config in (model.config, text_config(model))}.values()
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = "eager"
        yield
    finally:
        for config, kind in zip(configs, before, strict=True):
            config._attn_implementation = kind


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout inside the block; training mode is put back after it, module by module."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def _graph_if_asked(resid: torch.Tensor) -> Any:
    """Gradients inside the block only where ``resid`` asks for them, not for the weights' sake."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and resid.requires_grad)


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Ids that end a reply: the model's own, and the tokenizer's."""
    config = getattr(model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    ids = set(ends if isinstance(ends, (list, tuple)) else [] if ends is None else [ends])
    if getattr(tokenizer, "eos_token_id", None) is not None:
        ids.add(tokenizer.eos_token_id)
    return {int(i) for i in ids}
