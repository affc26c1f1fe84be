"""Every engine gives the same states, edits, cuts and logits, and leaves the user's things alone.

One file for all of them: `parity.MEASURES` against the hooks engine, which is itself compared
with what transformers returns. GPT-2 and Llama by default; every family under `full`.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dst.core.errors import CapabilityError, InputError, InterventionError, ModelError
from dst.core.sites import Site
from dst.models import bridge as bridge_module
from dst.models.backend import Backend, Cut, Edit, require
from dst.models.bridge import BridgeBackend
from dst.models.check import check_model
from dst.models.hooks import HooksBackend
from dst.models.identity import weights_hash
from dst.models.load import load
from dst.models.nnsight import NNsightBackend
from tests import tiny
from tests.models import parity
from tests.models.parity import (
    LAYER,
    MEASURES,
    ROWS,
    TOLERANCE,
    readouts,
    relative,
    tiny_model,
)

FAST = ("gpt2", "llama")
FAMILIES = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.full) for name in tiny.FAMILIES
]
CANNOT_BRIDGE = {"falcon_new": "transformer_lens cannot bridge a FalconForCausalLM"}
"""Families that an engine cannot take, with the start of its reason."""

ENGINES: dict[str, Callable[[Any, Any], Any]] = {
    "hooks": lambda model, tokenizer: HooksBackend(model, tokenizer, name="tiny"),
    "bridge": lambda model, tokenizer: BridgeBackend(model, tokenizer, name="tiny"),
    "nnsight": lambda model, tokenizer: NNsightBackend(model, tokenizer, name="tiny"),
    "nnsight-local": lambda model, tokenizer: NNsightBackend(
        model, tokenizer, name="tiny", remote="local"
    ),
}


@cache
def reference_of(family: str) -> Any:
    return ENGINES["hooks"](tiny_model(family), tiny.byte_bpe())


@cache
def engine_of(family: str, engine: str) -> Any:
    """The engine on the reference's own model, or the ModelError that refused it."""
    if engine == "hooks":
        return reference_of(family)
    try:
        return ENGINES[engine](reference_of(family).model, tiny.byte_bpe())
    except ModelError as refused:
        return refused


def engine_or_skip(family: str, engine: str) -> Any:
    made = engine_of(family, engine)
    if isinstance(made, ModelError):
        assert engine == "bridge"
        assert str(made).startswith(CANNOT_BRIDGE[family])
        pytest.skip(str(made))
    return made


# -- agreement ---------------------------------------------------------------------------


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_the_reference(family: str, engine: str, measure: str) -> None:
    made = engine_or_skip(family, engine)
    assert MEASURES[measure](reference_of(family), made) <= TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_everything_holds_and_nothing_is_missing(family: str, engine: str) -> None:
    made = engine_or_skip(family, engine)
    failed = [check for check in check_model(made).checks if not check.passed]
    assert failed == []
    assert made.anatomy.missing == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_is_a_backend_that_says_what_it_is(engine: str) -> None:
    made, reference = engine_of("llama", engine), reference_of("llama")
    assert isinstance(made, Backend)
    assert made.spec == reference.spec
    source = made.provenance(seed=3, site="z")
    assert source.backend == engine.partition("-")[0]
    assert (source.weights_hash, source.seed) == (reference.spec.weights_hash, 3)
    packages = {"bridge": {"transformer_lens"}, "nnsight": {"nnsight"}}.get(source.backend, set())
    assert set(source.versions) - set(reference.provenance().versions) == packages
    assert made.tokenizer is reference.tokenizer


