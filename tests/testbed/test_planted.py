"""Planted models: plans that work or are refused, LD in closed form, checkpoints, the sampler."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dst.core.case import Case, load_cases
from dst.core.errors import InputError
from dst.core.results import open_result
from dst.testbed.planted import (
    KINDS,
    Decoy,
    Edge,
    Plant,
    Planted,
    Route,
    Thresholds,
    Truth,
    build,
    is_clear,
    load,
    make_tokenizer,
    sample,
    save,
    truth_of,
)
from dst.testbed.planted_checks import D_MLP, D_MODELS
from dst.testbed.planted_circuit import DIMENSIONS, unembedding
from dst.testbed.planted_marks import dss, inversion, onset, travel
from dst.testbed.planted_prompt import VOCABULARY
from dst.testbed.planted_weights import N_POSITIONS, residual_basis

TOLERANCE = 1e-5
RELAY = Plant(
    n_layers=5,
    base=0.25,
    alpha=2.5,
    context=(Route(("cue", "relay_1", "answer"), (2, 4)),),
    beta=3.5,
    prior=Route(("subject", "answer"), (3,)),
    prior_block=1,
)


@torch.no_grad()
def contrast(planted: Planted, prompts: list[str]) -> np.ndarray:
    """LD of each prompt by plain transformers."""
    ids = torch.tensor([planted.tokenizer(prompt)["input_ids"] for prompt in prompts])
    logits = planted.model(ids).logits[:, -1].double()
    answers = [planted.case.contextual[0], planted.case.associative[0]]
    plus, minus = planted.tokenizer.convert_tokens_to_ids(answers)
    probability = logits.softmax(-1)[:, [plus, minus]].sum(-1)
    assert probability.min() > 0.5  # the answer is given at i*
    return (logits[:, plus] - logits[:, minus]).numpy()


def prompts_of(case: Case) -> dict[str, tuple[str, ...]]:
    """Every draw of every run, as text; x_0,sub takes x_sub's word where it differs from x."""
    texts = lambda draws: tuple(str(draw) for draw in draws)  # noqa: E731
    both = []
    for neutral, substitute in zip(texts(case.neutral), texts(case.substitute), strict=True):
        words = zip(case.text.split(), substitute.split(), neutral.split(), strict=True)
        both.append(" ".join(sub if sub != own else other for own, sub, other in words))
    runs = {
        "x": (case.text,),
        "neutral": texts(case.neutral),
        "swap": texts(case.swap),
        "substitute": texts(case.substitute),
        "neutral_substitute": tuple(both),
    }
    return runs | ({"clean": texts(case.clean)} if case.clean else {})


def check_contrast(planted: Planted) -> float:
    """Largest |LD by the forward pass - LD in closed form| over every draw of every run."""
    runs = prompts_of(planted.case)
    assert set(runs) == set(planted.truth.ld)
    known = np.array([planted.truth.ld[name] for name, texts in runs.items() for _ in texts])
    measured = contrast(planted, [text for texts in runs.values() for text in texts])
    error = float(np.abs(measured - known).max())
    assert error < TOLERANCE
    return error


# -- the forward pass ---------------------------------------------------------------------------


@pytest.mark.parametrize("plan", sample(3 * len(KINDS), seed=21), ids=lambda plan: plan.name)
def test_forward_pass_equals_the_closed_form(plan: Plant) -> None:
    planted = build(plan)
    check_contrast(planted)
    tokens = planted.tokenizer(planted.case.text)["input_ids"]
    assert planted.tokenizer.convert_ids_to_tokens(tokens) == list(planted.truth.tokens)
    assert planted.truth.base + planted.truth.prior + planted.truth.total_effect == pytest.approx(
        planted.truth.ld["x"]
    )


@pytest.mark.full
def test_hundreds_are_built_and_checked_in_a_minute() -> None:
    start = time.process_time()  # processor seconds: other work on the machine does not count
    for plan in sample(340, seed=22):
        check_contrast(build(plan))
    assert time.process_time() - start < 60


