"""Nothing of the user's is changed, whatever happens; threads are right; training is put back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from dst.core.errors import InterventionError
from dst.core.sites import KINDS, Site
from dst.models.backend import Backend, Cut, Edit, require
from dst.models.check import check_model
from dst.models.hooks import HooksBackend
from dst.models.identity import weights_hash
from tests import tiny
from tests.models.test_hooks_sites import LAYERS, ROWS, close

EVERYWHERE = [Site(layer, kind) for layer in LAYERS for kind in KINDS]
EDITS = [Edit(Site(1, kind), [0], [1], torch.ones(())) for kind in KINDS if kind != "pattern"]
CUTS = [Cut(1, [0], [3], [2])]


def fingerprint(engine: HooksBackend) -> dict[str, Any]:
    """Everything of a model and a tokenizer that a run could have left behind."""
    model, tokenizer = engine.model, engine.tokenizer
    hooks = [
        (name, kind, len(value))
        for name, module in model.named_modules()
        for kind, value in vars(module).items()
        if kind.endswith(("_hooks", "_hooks_with_kwargs")) and isinstance(value, dict) and value
    ]
    return {
        "weights": weights_hash(model),
        "storage": {name: p.data_ptr() for name, p in model.named_parameters()},
        "gradients": {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()},
        "modules": [(name, type(m), id(m), m.training) for name, m in model.named_modules()],
        "hooks": hooks,
        "own": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "attention": model.config._attn_implementation,
        "config": model.config.to_dict(),
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "sides": (tokenizer.padding_side, tokenizer.truncation_side),
        "special": (dict(tokenizer.special_tokens_map), tokenizer.chat_template),
        "torch": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_rng_state().sum()),
    }


def same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for key, value in before.items():
        assert after[key] == value, key


def everything(engine: HooksBackend) -> None:
    engine.run(ROWS, capture=EVERYWHERE, edits=EDITS, cuts=CUTS)
    engine.generate(ROWS[0], 3)
    engine.unembed(torch.ones(2, 64), torch.full((2, 64), 2.0))
    engine.directions([1, 2])
    engine.plain_logits(ROWS[0])
    check_model(engine)


@tiny.families()
@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_left_behind(family: str, training: bool) -> None:
    torch.manual_seed(0)
    engine = tiny.backend(family)
    engine.model.train(training)
    next(engine.model.children()).eval()  # a part may be in another mode than the whole
    engine.tokenizer.padding_side = "left"
    before = fingerprint(engine)
    everything(engine)
    same(before, fingerprint(engine))
    engine.tokenizer.padding_side = "right"


def stop_with(error: BaseException) -> Callable[..., None]:
    def hook(*args: object) -> None:
        raise error

    return hook


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("mine"), MemoryError()])
@pytest.mark.parametrize("place", ["model.layers.1", "model.layers.2.self_attn.o_proj"])
def test_nothing_is_left_behind_after_an_error_inside(error: BaseException, place: str) -> None:
    torch.manual_seed(0)
    engine = tiny.backend("llama")
    engine.model.train()
    before = fingerprint(engine)
    handle = engine.model.get_submodule(place).register_forward_hook(stop_with(error))
    with pytest.raises(type(error)):
        engine.run(ROWS, capture=EVERYWHERE, edits=EDITS, cuts=CUTS)
    handle.remove()
    same(before, fingerprint(engine))
    close(engine.run(ROWS).logits, tiny.backend("llama").run(ROWS).logits)


def test_nothing_is_left_behind_after_a_refusal() -> None:
    engine = tiny.backend("mistral")
    before = fingerprint(engine)
    with pytest.raises(InterventionError, match="leave a query without keys"):
        engine.run(ROWS[:1], capture=EVERYWHERE, cuts=[Cut(1, [0], [6], [2, 3, 4, 5, 6])])
    with pytest.raises(InterventionError, match="does not exist"):
        engine.run(ROWS, edits=[Edit(Site(9, "z"), [0], [0], torch.ones(()))])
    same(before, fingerprint(engine))


def test_a_users_own_hooks_stay_and_see_the_run() -> None:
    engine = tiny.backend("llama")
    calls: list[int] = []
    handle = engine.model.model.layers[1].register_forward_hook(lambda *args: calls.append(1))
    engine.run(ROWS, capture=[Site(1, "resid_post")])
    engine.model(torch.tensor([[1]]))
    handle.remove()
    assert calls == [1, 1]


def test_dropout_is_off_and_training_is_put_back() -> None:
    engine = tiny.backend("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    still = engine.run(ROWS).logits
    engine.model.train()
    assert torch.equal(engine.run(ROWS).logits, still)
    assert torch.equal(engine.plain_logits(ROWS[0]), still[0])
    assert all(module.training for module in engine.model.modules())


def test_nothing_keeps_a_graph() -> None:
    engine = tiny.backend("llama")
    run = engine.run(ROWS, capture=EVERYWHERE, edits=EDITS)
    assert not run.logits.requires_grad
    assert not any(state.requires_grad for state in run.states.values())
    assert not engine.unembed(torch.randn(64)).requires_grad
    # A readout is differentiable where its state is: that is how a lens is fitted.
    assert engine.unembed(torch.randn(64, requires_grad=True)).requires_grad


# -- threads --------------------------------------------------------------------------------


def test_two_threads_on_one_model_are_right() -> None:
    engine = tiny.backend("llama")
    other = HooksBackend(engine.model, engine.tokenizer)  # another engine on the same model
    site = Site(1, "resid_pre")

    def ask(i: int) -> torch.Tensor:
        edit = Edit(site, [0], [i % 7], torch.full((64,), float(i)))
        asked = (engine, other)[i % 2]
        capture = [Site(2, "pattern")] if i % 3 == 0 else [site]
        return asked.run(ROWS[:1], edits=[edit], capture=capture).logits

    expected = [ask(i) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(40)))
    for a, b in zip(found, expected, strict=True):
        close(a, b)


def test_a_models_own_forward_in_another_thread_is_not_touched() -> None:
    engine = tiny.backend("llama")
    ids = torch.tensor(ROWS[:1])
    with torch.no_grad():
        plain = engine.model(ids).logits
    inside, done = threading.Event(), threading.Event()
    found: list[torch.Tensor] = []

    def wait_in_the_first_block(*args: object) -> None:
        if threading.current_thread() is not other:
            inside.set()
            assert done.wait(60)

    def run_the_model() -> None:
        assert inside.wait(60)
        with torch.no_grad():
            found.append(engine.model(ids).logits)
        done.set()

    other = threading.Thread(target=run_the_model)
    handle = engine.model.model.layers[0].register_forward_hook(wait_in_the_first_block)
    other.start()
    run = engine.run(ROWS[:1], capture=[Site(2, "z")], edits=EDITS, cuts=CUTS)
    other.join()
    handle.remove()
    close(found[0], plain)
    assert (run.logits - plain).abs().max() > 1e-2 * plain.abs().max()
    again = engine.run(ROWS[:1], capture=[Site(2, "z")], edits=EDITS, cuts=CUTS)
    close(run.logits, again.logits)
    close(run.states[Site(2, "z")], again.states[Site(2, "z")])


# -- the rest of the protocol ---------------------------------------------------------------


def test_the_engine_keeps_the_protocol() -> None:
    engine = tiny.backend("llama")
    assert isinstance(engine, Backend)
    assert repr(engine) == "HooksBackend('tiny-llama', 3 layers x 64, float32)"
    require(engine, "edits")
    engine.cannot = {"edits": "they do nothing"}
    engine.can = frozenset()
    with pytest.raises(Exception, match="tiny-llama cannot do 'edits': they do nothing"):
        require(engine, "edits")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_generating_is_transformers_greedy_search(family: str) -> None:
    engine = tiny.backend(family)
    prompt = ROWS[0]
    expected = engine.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    ended = expected.index(2) if 2 in expected else len(expected)
    assert engine.generate(prompt, 12) == expected[:ended]
    assert engine.generate(prompt, 0) == []


def test_generating_stops_at_an_end_and_at_the_window() -> None:
    engine = tiny.backend("gpt2", n_positions=10)
    new = engine.generate(ROWS[0], 99)
    assert len(new) == 3  # which fill the window
    engine.model.generation_config.eos_token_id = [2, new[0]]
    assert engine.generate(ROWS[0], 99) == []


def test_provenance_says_what_a_number_rests_on() -> None:
    engine = tiny.backend("llama")
    seen = engine.provenance(seed=3, k=5, words=("a",))
    assert (seen.model, seen.backend, seen.dtype, seen.seed) == (
        "tiny-llama",
        "hooks",
        "float32",
        3,
    )
    assert seen.weights_hash == weights_hash(engine.model)
    assert dict(seen.settings) == {"k": 5, "words": ("a",)}
    assert seen.versions["torch"] == torch.__version__
    assert set(seen.versions) == {"dst", "torch", "transformers", "numpy"}


def test_a_module_that_is_no_language_model_is_refused() -> None:
    from dst.core.errors import ModelError

    with pytest.raises(ModelError, match="Linear is no transformers model"):
        HooksBackend(nn.Linear(2, 2), None)
