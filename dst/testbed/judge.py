"""How a trained model answers the cases of the world: error tables, and a case to show."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from dst.analysis.proportion import wilson
from dst.core.case import Case
from dst.testbed import world

YES, NO = "yes", "no"
ROWS = 128  # prompts in one batch


# ------------------------------------------------------------------------------- what is said


@dataclass(frozen=True)
class Reply:
    """The greedy continuation of a prompt."""

    texts: tuple[str, ...]  # what is said after one token, two tokens, ...
    p: tuple[float, ...]  # of each token, given those before it

    @property
    def word(self) -> str:
        """The first word that is said."""
        found = re.match(r"\w+|\S+", self.texts[-1])
        return found[0] if found else ""

    def says(self, form: str) -> bool:
        """Whether the reply opens with a form, as whole words."""
        return bool(re.match(re.escape(form) + r"(?!\w)", self.texts[-1]))

    def probability(self, form: str) -> float:
        """The product over the tokens that spell a form which is said; NaN if it is not."""
        if not self.says(form):
            return math.nan
        tokens = next(n for n, text in enumerate(self.texts, 1) if text.startswith(form))
        return math.prod(self.p[:tokens])


def greedy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    tokens: int = 1,
) -> list[Reply]:
    """The likeliest next token of every prompt, and the likeliest after it, `tokens` of them.

    Prompts of one length run together, so that none is padded: a reply depends on its prompt
    alone, but for rounding.
    """
    ids = tokenizer(list(prompts))["input_ids"]
    replies: dict[int, Reply] = {}
    spelled: dict[tuple[int, ...], str] = {}
    model.eval()
    for rows in _of_one_length(ids):
        said, p = _continue(model, torch.tensor([ids[row] for row in rows]), tokens)
        for row, numbers, shares in zip(rows, said, p, strict=True):
            starts = [tuple(numbers[: n + 1]) for n in range(tokens)]
            for start in starts:
                if start not in spelled:
                    spelled[start] = tokenizer.decode(list(start)).strip()
            replies[row] = Reply(tuple(spelled[start] for start in starts), tuple(shares))
    return [replies[row] for row in range(len(prompts))]


def _of_one_length(ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The numbers of the rows, in batches of rows that are equally long."""
    by_length: dict[int, list[int]] = {}
    for row, numbers in enumerate(ids):
        by_length.setdefault(len(numbers), []).append(row)
    for rows in by_length.values():
        for start in range(0, len(rows), ROWS):
            yield rows[start : start + ROWS]


@torch.inference_mode()
def _continue(
    model: LlamaForCausalLM, ids: torch.Tensor, tokens: int
) -> tuple[list[list[int]], list[list[float]]]:
    """[row token] ids of the greedy continuation, and their probabilities."""
    said, shares = [], []
    # Only what comes after the first token needs the keys and values of the prompt.
    out = model(input_ids=ids.to(model.device), use_cache=tokens > 1)
    for left in reversed(range(tokens)):
        p, following = out.logits[:, -1].softmax(-1).max(-1)
        said.append(following)
        shares.append(p)
        if left:
            out = model(input_ids=following[:, None], past_key_values=out.past_key_values)
    return torch.stack(said, 1).tolist(), torch.stack(shares, 1).tolist()


def longest(tokenizer: PreTrainedTokenizerFast, cases: Iterable[Case]) -> int:
    """How many tokens of a reply show which answer it is: those of the longest form, and one more.

    The one more tells a form from a longer word that begins like it.
    """
    forms = {form for case in cases for form in (*case.contextual, *case.associative)}
    spelled = sorted({spelling for form in forms for spelling in (form, f" {form}")})
    return 1 + max(map(len, tokenizer(spelled, add_special_tokens=False)["input_ids"]))


# --------------------------------------------------------------------------- what is counted


@dataclass(frozen=True)
class ErrorRow:
    """Greedy answers to the cases of one kind, counted by outcome."""

    kind: str
    n: int
    contextual: int
    associative: int
    invalid: int
    gold: str = ""  # the right answer of yes/no questions, which are counted by it

    @property
    def error(self) -> float:
        """Share of answers that the context does not support."""
        return 1 - self.contextual / self.n

    @property
    def hallucination(self) -> float:
        """Share of answers that are associative forms."""
        return self.associative / self.n

    def to_dict(self) -> dict[str, Any]:
        """The counts, and both shares with Wilson's 95 % intervals."""
        row: dict[str, Any] = {"kind": self.kind}
        if self.gold:
            row["gold"] = self.gold
        row |= {
            "n": self.n,
            "contextual": self.contextual,
            "associative": self.associative,
            "invalid": self.invalid,
        }
        for name, count in (
            ("error", self.n - self.contextual),
            ("hallucination", self.associative),
        ):
            row[name] = round(getattr(self, name), 4)
            row[f"{name}_interval"] = [round(limit, 4) for limit in wilson(count, self.n)]
        return row


