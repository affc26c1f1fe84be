"""What a model is: its sizes, and a hash that changes with any weight."""

from __future__ import annotations

import torch
import transformers

from dst.models.hooks import HooksBackend
from dst.models.identity import made_by, spec_of, versions, weights_hash
from tests import tiny


def test_the_sizes_are_those_of_the_modules() -> None:
    spec = tiny.backend("qwen3").spec
    assert (spec.family, spec.n_layers, spec.d_model, spec.d_vocab) == ("qwen3", 3, 64, 384)
    assert (spec.n_heads, spec.n_kv_heads, spec.d_head, spec.window) == (4, 2, 20, 128)
    assert [spec.heads_at(kind) for kind in ("q", "k", "v", "z")] == [4, 2, 2, 4]
    assert tiny.backend("falcon").spec.n_kv_heads == 1  # multi-query, whatever its config says
    assert tiny.backend("falcon", multi_query=False).spec.n_kv_heads == 4
    assert tiny.backend("falcon_new").spec.n_kv_heads == 2


def test_a_model_without_a_longest_prompt_takes_any() -> None:
    config = transformers.BloomConfig(vocab_size=99, hidden_size=64, n_layer=2, n_head=4)
    model = transformers.BloomForCausalLM(config)
    assert HooksBackend(model, None).spec.window == 1_000_000


def test_the_name_is_the_one_given_or_the_configs() -> None:
    engine = tiny.backend("llama")
    assert spec_of(engine.anatomy, "mine", "abc").name == "mine"
    assert spec_of(engine.anatomy, "mine", "abc").revision == "abc"
    engine.model.config._name_or_path = "org/model"
    engine.model.config._commit_hash = "def"
    assert spec_of(engine.anatomy).name == "org/model"
    assert spec_of(engine.anatomy).revision == "def"


def test_the_hash_changes_with_one_bit_of_any_weight() -> None:
    model = tiny.model("llama", 384)
    before = weights_hash(model)
    assert len(before) == 64
    assert weights_hash(tiny.model("llama", 384)) == before
    for parameter in model.parameters():
        with torch.no_grad():
            bits = parameter.view(-1)[-1:].view(torch.int32)
            bits ^= 1
            assert weights_hash(model) != before
            bits ^= 1
    assert weights_hash(model) == before


def test_the_hash_minds_names_shapes_and_types() -> None:
    class Weights(torch.nn.Module):
        def __init__(self, name: str, value: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer(name, value)

    value = torch.arange(6.0)
    made = [
        Weights("a", value),
        Weights("b", value),
        Weights("a", value.reshape(2, 3)),
        Weights("a", value.reshape(2, 3).T),
        Weights("a", value.double()),
        Weights("a", value.view(torch.int32)),
        Weights("a", torch.zeros(0)),
        Weights("a", torch.tensor(1.0)),
        Weights("a", torch.tensor(1.0, dtype=torch.bfloat16)),
    ]
    assert len({weights_hash(module) for module in made}) == len(made)
    # Not how they lie in memory.
    assert weights_hash(Weights("a", value.reshape(2, 3).T)) == weights_hash(
        Weights("a", value.reshape(2, 3).T.contiguous())
    )


def test_weights_that_are_not_here_have_no_bytes() -> None:
    with torch.device("meta"):
        model = torch.nn.Linear(3, 2)
    assert len(weights_hash(model)) == 64


def test_where_a_class_comes_from_is_told_without_importing_it() -> None:
    assert made_by(torch.nn.Linear(1, 1), "torch")
    assert not made_by(torch.nn.Linear(1, 1), "transformers")
    assert made_by(tiny.model("llama", 384), "transformers")


def test_versions_name_what_computed() -> None:
    import dst

    assert versions()["dst"] == dst.__version__
    assert versions()["torch"] == torch.__version__