@pytest.mark.parametrize("engine", ENGINES)
def test_refuses_in_the_same_words(engine: str) -> None:
    """What is asked wrongly is the same sentence on every engine, and nothing is left behind."""
    made, reference = engine_of("llama", engine), reference_of("llama")
    bad: list[dict[str, Any]] = [
        {"capture": [Site(9, "z")]},
        {"edits": [Edit(Site(0, "resid_pre"), [7], [0], torch.zeros(64))]},
        {"edits": [Edit(Site(0, "resid_pre"), [0], [50], torch.zeros(64))]},
        {"edits": [Edit(Site(0, "resid_pre"), [0], [0], torch.zeros(63))]},
        {"edits": [Edit(Site(0, "k"), [0], [0], torch.zeros(16), heads=[2])]},
        {"edits": [Edit(Site(0, "pattern"), [0], [0], torch.zeros(()))]},
        {"cuts": [Cut(0, [0], [1], [5])]},
        {"cuts": [Cut(0, [0], [0], [0])]},
        {"logits_at": [12]},
    ]
    before = made.run(ROWS).logits
    for asked in bad:
        with pytest.raises((InterventionError, CapabilityError)) as theirs:
            reference.run(ROWS, **asked)
        with pytest.raises(type(theirs.value)) as ours:
            made.run(ROWS, **asked)
        assert str(ours.value) == str(theirs.value)
    assert torch.equal(made.run(ROWS).logits, before)


@pytest.mark.parametrize("engine", ENGINES)
def test_edits_come_before_what_is_captured_there(engine: str) -> None:
    made, site = engine_of("llama", engine), Site(LAYER, "resid_post")
    value = torch.full((64,), 0.25)
    twice = [Edit(site, [0], [2], value), Edit(site, [0], [2], value, "add")]
    run = made.run([ROWS[0]], edits=twice, capture=[site, Site(LAYER + 1, "resid_pre")])
    assert torch.allclose(run.states[site][0, 2], 2 * value)
    assert torch.allclose(run.states[Site(LAYER + 1, "resid_pre")][0, 2], 2 * value)
    assert [receipt.fired for receipt in run.receipts] == [1, 1]
    assert run.receipts[1].delta_norm == pytest.approx(float(value.norm()))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_capability_that_is_missing_is_named(engine: str) -> None:
    made = engine_of("llama", engine)
    if engine == "nnsight-local":
        require(made, "remote")
        return
    with pytest.raises(CapabilityError, match="cannot do 'remote'"):
        require(made, "remote")


# -- what is the user's ------------------------------------------------------------------