@pytest.mark.parametrize("body", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "change",
    [
        {"rotated": True},
        {"noise": 2.0},
        {"noise": 2.0, "rotated": True, "seed": 5},
        {"d_model": 40},
        {"d_model": 64},
        {"mentions": 2},
        {"n_layers": 12},
    ],
    ids=str,
)
def test_body_basis_noise_and_width_change_no_answer(body: Any, change: dict[str, Any]) -> None:
    plan = replace(RELAY, body=body, **change)
    assert truth_of(plan).ld == truth_of(RELAY).ld
    check_contrast(build(plan))


def test_noise_reaches_the_residual_stream_but_not_the_answers() -> None:
    loud, quiet = build(replace(RELAY, noise=1.0)), build(RELAY)
    ids = torch.tensor(quiet.tokenizer(quiet.case.text)["input_ids"])[None]
    basis = residual_basis(RELAY, np.random.default_rng(0))
    free = torch.from_numpy(basis[len(DIMENSIONS) :]).float()
    used = torch.from_numpy(basis[1 : len(DIMENSIONS)]).float()
    with torch.no_grad():
        one, other = (
            torch.stack(p.model(ids, output_hidden_states=True).hidden_states[:-1])
            for p in (loud, quiet)
        )
    np.testing.assert_allclose((one[0] @ free.T).norm(dim=-1), 1.0, atol=1e-4)  # as stated
    # The blocks stir it: a hundred times the rounding that the quiet model is allowed below.
    assert ((one[-1] - one[0]) @ free.T).norm(dim=-1).min() > 100 * 1e-5
    heads = loud.model.model.layers[0].self_attn  # nothing is planted in the first
    for matrix in (heads.q_proj, heads.k_proj, heads.v_proj):
        norms = matrix.weight.reshape(4, -1).norm(dim=1)
        np.testing.assert_allclose(norms, 1.0, atol=1e-5)
    np.testing.assert_allclose((other @ free.T).abs().max(), 0, atol=1e-5)
    np.testing.assert_allclose(one @ used.T, other @ used.T, atol=1e-4)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("body", ["llama", "gpt2"])
def test_residual_basis(body: Any, rotated: bool) -> None:
    plan = replace(RELAY, body=body, rotated=rotated, seed=3)
    basis = residual_basis(plan, np.random.default_rng(plan.seed))
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-12)
    ballast = np.flatnonzero(basis[0])
    assert len(ballast) == (1 if body == "llama" else 2)
    assert not basis[1:, ballast].any()
    if body == "gpt2":
        np.testing.assert_allclose(basis.sum(1), 0, atol=1e-12)
    assert len(basis) > len(DIMENSIONS)


def test_sizes_tell_the_axes_apart() -> None:
    sizes = [len(VOCABULARY), D_MLP, N_POSITIONS, *D_MODELS]
    assert len(set(sizes)) == len(sizes)
    assert len(set(VOCABULARY)) == len(VOCABULARY)


def test_unembedding_rows_sum_to_zero() -> None:
    total: dict[str, float] = {}
    for row in unembedding().values():
        for name, weight in row.items():
            total[name] = total.get(name, 0) + weight
    assert set(total.values()) == {0.0}


