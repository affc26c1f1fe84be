"""Transformers whose account is known, because every weight was set by hand (METHOD 14).

A `Plant` states which tokens carry the context and the association to the answer, when, and how
strongly. `build` turns it into an ordinary transformers model with its case, its tokenizer and
its `Truth`: everything that a measurement of it must return. `sample` draws plans by the
hundred; `save` writes a checkpoint that any tool can load.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from dst.core.case import Case
from dst.core.errors import InputError
from dst.testbed.planted_marks import Thresholds
from dst.testbed.planted_plan import Decoy, Edge, Plant, Route
from dst.testbed.planted_prompt import BOS, PAD, STATIONS, UNKNOWN, VOCABULARY, case_of
from dst.testbed.planted_sample import KINDS, is_clear, sample
from dst.testbed.planted_truth import THRESHOLDS, Truth, truth_of
from dst.testbed.planted_weights import make_model

__all__ = [
    "Plant",
    "Route",
    "Edge",
    "Decoy",
    "STATIONS",
    "Planted",
    "build",
    "make_tokenizer",
    "sample",
    "KINDS",
    "is_clear",
    "Truth",
    "truth_of",
    "Thresholds",
    "THRESHOLDS",
    "save",
    "load",
]

WEIGHTS_FILE = "model.safetensors"
PLAN_FILE, TRUTH_FILE, CASE_FILE = "plan.json", "truth.npz", "case.jsonl"


@dataclass(frozen=True, eq=False)
class Planted:
    """A planted model with all that belongs to it.

    Attributes:
        plan: What was planted.
        model: A LlamaForCausalLM or GPT2LMHeadModel in float32, in evaluation mode.
        tokenizer: Word-level, puts <bos> before every text.
        case: The prompt with every variant, its roles and answers.
        truth: What a measurement must return.
    """

    plan: Plant
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    case: Case
    truth: Truth


def build(plant: Plant) -> Planted:
    """Make the model of a plan, with its case, tokenizer and known answers."""
    truth = truth_of(plant)
    # transformers draws random weights before ours replace them: leave the caller's generator be.
    with torch.random.fork_rng(devices=[]):
        model = make_model(plant)
    return Planted(plant, model, make_tokenizer(), case_of(plant, truth.outcome), truth)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer that puts <bos> before every text."""
    ids = {word: index for index, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BOS,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def save(planted: Planted, folder: str | Path) -> Path:
    """Write an ordinary checkpoint folder, with the plan, the case and the known answers in it.

    ``AutoModelForCausalLM.from_pretrained(folder)`` loads it. The folder appears whole or not at
    all; a planted model that is there already is replaced.

    Raises:
        InputError: The folder cannot be written, or holds something else.
    """
    target = Path(folder)
    if target.exists() and not (target / PLAN_FILE).is_file():
        raise InputError(
            f"{target} exists and holds no planted model",
            do="Give a new folder, or one that was written by save()",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise InputError(
            f"{target} cannot be written ({error.strerror or error})",
            do="Give a folder that you may write to",
        ) from None
    try:
        new, old = workplace / "new", workplace / "old"
        # As save_pretrained writes it, without its progress bar.
        planted.model.config.save_pretrained(new)
        weights = {name: w.contiguous() for name, w in planted.model.state_dict().items()}
        save_file(weights, new / WEIGHTS_FILE, metadata={"format": "pt"})
        planted.tokenizer.save_pretrained(new)
        plan = json.dumps(planted.plan.to_dict(), indent=2)
        (new / PLAN_FILE).write_text(plan + "\n", encoding="utf-8")
        case = json.dumps(planted.case.to_dict(), ensure_ascii=False)
        (new / CASE_FILE).write_text(case + "\n", encoding="utf-8")
        planted.truth.save(new / TRUTH_FILE)
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
    except OSError as error:
        raise InputError(
            f"{target} cannot be written ({error.strerror or error})",
            do="Give a folder on a disk with room",
        ) from None
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return target


def load(folder: str | Path) -> Planted:
    """Read back what `save` wrote: the weights from the checkpoint, the rest from the plan.

    Raises:
        InputError: The folder holds no planted model, or its plan cannot be read.
    """
    target = Path(folder)
    try:
        plan = Plant.from_dict(json.loads((target / PLAN_FILE).read_text(encoding="utf-8")))
        config = AutoConfig.from_pretrained(target, local_files_only=True)
        weights = load_file(target / WEIGHTS_FILE)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(target, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"{target} holds no planted model ({error})", do="Give a folder written by save()"
        ) from None
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(weights, strict=True, assign=True)
    model.eval().requires_grad_(False)
    truth = truth_of(plan)
    return Planted(plan, model, tokenizer, case_of(plan, truth.outcome), truth)