def fingerprint(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Everything of the user's that an engine could change."""
    modules = dict(model.named_modules())
    return {
        "weights": weights_hash(model),
        "places": [tensor.data_ptr() for tensor in model.state_dict().values()],
        "modules": [(name, id(module), type(module)) for name, module in modules.items()],
        "forwards": [name for name, module in modules.items() if "forward" in module.__dict__],
        "hooks": sum(
            len(module._forward_hooks) + len(module._forward_pre_hooks)
            for module in modules.values()
        ),
        "training": [name for name, module in modules.items() if module.training],
        "config": json.dumps(model.config.to_dict(), default=str),
        "attention": model.config._attn_implementation,
        "generation": str(getattr(model, "generation_config", None)),
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "padding": (tokenizer.padding_side, tokenizer.pad_token, len(tokenizer)),
    }


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_changes_nothing_of_the_users(family: str, engine: str, training: bool) -> None:
    model, tokenizer = tiny_model(family).train(training), copy.deepcopy(tiny.byte_bpe())
    before = fingerprint(model, tokenizer)
    try:
        made = ENGINES[engine](model, tokenizer)
    except ModelError:
        assert family in CANNOT_BRIDGE
    else:
        sites = parity.sites_of(made)
        made.run(ROWS, capture=sites, cuts=[Cut(0, [0], [-1], [-2])])
        wrong = Edit(Site(0, "resid_pre"), [0], [0], torch.full((64,), 3e38), "add")
        with pytest.raises(ModelError, match="NaN or infinity"):
            made.run(ROWS, edits=[wrong, wrong], capture=[wrong.site])
        made.unembed(torch.zeros(1, 64))
        made.generate(ROWS[0], 2)
        if engine == "hooks":
            assert torch.equal(made.run(ROWS).logits, made.run(ROWS).logits)
    assert fingerprint(model, tokenizer) == before


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_in_the_middle_of_a_run_leaves_the_engine_whole(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, site = engine_of("llama", engine), Site(LAYER, "mlp_out")
    before = made.run(ROWS, capture=[site])

    def broken(*_: Any) -> Any:
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patch:
        for module in ("dst.models.interventions", "dst.models.nnsight"):
            patch.setattr(f"{module}.edited", broken)
            patch.setattr(f"{module}.cut_mask", broken, raising=False)
        patch.setattr("dst.models.bridge.cut_mask", broken)
        patch.setattr("dst.models.hooks.cut_mask", broken)
        with pytest.raises(RuntimeError, match="in the middle"):
            made.run(ROWS, edits=[Edit(site, [0], [0], torch.zeros(64))])
        with pytest.raises(RuntimeError, match="in the middle"):
            made.run(ROWS, cuts=[Cut(LAYER, [0], [-1], [1])])
    after = made.run(ROWS, capture=[site])
    assert torch.equal(after.logits, before.logits)
    assert torch.equal(after.states[site], before.states[site])


@pytest.mark.parametrize("engine", ENGINES)
def test_two_threads_get_their_own_answers(engine: str) -> None:
    made, site = engine_of("llama", engine), Site(LAYER, "resid_post")
    rows = [[5, 9, 33, 2], [77, 8, 90, 14]]
    alone = [made.run([row], capture=[site]) for row in rows]
    lens = [made.unembed(run.states[site]) for run in alone]
    wrong: list[str] = []

    def work(i: int) -> None:
        try:
            for _ in range(10):
                run = made.run([rows[i]], capture=[site])
                if not torch.equal(run.states[site], alone[i].states[site]):
                    wrong.append("states")
                if not torch.equal(made.unembed(run.states[site]), lens[i]):
                    wrong.append("lens")
        except Exception as error:  # noqa: BLE001 - a thread's error would be lost
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.full
@pytest.mark.parametrize("engine", ENGINES)
def test_two_hundred_runs_keep_no_tensors(engine: str) -> None:
    made = engine_of("llama", engine)
    sites = parity.sites_of(made)

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    for _ in range(3):
        made.run(ROWS, capture=sites)
    before = alive()
    for _ in range(200):
        made.run(ROWS, capture=sites)
    assert alive() <= before


# -- what an engine is given -------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "reason"), [("llama", "is another tensor"), ("gpt_neox", "never fires")]
)
def test_a_site_that_is_another_tensor_in_transformer_lens_is_switched_off(
    family: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ``hook_rot_q`` is q after rotary embedding: as q it is refused, and nothing else."""
    plain = bridge_module._hook_name

    def misnamed(site: Site) -> str:
        return f"blocks.{site.layer}.attn.hook_rot_q" if site.kind == "q" else plain(site)

    monkeypatch.setattr(bridge_module, "_hook_name", misnamed)
    made = BridgeBackend(tiny_model(family), tiny.byte_bpe())
    assert set(made.anatomy.missing) == {"q"}
    with pytest.raises(CapabilityError, match=rf"The site q\.0 was not found.*{reason}"):
        made.run(ROWS, capture=[Site(0, "q")])
    made.run(ROWS, capture=[Site(0, "k")])


def test_a_bridge_with_other_logits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    boot = bridge_module._boot

    def spoiled(model: Any) -> Any:
        made = boot(model)
        with torch.no_grad():
            next(model.parameters()).mul_(1.5)
        return made

    monkeypatch.setattr(bridge_module, "_boot", spoiled)
    with pytest.raises(ModelError, match="transformer_lens gets other logits"):
        BridgeBackend(tiny_model("llama"), tiny.byte_bpe())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama and its tokenizer on disk."""
    path = tmp_path_factory.mktemp("llama")
    reference_of("llama").model.save_pretrained(path)
    tiny.byte_bpe().save_pretrained(path)
    return path


@pytest.mark.parametrize("options", [{}, {"device_map": {"": "cpu"}}, {"dtype": "float64"}])
@pytest.mark.parametrize("engine", ["bridge", "nnsight"])
def test_load_by_folder(folder: Path, engine: str, options: dict[str, Any]) -> None:
    made: Any = load(str(folder), backend=engine, **options)
    plain: Any = load(str(folder), **options)
    assert (made.engine, made.spec) == (engine, plain.spec)
    assert relative(made.run(ROWS).logits, plain.run(ROWS).logits) <= TOLERANCE
    assert made.run(ROWS).logits.dtype == plain.run(ROWS).logits.dtype


@pytest.mark.parametrize("engine", ["bridge", "nnsight"])
def test_half_precision_is_as_close_as_the_reference_is_to_float32(
    folder: Path, engine: str
) -> None:
    exact = reference_of("llama").run(ROWS[:1]).logits
    half, made = (load(str(folder), backend=b, dtype="bfloat16") for b in ("hooks", engine))
    own = relative(half.run(ROWS[:1]).logits, exact)
    assert 1e-4 < own < 0.2  # bfloat16 rounds
    assert relative(made.run(ROWS[:1]).logits, exact) < 2 * own


@pytest.mark.full
def test_an_engine_that_nobody_asked_for_is_not_imported() -> None:
    code = (
        "import sys, dst; dst.load(); "
        "assert not {'nnsight', 'transformer_lens'} & {*sys.modules}; assert not hasattr(1, 'save')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_load_a_transformer_bridge(folder: Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    model, tokenizer = copy.deepcopy(reference_of("llama").model), load(str(folder)).tokenizer
    bridge = TransformerBridge.boot_transformers("tiny", hf_model=model, tokenizer=tokenizer)
    made: Any = load(bridge)
    assert (made.engine, made.bridge) == ("bridge", bridge)
    assert "made before dst saw it" in made.notes[0]
    assert relative(made.run(ROWS).logits, reference_of("llama").run(ROWS).logits) <= TOLERANCE
    with pytest.raises(InputError, match="wrapped by transformer_lens was given with backend"):
        load(bridge, backend="nnsight")
    bridge.add_hook("blocks.0.hook_resid_post", lambda value, hook: None, is_permanent=True)
    hooked: Any = load(bridge)
    assert any("hooks of its own" in note and "resid_post" in note for note in hooked.notes)
    bridge.enable_compatibility_mode()
    folded: Any = load(bridge)
    assert any("compatibility mode" in note for note in folded.notes)
    assert folded.cannot == folded.lacks  # every identity holds for the folded weights too


def test_load_an_nnsight_model() -> None:
    from nnsight import TransformersModel

    reference = reference_of("llama")
    wrapped = TransformersModel(
        copy.deepcopy(reference.model),
        tokenizer=copy.deepcopy(tiny.byte_bpe()),
        task="text-generation",
    )
    made: Any = load(wrapped)
    assert (made.engine, made.lm) == ("nnsight", wrapped)
    assert any("pads on the left" in note for note in made.notes)
    assert relative(made.run(ROWS).logits, reference.run(ROWS).logits) <= TOLERANCE
    with wrapped.edit(inplace=True):
        wrapped.model.layers[0].mlp.output *= 0
    edited: Any = load(wrapped)
    assert any("edits of its own" in note for note in edited.notes)
    assert not edited.run(ROWS, capture=[Site(0, "mlp_out")]).states[Site(0, "mlp_out")].any()


def test_options_that_do_not_fit_are_refused() -> None:
    reference = reference_of("llama")
    with pytest.raises(InputError, match="expected backend='nnsight'"):
        load(reference.model, tokenizer=reference.tokenizer, remote=True)
    with pytest.raises(InputError, match="dtype, device or device_map"):
        load("some/model", tokenizer=reference.tokenizer, backend="nnsight", remote=True, dtype="x")
    with pytest.raises(InputError, match="in memory was given with remote=True"):
        load(reference.model, tokenizer=reference.tokenizer, backend="nnsight", remote=True)
    with pytest.raises(InputError, match="in memory was given with dtype"):
        load(reference.model, tokenizer=reference.tokenizer, dtype="bfloat16")


class Int8Linear(nn.Module):
    """A linear map kept as 8-bit integers and a scale per row, as bitsandbytes and others do."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def dequantised(self) -> torch.Tensor:
        weight, scale = self.get_buffer("weight"), self.get_buffer("scale")
        return weight.to(scale.dtype) * scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.dequantised(), self.bias)


@pytest.mark.parametrize("engine", ENGINES)
def test_quantised_linear_layers(engine: str) -> None:
    """A model with 8-bit blocks equals the float model with the same numbers, or says where not."""
    quantised = tiny_model("llama")
    floats = copy.deepcopy(quantised)
    for block, twin in zip(quantised.model.layers, floats.model.layers, strict=True):
        for name, module in list(block.named_modules()):
            if isinstance(module, nn.Linear):
                parent, _, child = name.rpartition(".")
                small = Int8Linear(module)
                setattr(block.get_submodule(parent), child, small)
                twin.get_submodule(name).weight.data = small.dequantised()
    reference = ENGINES["hooks"](floats, tiny.byte_bpe())
    made = ENGINES[engine](quantised, tiny.byte_bpe())
    for name, measure in MEASURES.items():
        if name != "lens":
            assert measure(reference, made) <= TOLERANCE, name
    verdict = check_model(made)
    verdict.apply(made)
    if "heads" in made.can:
        assert readouts(reference, made) <= TOLERANCE
    # What heads add is read off the output projection; that it is no float matrix must show.
    assert set(made.cannot) <= {"heads", *made.lacks}


# -- a machine that serves the model -----------------------------------------------------


def test_a_server_that_is_not_there_is_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nnsight import TransformersModel

    monkeypatch.setattr(TransformersModel, "to_model_key", lambda _: "tiny:tiny")
    with pytest.raises(ModelError, match=r"A run elsewhere failed \(.*nnsight\.status"):
        load(str(folder), tokenizer=tiny.byte_bpe(), backend="nnsight", remote="http://127.0.0.1:9")
    assert capsys.readouterr().out == ""


SERVER = Path(__file__).with_name("nnsight_server.py")


@pytest.mark.full
def test_a_model_in_another_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """remote=True up to the wire: the weights and the run are in a process without dst."""
    from nnsight import TransformersModel
    from nnsight.intervention.backends.remote import RemoteBackend

    with subprocess.Popen(
        [sys.executable, str(SERVER), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        ask, answers = server.stdin, server.stdout

        class ToServer(RemoteBackend):
            def request(self, request: Any, tracer: Any) -> Any:
                sent, back = tmp_path / "sent", tmp_path / "back"
                sent.write_bytes(self._serialize(tracer))
                ask.write(json.dumps({"sent": str(sent), "back": str(back), "env": self.env}))
                ask.write("\n")
                ask.flush()
                answer = answers.readline().strip()
                assert answer == "done", answer
                return self.finalize(back.read_bytes())

        monkeypatch.setattr(
            TransformersModel,
            "_remote_backend",
            lambda self, *_: ToServer("tiny", env=self._remoteable_get_env()),
        )
        assert answers.readline().strip() == "ready"
        made: Any = load(
            str(folder), tokenizer=tiny.byte_bpe(), backend="nnsight", remote=True, check=False
        )
        reference = reference_of("llama")
        assert {weight.device.type for weight in made.lm._module.parameters()} == {"meta"}
        assert made.spec.weights_hash.startswith("not seen")
        assert any("runs elsewhere" in note for note in made.notes)
        for name, measure in MEASURES.items():
            if name != "logits":  # asks the local model, which has no weights
                assert measure(reference, made) <= TOLERANCE, name
        assert relative(made.plain_logits(ROWS[0]), reference.plain_logits(ROWS[0])) <= TOLERANCE
        ask.close()
