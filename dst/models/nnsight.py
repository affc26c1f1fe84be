"""nnsight as an engine: in this process, or on a machine that serves the model (NDIF).

nnsight runs what stands inside ``with model.trace(...)`` interleaved with the forward pass,
and for a remote model sends it there as source. So one trace body serves every run: it is
given a plan of plain data (which module, what to do there) and opens one block per site,
each of which waits for its own; the order in which the model reaches them does not matter.

nnsight changes what it touches: importing it gives every object a ``save`` and replaces
``Tensor.backward``; wrapping a model replaces every module's ``forward``, moves the model
to the first GPU and turns its tokenizer to left padding. So a model in memory is wrapped in
a twin that shares its weights but none of its modules, with a copy of the tokenizer.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.metadata
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import beartype  # noqa: F401  - before nnsight, after whose changes it cannot be imported
import nnsight
import torch
from nnsight import TransformersModel
from torch import nn

from dst.core.errors import CapabilityError, DSTError, InputError, ModelError
from dst.core.results import Provenance
from dst.core.sites import HEAD_KINDS, Site
from dst.models.backend import Cut, Edit, Positions, Run
from dst.models.families import text_config
from dst.models.hooks import HooksBackend, _at_least_float32, _eager, _evaluating
from dst.models.identity import made_by
from dst.models.interventions import cut_mask, edited
from dst.models.request import Request, work_out

_PATCHED = (
    "nnsight is loaded: every object of this process now has an attribute 'save', and "
    "Tensor.backward is nnsight's."
)
_ELSEWHERE = (
    "The model runs elsewhere: its weights were not seen here, so their hash is not known; every "
    "run is a request."
)


class NNsightBackend(HooksBackend):
    """A model traced and edited through nnsight.

    Only the forward pass is nnsight's; reading states out is the reference's.

    Args:
        model: A transformers model in memory, whose weights are shared and which is not
            changed, or an nnsight ``TransformersModel``, which is used as it is.
        tokenizer: Its tokenizer; used as it is, and copied for nnsight.
        name: Name for reports, by default the config's.
        revision: Commit of the weights, if known.
        remote: False for this process, True for NDIF, a URL for another server, or
            ``"local"`` for nnsight's dry run of the remote path in this process.
        owned: The model is nobody else's, and may be wrapped itself.

    Raises:
        ModelError: It is not a decoder-only language model.
    """

    lacks: ClassVar[Mapping[str, str]] = {
        "gradients": "only the engine 'hooks' keeps a graph",
        "replay": "only the engine 'hooks' calls blocks by themselves",
    }

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        name: str = "",
        revision: str = "",
        remote: bool | str = False,
        owned: bool = False,
    ) -> None:
        given = made_by(model, "nnsight")
        elsewhere = bool(remote) and remote != "local"
        if elsewhere and not given:
            raise InputError(
                "A model in memory was given with remote=True", expected="the name of one served"
            )
        self.lm = model if given else _wrap(model if owned else _twin(model), tokenizer)
        self.remote = remote
        if not elsewhere:
            self.lm.dispatch()
        name = name or str(self.lm.repo_id or "")
        super().__init__(
            self.lm._module, tokenizer or self.lm.tokenizer, name=name, revision=revision
        )
        self.engine = "nnsight"
        self.notes = (_PATCHED, *(_done_before(self.lm) if given and not owned else ()))
        self._paths = {module: path for path, module in self.model.named_modules()}
        if remote:
            nnsight.register("dst")  # what the trace calls of this package travels as source
            self.can = self.can | {"remote"}
            self._brought: dict[nn.Module, nn.Module] = {}
            self._head_path = self._paths[self.anatomy.head]
            self.anatomy = dataclasses.replace(
                self.anatomy,
                final_norm=self._bring(self.anatomy.final_norm),
                head=_HeadElsewhere(self.lm, self.anatomy.head, self._head_path, remote),
            )
        if elsewhere:
            self.notes = (*self.notes, _ELSEWHERE)
            unseen = f"not seen: {self.spec.name}@{self.spec.revision or 'default'}"
            self.spec = dataclasses.replace(self.spec, weights_hash=unseen)

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
        plan = [self._stop(request, site) for site in request.sites]
        plan += [self._cut(layer, blocked) for layer, blocked in request.blocked.items()]
        patterns = any(site.kind == "pattern" for site in request.capture)
        attention = _eager(self.model) if patterns else contextlib.nullcontext()
        with self._lock, torch.no_grad(), _evaluating(self.model), attention, _asked(self.remote):
            seen = _interleave(self.lm, request.batch.ids, request.places, plan, self.remote)
        for i, change in seen["changes"].items():
            request.edits[i].fired = request.edits[i].row_index.numel()
            request.edits[i].squared_delta = float(change)
        states = {site: seen["states"][str(site)] for site in request.capture}
        logits = _at_least_float32(seen["logits"])
        return request.answer(self.spec, logits, states, seen["readable"])

    def directions(self, ids: torch.Tensor | Sequence[int] | None = None) -> torch.Tensor:
        """Rows of U, [id d_model], detached."""
        if not self.remote:
            return super().directions(ids)
        rows = slice(None) if ids is None else torch.as_tensor(ids, dtype=torch.long)
        with self._lock, _asked(self.remote):
            return _weights(self.lm, self._head_path, self.remote, rows)["weight"]

    def head_outputs(self, layer: int, z: torch.Tensor, attn_out: torch.Tensor) -> torch.Tensor:
        """What each head adds to the residual; see `Backend.head_outputs`."""
        block = self.anatomy.blocks[layer]
        if self.remote and block.output_projection is not None:
            here = dataclasses.replace(
                block, output_projection=self._bring(block.output_projection)
            )
            blocks = list(self.anatomy.blocks)
            blocks[layer] = here
            self.anatomy = dataclasses.replace(self.anatomy, blocks=tuple(blocks))
        return super().head_outputs(layer, z, attn_out)

    def plain_logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Logits [pos d_vocab] of the model's own forward pass, with edits it came with."""
        if not self.remote and not _carries_edits(self.lm):
            return super().plain_logits(ids)
        places = torch.arange(len(ids))[None]
        row = torch.tensor([list(ids)])
        with self._lock, _asked(self.remote):
            seen = _interleave(self.lm, row, places, [], self.remote)
        return _at_least_float32(seen["logits"][0])

    def provenance(self, *, seed: int | None = None, **settings: Any) -> Provenance:
        """What it takes to compute a number of this model again."""
        plain = super().provenance(seed=seed, **settings)
        used = {**plain.versions, "nnsight": importlib.metadata.version("nnsight")}
        return dataclasses.replace(plain, versions=used)

    # -- inside ------------------------------------------------------------------------

    def _head(self, normed: torch.Tensor) -> torch.Tensor:
        with self._lock:  # a trace in another thread would take this call for its own
            return super()._head(normed)

    def _stop(self, request: Request, site: Site) -> dict[str, Any]:
        """What to do at one site, as plain data that can be sent."""
        block = self.anatomy.blocks[site.layer]
        columns, where = None, "output"
        module: Any
        if site.kind in ("q", "k", "v"):
            module, columns = block.qkv[site.kind].module, block.qkv[site.kind].index
        elif site.kind == "resid_pre":
            module, where = block.block, "input"
        elif site.kind == "z":
            module, where = block.output_projection, "input"
        elif site.kind == "pattern":
            module, where = block.attention, "pattern"
        else:
            module = {
                "attn_out": block.attn_out,
                "mlp_out": block.mlp_out,
                "resid_post": block.block,
            }[site.kind]
        edits = []
        for number, item in enumerate(request.edits):
            if item.edit.site == site:
                edit, value = item.edit, item.edit.value.detach()
                value = value.cpu() if self.remote else value
                places = (item.row_index, item.position_index)
                edits.append((number, *places, value, edit.op, edit.heads))
        return {
            "path": self._paths[module],
            "where": where,
            "name": str(site),
            "keep": site in request.capture,
            "edits": edits,
            "columns": columns,
            "d_head": self.spec.d_head if site.kind in HEAD_KINDS else None,
            "n_rows": len(request.batch.ids),
        }

    def _cut(self, layer: int, blocked: torch.Tensor) -> dict[str, Any]:
        """The cuts of one layer, as plain data that can be sent."""
        attention = self.anatomy.blocks[layer].attention
        kind = getattr(text_config(self.model), "_attn_implementation", None)
        # Not the instance's: nnsight has put its own forward there.
        names = list(inspect.signature(type(attention).forward).parameters)[1:]
        if kind not in ("eager", "sdpa") or "attention_mask" not in names:
            raise CapabilityError(
                f"This model's attention ({kind}) takes no mask per query and key",
                do="Load it with attn_implementation='sdpa' or 'eager'",
            )
        return {
            "path": self._paths[attention],
            "where": "mask",
            "layer": layer,
            "place": names.index("attention_mask"),
            "blocked": blocked,
        }

    def _bring(self, module: nn.Module) -> nn.Module:
        """A module like one of the remote model, with that one's weights, on this machine."""
        if module not in self._brought:
            here = copy.deepcopy(module).to_empty(device="cpu")
            here.__dict__.pop("forward", None)  # nnsight's, bound to the module copied from
            with self._lock, _asked(self.remote):
                here.load_state_dict(_weights(self.lm, self._paths[module], self.remote))
            self._brought[module] = here.eval()
            self._paths[here] = self._paths[module]
        return self._brought[module]