def test_building_leaves_the_random_generators_alone() -> None:
    before = torch.get_rng_state()
    state = np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002
    build(replace(RELAY, noise=1.0, rotated=True))
    sample(3, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert (state == np.random.get_state(legacy=False)["state"]["key"]).all()  # noqa: NPY002


def test_a_plan_is_built_the_same_twice() -> None:
    plan = replace(RELAY, noise=0.7, rotated=True, seed=9)
    one, two = build(plan).model.state_dict(), build(plan).model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_known_answers_need_no_network() -> None:
    code = (
        "import sys; from dst.testbed.planted_sample import sample;"
        "from dst.testbed.planted_truth import truth_of;"
        "truth_of(sample(3, 0)[0]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# -- plans that cannot work ---------------------------------------------------------------------

CUE_TO_SUBJECT = Route(("cue", "subject", "answer"), (2, 4))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"body": "bert"}, "body is 'bert'; expected 'llama' or 'gpt2'"),
        ({"n_layers": 0}, "plan has 0 blocks"),
        ({"n_layers": 3}, "A hop of the context route is in block 4; expected a block from 1 to 3"),
        ({"d_model": 30}, "d_model is 30; expected one of 40, 48, 64"),
        ({"mentions": 3}, "names the subject 3 times"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"beta": 1e6}, "beta is 1000000.0; expected a number from -20 to 20"),
        ({"noise": -1.0}, "noise norm is -1.0"),
        ({"combine": "all"}, "combine is 'all'"),
        (
            {"context": (Route(("cue", "relay_1", "answer"), (4, 2)),)},
            "reads relay_1 in block 2, but writes it only in block 4; expected a read after",
        ),
        (
            {"context": (Route(("cue", "relay_1", "answer"), (3, 3)),)},
            "reads relay_1 in block 3, but writes it only in block 3",
        ),
        (
            {"context": (Route(("cue", "relay_7", "answer"), (2, 4)),)},
            "names the station 'relay_7', which is not in the prompt",
        ),
        (
            {"context": (Route(("cue", "subject", "relay_1", "answer"), (1, 2, 3)),)},
            "goes from subject to relay_1; expected a later token",
        ),
        ({"context": (Route(("cue", "answer"), (1, 2)),)}, "2 stations and 2 blocks"),
        (
            {"context": (Route(("relay_1", "answer"), (1,)),)},
            "from relay_1 to answer; expected cue",
        ),
        ({"context": ()}, "alpha is 2.5, but no route carries the context"),
        ({"context": (CUE_TO_SUBJECT,) * 3}, "context has 3 routes"),
        ({"prior_block": 3}, "is read in block 3, but written by the MLP of block 3"),
        ({"prior_block": 9}, "writing of the association is in block 9"),
        ({"prior": None}, "association has a strength or a block, but no route"),
        ({"prior": Route(("subject", "where", "answer"), (3, 4))}, "the station 'where'"),
        ({"spurious_strength": 1.0}, "spurious word has a strength, but no route"),
        ({"late_block": 4}, "reads the answer in block 4, but the context is settled"),
        ({"late_strength": 1.0}, "late correction has a strength, but no block"),
        ({"gate_block": 5}, "plan has a gate, but combine is 'sum'"),
        ({"combine": "either"}, "The gate is in block None"),
        ({"combine": "either", "gate_block": 5}, "two context routes, each with a share of 1"),
        (
            {"combine": "either", "gate_block": 3, "context": (CUE_TO_SUBJECT, CUE_TO_SUBJECT)},
            "gate reads the answer in block 3, but the context arrives only in block 4",
        ),
        ({"lag": True}, "subject is not read before the cue has reached it"),
        ({"lag": True, "context": (CUE_TO_SUBJECT,)}, "subject is not read before"),
        ({"one_noun_context": True}, "no context passes through the subject"),
        ({"decoys": (Decoy(9, "cue", "answer"),)}, "A distractor head is in block 9"),
        ({"decoys": (Decoy(1, "answer", "cue"),)}, "goes from answer to cue"),
        ({"decoys": (Decoy(3, "cue", "answer"),) * 4}, "puts 5 heads into block 3"),
        ({"edges": (Edge("music", "sound", 4, 1.0),)}, "but music is not there before it"),
        ({"edges": (Edge("sound", "stage", 5, 1.0),)}, "but sound is not there before it"),
        ({"edges": (Edge("music", "drum", 5, 1.0),)}, "two different words of music, sound"),
        ({"edges": (Edge("music", "sound", 5, 1.0),) * 20}, "20 edges; expected at most 16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_impossible_plan_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)) as caught:
        replace(RELAY, **change)
    assert "\n" not in str(caught.value)


def test_a_plan_survives_json() -> None:
    for plan in sample(2 * len(KINDS), seed=4):
        assert Plant.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_an_unknown_field_of_a_plan_is_refused() -> None:
    with pytest.raises(InputError, match="unexpected keyword argument 'gamma'"):
        Plant.from_dict({**RELAY.to_dict(), "gamma": 1})
    with pytest.raises(InputError, match="expected the fields of Plant"):
        Plant.from_dict({"context": [{"stations": ["cue"]}]})


# -- the sampler --------------------------------------------------------------------------------


def test_sample_draws_every_kind_and_repeats_itself() -> None:
    plans = sample(8 * len(KINDS), seed=2)
    assert plans == sample(8 * len(KINDS), seed=2)
    assert plans != sample(8 * len(KINDS), seed=3)
    assert [plan.name.rsplit(" ", 1)[0] for plan in plans[: len(KINDS)]] == list(KINDS)
    assert {plan.body for plan in plans} == {"llama", "gpt2"}
    assert {plan.n_layers for plan in plans} == set(range(3, 9))
    truths = [truth_of(plan) for plan in plans]
    assert {truth.outcome for truth in truths} == {"correct", "hallucination"}
    assert {truth.failure for truth in truths} >= {"", "lag", "reasoning shortcut hijack"}
    for plan, truth in zip(plans, truths, strict=True):
        if plan.name.startswith("none"):
            assert not np.any(truth.context_insertion)
            assert not np.any(truth.association_insertion)
            assert truth.ld["x"] == plan.base
        if plan.name.startswith("cancelled"):
            assert truth.context_cancelled


def test_a_plan_on_a_threshold_is_not_clear() -> None:
    assert is_clear(RELAY)
    assert not is_clear(replace(RELAY, base=0.0))  # a margin of 0 has no sign
    halves = tuple(replace(CUE_TO_SUBJECT, share=0.5, blocks=blocks) for blocks in ((1, 3), (2, 4)))
    assert not is_clear(replace(RELAY, context=halves))  # half arrives with the first route


def test_a_negative_number_of_plans_is_refused() -> None:
    with pytest.raises(InputError, match="-1 plans"):
        sample(-1, seed=0)


# -- marks of curves made by hand ------------------------------------------------------------------

USE = Thresholds()


def test_a_flow_that_comes_and_goes_has_arrived_when_it_stays() -> None:
    insertion = np.array([[0.0], [3.0], [1.0], [2.5], [4.0]])
    seen = travel(np.zeros((5, 1)), insertion, answer=0, total=4.0, use=USE)
    assert (seen.arrival[0], seen.handover) == (3.0, 4.0)
    removal = np.array([[2.0, 0], [4.0, 0], [1.9, 0], [3.0, 0], [0.0, 4]])
    source = travel(removal, np.zeros((5, 2)), answer=1, total=0.0, use=USE)
    assert (source.arrival[0], source.departure[0]) == (0.0, 4.0)
    assert np.isnan([source.arrival[1], source.departure[1], source.handover]).all()


@pytest.mark.parametrize(
    ("context", "association", "share", "note"),
    [
        (2.0, -3.0, 2 / 5, ""),
        (2.0, 1.0, 1.0, "no conflict"),
        (-1.0, -3.0, 0.0, "no support"),
        (-2.0, 1.0, np.nan, "misled by the context"),
        (0.01, -0.01, np.nan, "nothing arrived"),
        (0.0, -3.0, 0.0, ""),
    ],
)
def test_dss_and_its_open_cases(
    context: float, association: float, share: float, note: str
) -> None:
    value, said = dss(context, association, USE.floor)
    assert said == note
    assert value == pytest.approx(share, nan_ok=True)


def test_inversion_and_onset_by_hand() -> None:
    margin = np.array([1.0, -1.0, 0.5, -1.0, -2.0])
    assert inversion(margin, 0.05) == (3.0, "")
    assert inversion(-np.ones(3), 0.05)[1] == "never held the contextual answer"
    assert inversion(np.array([1.0, -1, 1]), 0.05)[1].startswith("the final answer is not")
    band = np.full(5, 0.6)
    assert onset(margin, band, drop=0.5) == (1.0, "")  # 1 and 2 are under the band
    assert onset(margin, band, drop=3.5)[1] != ""  # it never falls so far
    assert onset(np.array([1.0, 0, 1, 0, 1]), band, drop=0.5)[1] != ""  # never two in a row


# -- checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["llama", "gpt2"])
def test_a_checkpoint_is_ordinary(body: Any, tmp_path: Path) -> None:
    planted = build(replace(RELAY, body=body, rotated=True, noise=0.5))
    folder = save(planted, tmp_path / "models" / "relay")
    assert {path.name for path in folder.iterdir()} >= {
        *("config.json", "model.safetensors", "tokenizer.json"),
        *("plan.json", "truth.npz", "case.jsonl"),
    }
    assert [path.name for path in folder.parent.iterdir()] == ["relay"]  # nothing left behind
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(planted.case.text, return_tensors="pt")
    assert ids["input_ids"].tolist()[0] == planted.tokenizer(planted.case.text)["input_ids"]
    assert tokenizer.decode(ids["input_ids"][0]) == " ".join(planted.truth.tokens)
    with torch.no_grad():
        assert torch.equal(model(**ids).logits, planted.model(ids["input_ids"]).logits)
    again = load(folder)
    assert again.plan == planted.plan
    assert again.case == planted.case == load_cases(folder / "case.jsonl")[0]
    check_contrast(again)
    stored = open_result(folder / "truth.npz")
    assert isinstance(stored, Truth)
    assert stored.marks() == pytest.approx(planted.truth.marks(), nan_ok=True)
    np.testing.assert_array_equal(stored.context_removal, planted.truth.context_removal)
    assert stored.reasons == planted.truth.reasons


def test_saving_replaces_a_planted_model_and_nothing_else(tmp_path: Path) -> None:
    folder = save(build(RELAY), tmp_path / "model")
    save(build(replace(RELAY, alpha=1.0)), folder)
    assert load(folder).plan.alpha == 1.0
    other = tmp_path / "mine"
    other.mkdir()
    (other / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="holds no planted model"):
        save(build(RELAY), other)
    assert (other / "notes.txt").read_text() == "keep"
    with pytest.raises(InputError, match="cannot be written"):
        save(build(RELAY), other / "notes.txt" / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model"]


def test_loading_what_is_no_planted_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no planted model"):
        load(tmp_path / "nowhere")
    folder = save(build(RELAY), tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="holds no planted model"):
        load(folder)


def test_tokenizer_puts_bos_first_and_knows_its_words() -> None:
    tokenizer = make_tokenizer()
    ids = tokenizer("a bass")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<bos>", "a", "bass"]
    assert tokenizer("Bass")["input_ids"][1] == tokenizer.unk_token_id


# -- one model worked by hand ---------------------------------------------------------------------


def test_the_worked_example_in_fractions() -> None:
    """docs/planted.md: its table and marks, against the known answers and against the model."""
    page = (Path(__file__).parents[2] / "docs" / "planted.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+?) \| (.+) \|$", page, re.MULTILINE))
    table = {
        name: [np.nan if cell == "none" else float(Fraction(cell)) for cell in cells.split(" | ")]
        for name, cells in rows.items()
        if name not in ("state", "mark") and not name.startswith("-")
    }
    truth = truth_of(RELAY)

    def column(flow: np.ndarray, role: str) -> list[float]:
        return flow[:, truth.role_names.index(role)].tolist()

    rows_known = {
        "lens margin": truth.margin,
        "lens margin of x_sub": truth.band_low + truth.thresholds["band"],
        "DSS*": truth.dss,
        "de-primed x": truth.repaired["de-prime"],
        "de-primed x_0": truth.control["de-prime"],
        "arrival of the context at the answer": truth.context_arrival[0],
        "arrival of the association at the answer": truth.association_arrival[0],
        "departure of the context from the cue": at(truth.context_departure, truth, "cue"),
        "departure of the context from the relay": at(truth.context_departure, truth, "relay"),
        "departure of the association from the subject": at(
            truth.association_departure, truth, "subject_1"
        ),
        "handover of the context": truth.handover["context"],
        "handover of the association": truth.handover["association"],
        "inversion": truth.inversion,
        "lens commitment": truth.lens_commitment,
        "onset": truth.onset,
        "commitment under de-priming": truth.commitment["de-prime"],
    }
    for role in ("cue", "relay", "answer"):
        rows_known[f"context at {role}"] = column(truth.context_insertion, role)
        assert column(truth.context_removal, role) == column(truth.context_insertion, role)
    for role in ("subject_1", "answer"):
        rows_known[f"association at {role}"] = column(truth.association_insertion, role)
        assert column(truth.association_removal, role) == column(truth.association_insertion, role)
    assert table.keys() == rows_known.keys()
    for name, values in table.items():
        known = np.atleast_1d(np.asarray(rows_known[name]))
        np.testing.assert_array_max_ulp(np.array(values), known, maxulp=2)
    # Roles that the table leaves out hold nothing.
    assert np.count_nonzero(truth.context_insertion) == 6
    assert np.count_nonzero(truth.association_insertion) == 6
    assert truth.failure == "reasoning shortcut hijack"
    check_contrast(build(RELAY))


def at(states: np.ndarray, truth: Truth, role: str) -> float:
    return float(states[truth.role_names.index(role)])