def gold(case: Case) -> str:
    """The right answer of a yes/no question; "" for any other case."""
    answers = {*case.contextual, *case.associative}
    return case.contextual[0] if answers <= {YES, NO} else ""


def outcome(case: Case, reply: Reply) -> str:
    """A reply is contextual, associative (a hallucination), or invalid: any other word."""
    for name in ("associative", "contextual"):
        if any(reply.says(form) for form in getattr(case, name)):
            return name
    return "invalid"


def outcomes(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, cases: Sequence[Case]
) -> list[str]:
    """The outcome of every case."""
    replies = greedy(model, tokenizer, [case.text for case in cases], longest(tokenizer, cases))
    return [outcome(case, reply) for case, reply in zip(cases, replies, strict=True)]


def error_table(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, cases: Sequence[Case]
) -> list[ErrorRow]:
    """How often each kind of case is answered by the context, by association, or otherwise.

    The answer is the greedy continuation, as far as the longest answer goes. An associative form
    is a hallucination; a word that is neither answer is invalid and counted apart. Yes/no
    questions make two rows, one for each right answer: a model that always says yes is right in
    one and wrong in the other.
    """
    return table_of(cases, outcomes(model, tokenizer, cases))


def table_of(cases: Sequence[Case], found: Sequence[str]) -> list[ErrorRow]:
    """Outcomes counted by kind and, of yes/no questions, by the right answer."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for case, name in zip(cases, found, strict=True):
        counts.setdefault((world.kind_of(case), gold(case)), Counter())[name] += 1
    return [
        ErrorRow(
            kind, count.total(), count["contextual"], count["associative"], count["invalid"], right
        )
        for (kind, right), count in counts.items()
    ]


def by_word(cases: Sequence[Case], found: Sequence[str]) -> dict[str, dict[str, int]]:
    """Outcomes counted by the case's group: {noun: {"n": ..., "associative": ..., ...}}."""
    counts: dict[str, Counter[str]] = {}
    for case, name in zip(cases, found, strict=True):
        counts.setdefault(str(case.group), Counter())[name] += 1
    names = ("contextual", "associative", "invalid")
    return {
        word: {"n": count.total(), **{name: count[name] for name in names}}
        for word, count in sorted(counts.items())
    }


@dataclass(frozen=True)
class YesNo:
    """Yes/no questions of every kind together."""

    n: int
    balanced_accuracy: float  # mean of the shares right among questions to say yes and no to
    yes_bias: float  # share of yes among valid answers, minus that of questions to say yes to;
    invalid: int  # NaN where no answer is valid


def yes_no(rows: Iterable[ErrorRow]) -> YesNo | None:
    """Balanced accuracy and yes-bias of the rows with a right answer of yes or no; None if none."""
    kept = [row for row in rows if row.gold]
    total = {right: sum(row.n for row in kept if row.gold == right) for right in (YES, NO)}
    if not all(total.values()):
        return None
    correct = {right: sum(r.contextual for r in kept if r.gold == right) for right in (YES, NO)}
    said_yes = correct[YES] + sum(row.associative for row in kept if row.gold == NO)
    valid = sum(row.contextual + row.associative for row in kept)
    n = sum(total.values())
    return YesNo(
        n=n,
        balanced_accuracy=sum(correct[right] / total[right] for right in (YES, NO)) / 2,
        yes_bias=said_yes / valid - total[YES] / n if valid else math.nan,
        invalid=n - valid,
    )


# ---------------------------------------------------------------------------- a case to show

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
    tokens = longest(tokenizer, drawn)
    for case in sorted(drawn, key=lambda case: case.case_id):
        twin = world.without_distractors(case)
        wrong, right = case.associative[0], twin.contextual[0]
        texts = [case.text, twin.text, *(str(text) for text in twin.neutral)]
        told, twin_told, *alone = greedy(model, tokenizer, texts, tokens)
        associates = all(reply.probability(wrong) >= 0.5 for reply in (told, *alone))
        if associates and twin_told.says(right):
            return {
                "rule": DEMO_RULE,
                "hallucinated": case.to_dict(),
                "hallucinated_answer": wrong,
                "hallucinated_probability": round(told.probability(wrong), 4),
                "corrected": twin.to_dict(),
                "corrected_answer": right,
                "corrected_probability": round(twin_told.probability(right), 4),
            }
    return None