class _HeadElsewhere(nn.Module):
    """The unembedding of a model whose weights are not here: asked for at every use."""

    def __init__(self, lm: Any, head: nn.Module, path: str, remote: bool | str) -> None:
        super().__init__()
        self._ask = (lm, path, remote)
        weight = head.weight
        assert isinstance(weight, torch.Tensor)
        # Only its number type and device are read; the matrix stays where the model is.
        self.weight = torch.empty(0, dtype=weight.dtype)
        self.bias = None
        if getattr(head, "bias", None) is not None:
            with _asked(remote):
                self.bias = _weights(lm, path, remote, only="bias")["bias"]

    def forward(self, normed: torch.Tensor) -> torch.Tensor:
        """The logits before scale and cap."""
        lm, path, remote = self._ask
        with _asked(remote):
            return _applied(lm, path, normed, remote)


@contextlib.contextmanager
def _asked(remote: bool | str) -> Iterator[None]:
    """A request: its failures become one sentence, its progress stays off standard output.

    Raises:
        ModelError: The server could not be reached, or could not do it.
    """
    if not remote or remote == "local":
        yield
        return
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except DSTError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"A run elsewhere failed ({reason.rstrip('.')})",
            do="See whether the model is served (nnsight.status()) and the key is right "
            "(NDIF_API_KEY)",
        ) from error


