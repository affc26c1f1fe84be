"""How a trained model answers the cases of the world: error tables, and a case to show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from dst.core.case import Case
from dst.testbed import world


@dataclass(frozen=True)
class ErrorRow:
    """Greedy answers to the cases of one kind, counted by outcome."""

    kind: str
    n: int
    contextual: int
    associative: int
    invalid: int

    @property
    def error(self) -> float:
        """Share of answers that the context does not support."""
        return 1 - self.contextual / self.n

    @property
    def hallucination(self) -> float:
        """Share of answers that are associative forms."""
        return self.associative / self.n


def wilson(count: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: the p with |count/n - p| <= z sqrt(p (1 - p) / n)."""
    z = 1.959963984540054
    share, weight = count / n, z * z / n
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / n + weight / (4 * n)) / (1 + weight)
    # At the ends one limit is the end itself, which rounding would miss by an ulp.
    return (0.0 if count == 0 else middle - half), (1.0 if count == n else middle + half)


def greedy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]
) -> list[tuple[str, float]]:
    """The likeliest next word of every prompt, and its probability."""
    answers: list[tuple[str, float]] = []
    model.eval()
    for start in range(0, len(prompts), 256):
        batch = tokenizer(list(prompts[start : start + 256]), padding=True, return_tensors="pt")
        last = batch["attention_mask"].sum(-1) - 1
        with torch.inference_mode():
            logits = model(input_ids=batch["input_ids"]).logits
        p, ids = logits[torch.arange(len(last)), last].softmax(-1).max(-1)
        answers += [
            (tokenizer.decode(int(i)).strip(), float(q)) for i, q in zip(ids, p, strict=True)
        ]
    return answers


def error_table(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, cases: Sequence[Case]
) -> list[ErrorRow]:
    """How often each kind of case is answered by the context, by association, or otherwise.

    The answer is the greedy next word. An associative form is a hallucination; a word that is
    neither is invalid and counted apart.
    """
    counts: dict[str, Counter[str]] = {}
    answers = greedy(model, tokenizer, [case.text for case in cases])
    for case, (word, _) in zip(cases, answers, strict=True):
        outcome = "contextual" if word in case.contextual else "invalid"
        outcome = "associative" if word in case.associative else outcome
        counts.setdefault(world.kind_of(case), Counter())[outcome] += 1
    return [
        ErrorRow(kind, count.total(), count["contextual"], count["associative"], count["invalid"])
        for kind, count in counts.items()
    ]


DEMO_CASES = 240
DEMO_RULE = (
    f"Of {DEMO_CASES} minority-sense binding cases of the test split (seed 0), in the order of "
    "their case_id: the first that the model answers with the associative form at p >= 0.5, whose "
    "twin, the same story without the distractor, it answers with the contextual form, and whose "
    "noun alone calls up the associative form: at p >= 0.5 after every neutral cue in the twin."
)


def demo(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any] | None:
    """The case and its twin that `DEMO_RULE` finds, or None."""
    drawn = world.cases("test", n=DEMO_CASES, kinds=("binding",))
    for case in sorted(drawn, key=lambda case: case.case_id):
        twin = world.without_distractors(case)
        without_cue = [str(text) for text in twin.neutral]
        answers = greedy(model, tokenizer, [case.text, twin.text, *without_cue])
        (word, p), (twin_word, twin_p), *alone = answers
        associates = all(said in case.associative and q >= 0.5 for said, q in ((word, p), *alone))
        if associates and twin_word in twin.contextual:
            return {
                "rule": DEMO_RULE,
                "hallucinated": case.to_dict(),
                "hallucinated_answer": word,
                "hallucinated_probability": round(p, 4),
                "corrected": twin.to_dict(),
                "corrected_answer": twin_word,
                "corrected_probability": round(twin_p, 4),
            }
    return None
