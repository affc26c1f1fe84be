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
from typing import Any

import torch
from torch import nn

from dst.core.errors import CapabilityError
from dst.core.results import Provenance
from dst.core.sites import HEAD_KINDS, Site
from dst.models.backend import (
    Batch,
    Cut,
    Edit,
    ModelSpec,
    Positions,
    Resolved,
    Run,
    check_finite,
    check_site,
    cut_receipts,
    logit_places,
    make_batch,
    resolve_cuts,
    resolve_edits,
)
from dst.models.families import Anatomy, find_anatomy, text_config
from dst.models.identity import spec_of, versions

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

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, name: str = "", revision: str = ""
    ) -> None:
        self.anatomy: Anatomy = find_anatomy(model)
        self.tokenizer = tokenizer
        self.spec: ModelSpec = spec_of(self.anatomy, name, revision)
        self.can: frozenset[str] = frozenset({"edits", "cuts", "patterns", "heads", "generate"})
        self.cannot: Mapping[str, str] = {}
        self.notes: tuple[str, ...] = ()
        self.engine = "hooks"
        with _LOCKS_GUARD:
            self._lock = _LOCKS.setdefault(model, threading.RLock())

    @property
    def model(self) -> nn.Module:
        """The transformers model itself."""
        return self.anatomy.model

    def __repr__(self) -> str:
        spec = self.spec
        return (
            f"HooksBackend({spec.name!r}, {spec.n_layers} layers x {spec.d_model}, {spec.dtype})"
        )

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
            ModelError: Activations or logits are not finite.
        """
        batch = make_batch(ids, mask, self.spec)
        sites = tuple(dict.fromkeys(capture))
        for site in sites:
            check_site(site, self.spec)
        resolved = resolve_edits(edits, batch, self.spec)
        blocked = resolve_cuts(cuts, batch, self.spec)
        places = logit_places(logits_at, batch)
        hooks = _Hooks(self.anatomy, len(batch.ids), sites, resolved, blocked)
        with self._lock, torch.no_grad(), hooks.placed(), _evaluating(self.model):
            device = next(self.model.parameters()).device
            patterns = any(site.kind == "pattern" for site in sites)
            with _eager(self.model) if patterns else contextlib.nullcontext():
                output = self.anatomy.body(input_ids=batch.ids.to(device), use_cache=False)
            hidden = output[0]
            rows = torch.arange(len(places), device=hidden.device).unsqueeze(1)
            logits = self._head(hidden[rows, places.to(hidden.device)])
        receipts = tuple(item.receipt() for item in resolved)
        run = Run(
            ids=batch.ids,
            lengths=batch.lengths,
            logits=logits,
            logit_positions=places,
            states={site: hooks.states[site] for site in sites},
            receipts=(*receipts, *cut_receipts(cuts, blocked)),
        )
        check_finite(run, self.spec.name)
        return run

    def final_norm(self, resid: torch.Tensor) -> torch.Tensor:
        """N(h) with the gain, [... d_model]; see `Backend.final_norm`."""
        with self._lock, torch.no_grad():
            like = next(self.anatomy.final_norm.parameters(), self.anatomy.head.weight)
            return self.anatomy.final_norm(resid.to(like.device, like.dtype))

    def unembed(
        self, resid: torch.Tensor, scale_from: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits of residual states, [... d_vocab]; see `Backend.unembed`."""
        with torch.no_grad():
            if scale_from is None:
                return self._head(self.final_norm(resid))
            return self._head(self._frozen_norm(resid, scale_from))

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
            return self.model(input_ids=row, use_cache=False).logits[0].float()

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

    def _head(self, normed: torch.Tensor) -> torch.Tensor:
        """Unembedding with its soft cap or scale, as the model's own forward does it."""
        head = self.anatomy.head
        logits = head(normed.to(head.weight.device, head.weight.dtype)).float()
        logits = logits * self.anatomy.logit_scale
        if cap := self.anatomy.soft_cap:
            logits = cap * torch.tanh(logits / cap)
        return logits

    def _frozen_norm(self, resid: torch.Tensor, scale_from: torch.Tensor) -> torch.Tensor:
        """The final norm as an affine map: scale of ``scale_from``, gain and bias of its own.

        N(x) = gain * (x - c(x)) / s(scale_from) + bias, where c is the mean for LayerNorm
        and 0 for RMSNorm. Gain and bias are read off the norm itself by probing it, so
        Gemma's 1 + w needs no special case.
        """
        norm = self.anatomy.final_norm
        centred = isinstance(norm, nn.LayerNorm)
        x = resid.double()
        like = scale_from.double().to(x.device)
        if centred:
            x = x - x.mean(-1, keepdim=True)
            like = like - like.mean(-1, keepdim=True)
        eps = float(getattr(norm, "eps", getattr(norm, "variance_epsilon", 0.0)))
        scale = (like.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        gain, bias = self._gain_and_bias(x.shape[-1])
        return (gain.to(x.device) * x / scale + bias.to(x.device)).to(resid.dtype)

    def _gain_and_bias(self, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The final norm's gain and bias in float64, [d_model] each, by its own arithmetic."""
        norm = self.anatomy.final_norm
        if isinstance(norm, nn.LayerNorm):
            one, zero = torch.ones(width), torch.zeros(width)
            gain = norm.weight.detach() if norm.weight is not None else one
            bias = norm.bias.detach() if norm.bias is not None else zero
            return gain.double(), bias.double()
        large = torch.full((width,), 1e4)  # so that eps is far below the mean square
        return self.final_norm(large).double(), torch.zeros(width, dtype=torch.float64)


class _Hooks:
    """The hooks of one run: edits first, then what is captured, at every site in use."""

    def __init__(
        self,
        anatomy: Anatomy,
        n_rows: int,
        sites: Sequence[Site],
        edits: Sequence[Resolved],
        blocked: Mapping[int, torch.Tensor],
    ) -> None:
        self.anatomy = anatomy
        self.n_rows = n_rows
        self.blocked = blocked
        self.states: dict[Site, torch.Tensor] = {}
        self.wanted = set(sites)
        self.edits: dict[Site, list[Resolved]] = {}
        for item in edits:
            self.edits.setdefault(item.edit.site, []).append(item)
        self.thread = threading.get_ident()

    @contextlib.contextmanager
    def placed(self) -> Iterator[None]:
        """Hooks in place inside the block, gone after it whatever happens."""
        handles: list[Any] = []
        try:
            for site in sorted(self.wanted | set(self.edits)):
                handles.append(self._place(site))
            for layer, mask in self.blocked.items():
                attention = self.anatomy.blocks[layer].attention
                handles.append(
                    attention.register_forward_pre_hook(self._cutter(attention, mask), with_kwargs=True)
                )
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _visit(self, site: Site, value: torch.Tensor) -> torch.Tensor:
        """Apply the edits at a site to ``value`` [row pos ...] and keep what was asked for."""
        for item in self.edits.get(site, ()):
            value = item.apply(value)
        if site in self.wanted:
            # A clone: some blocks add to their tensors in place later on.
            self.states[site] = value.detach().clone()
        return value

    def _place(self, site: Site) -> Any:
        parts = self.anatomy.blocks[site.layer]
        if reason := self.anatomy.missing.get(site.kind):
            raise CapabilityError(f"The site {site} was not found in this model: {reason}")
        if site.kind == "resid_pre":
            return parts.block.register_forward_pre_hook(self._on_input(site), with_kwargs=True)
        if site.kind == "z":
            assert parts.output_projection is not None
            return parts.output_projection.register_forward_pre_hook(
                self._on_input(site), with_kwargs=True
            )
        if site.kind in ("q", "k", "v"):
            part = parts.qkv[site.kind]
            return part.module.register_forward_hook(self._on_slice(site, part.index))
        if site.kind == "pattern":
            if self.edits.get(site):
                raise CapabilityError(
                    f"The site {site} cannot be edited on this engine", do="Edit v or z, or use a cut"
                )
            return parts.attention.register_forward_hook(self._on_pattern(site))
        module = {
            "attn_out": parts.attn_out,
            "mlp_out": parts.mlp_out,
            "resid_post": parts.block,
        }[site.kind]
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
            if site not in self.edits:
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

    def _cutter(self, attention: nn.Module, blocked: torch.Tensor) -> Callable[..., Any]:
        names = list(inspect.signature(attention.forward).parameters)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if threading.get_ident() != self.thread:
                return None
            if "attention_mask" in kwargs or len(args) <= names.index("attention_mask"):
                hidden = args[0] if args else kwargs["hidden_states"]
                mask = _cut_mask(kwargs.get("attention_mask"), blocked, hidden)
                return args, {**kwargs, "attention_mask": mask}
            place = names.index("attention_mask")
            mask = _cut_mask(args[place], blocked, args[0])
            return (*args[:place], mask, *args[place + 1 :]), kwargs

        return hook


def _cut_mask(
    mask: torch.Tensor | None, blocked: torch.Tensor, hidden: torch.Tensor
) -> torch.Tensor:
    """The attention mask with the cut places closed, [row head query key].

    Under sdpa without padding transformers passes no mask at all (a causal kernel), so
    the causal mask has to be built here.
    """
    blocked = blocked.to(hidden.device)
    if mask is None:
        n_pos = blocked.shape[-1]
        mask = torch.ones(n_pos, n_pos, dtype=torch.bool, device=hidden.device).tril()[None, None]
    if mask.ndim != 4:
        raise CapabilityError(
            "This model's attention kind takes no mask per query and key",
            do="Load it with attn_implementation='sdpa' or 'eager'",
        )
    mask = mask.expand(blocked.shape[0], blocked.shape[1], *mask.shape[-2:])
    if mask.dtype == torch.bool:
        return mask & ~blocked
    return mask.masked_fill(blocked, torch.finfo(mask.dtype).min)


@contextlib.contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Eager attention inside the block: the only kind that returns its pattern."""
    configs = {id(c): c for c in (model.config, text_config(model)) if c is not None}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = "eager"
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]


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


def _end_ids(model: nn.Module, tokenizer: Any) -> set[int]:
    """Ids that end a reply: the model's own, and the tokenizer's."""
    config = getattr(model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    ids = set(ends if isinstance(ends, (list, tuple)) else [] if ends is None else [ends])
    if getattr(tokenizer, "eos_token_id", None) is not None:
        ids.add(tokenizer.eos_token_id)
    return {int(i) for i in ids}