# -- what runs where the model is --------------------------------------------------------
# nnsight reads these bodies as source. They take plain data and call only each other, torch
# and two pure functions of dst.models.interventions, so that all of it can be sent.


def _interleave(
    lm: Any,
    ids: torch.Tensor,
    places: torch.Tensor,
    plan: Sequence[Mapping[str, Any]],
    remote: bool | str,
) -> dict[str, Any]:
    """One forward pass with a plan: logits, states, changes per edit, what cuts could close."""
    with lm.trace(remote=remote) as tracer:
        seen = nnsight.save({"states": {}, "changes": {}, "readable": {}})
        with tracer.invoke(input_ids=ids, use_cache=False):
            logits = lm.output.logits
            rows = torch.arange(len(places), device=logits.device)[:, None]
            seen["logits"] = logits[rows, places.to(logits.device)].detach()
        for stop in plan:
            with tracer.invoke():
                module = lm.get(stop["path"])
                if stop["where"] in ("input", "mask"):
                    module.inputs = _at_input(module.inputs, stop, seen)
                else:
                    module.output = _at_output(module.output, stop, seen)
    return seen


def _at_input(inputs: Any, stop: Any, seen: Any) -> Any:
    """The inputs of a module with the plan carried out on its first, or on its mask."""
    args, kwargs = inputs
    hidden = args[0] if args else kwargs["hidden_states"]
    if stop["where"] == "input":
        new = _visit(hidden, stop, seen)
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})
    blocked, place = stop["blocked"].to(hidden.device), stop["place"]
    if "attention_mask" in kwargs or len(args) <= place:
        mask, seen["readable"][stop["layer"]] = cut_mask(kwargs.get("attention_mask"), blocked)
        return args, {**kwargs, "attention_mask": mask}
    mask, seen["readable"][stop["layer"]] = cut_mask(args[place], blocked)
    return (*args[:place], mask, *args[place + 1 :]), kwargs


def _at_output(output: Any, stop: Any, seen: Any) -> Any:
    """The output of a module with the plan carried out on its first tensor."""
    if stop["where"] == "pattern":
        if not isinstance(output, tuple) or len(output) < 2 or output[1] is None:
            raise CapabilityError("The attention does not return its pattern")
        seen["states"][stop["name"]] = output[1].detach().clone()
        return output
    if isinstance(output, tuple):
        return (_visit(output[0], stop, seen), *output[1:])
    return _visit(output, stop, seen)


def _visit(value: torch.Tensor, stop: Any, seen: Any) -> torch.Tensor:
    """The edits of a site, then what is kept; some modules flatten rows and positions (MoE)."""
    whole = value if value.ndim == 3 else value.view(stop["n_rows"], -1, value.shape[-1])
    columns = None if stop["columns"] is None else stop["columns"].to(value.device)
    part = whole if columns is None else whole[..., columns]
    if stop["d_head"] is not None:
        part = part.unflatten(-1, (-1, stop["d_head"]))
    for number, rows, positions, new, op, heads in stop["edits"]:
        part, change = edited(part, rows, positions, new, op, heads)
        seen["changes"][number] = change.detach()
    if stop["keep"]:
        seen["states"][stop["name"]] = part.detach().clone()
    if not stop["edits"]:
        return value
    part = part if stop["d_head"] is None else part.flatten(-2)
    if columns is not None:
        whole = whole.clone()
        whole[..., columns] = part
        part = whole
    return part.view(value.shape)


def _applied(lm: Any, path: str, value: torch.Tensor, remote: bool | str) -> torch.Tensor:
    """A module of the model applied to a tensor, outside any forward pass."""
    with lm.session(remote=remote):
        module = lm.get(path)
        like = next(module.parameters())
        out = nnsight.save(module(value.to(like.device)).detach().cpu())
    return out


def _weights(
    lm: Any, path: str, remote: bool | str, rows: Any = slice(None), only: str = ""
) -> dict[str, torch.Tensor]:
    """Rows of a module's weights, by name."""
    with lm.session(remote=remote):
        state = lm.get(path).state_dict()
        out = nnsight.save(
            {name: state[name][rows].detach().cpu() for name in state if only in ("", name)}
        )
    return out


def skeleton(
    name: str, tokenizer: Any, revision: str | None, trust_remote_code: bool = False
) -> Any:
    """A model by its configuration alone, without weights: what a remote run is written against."""
    code = {"trust_remote_code": True} if trust_remote_code else {}
    return TransformersModel(
        name,
        revision=revision,
        task="text-generation",
        tokenizer=copy.deepcopy(tokenizer),
        **code,
    )


def _done_before(lm: Any) -> tuple[str, ...]:
    """What nnsight had already done to a model that was given wrapped."""
    notes = [
        "This nnsight model was made before dst saw it: every module's forward is nnsight's, and "
        "its tokenizer pads on the left."
    ]
    if _carries_edits(lm):
        notes.append("It carries edits of its own, which are made in every run.")
    return tuple(notes)


def _carries_edits(lm: Any) -> bool:
    return any(envoy._edits for envoy in lm.modules())


def _wrap(model: Any, tokenizer: Any) -> Any:
    """The wrapper of nnsight around a model of our own, left on the device that it is on."""
    where = {} if hasattr(model, "hf_device_map") else {"device": model.device}
    return TransformersModel(
        model, tokenizer=copy.deepcopy(tokenizer), task="text-generation", **where
    )


def _twin(model: nn.Module) -> nn.Module:
    """A model with modules of its own and the very weights of the one given."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors}).eval()
