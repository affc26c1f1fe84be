"""Planted models whose answer hangs on known words: one, several together, or either of several.

    anchor button shelf lamp carpet ... is

The prompt is a row of nouns and a word after which the answer is read. Heads bring to that word
which of the planted nouns are there, and an MLP does with them what is planted. The *spurious*
span is a set of nouns, next to each other or not, that together take ``strength`` from LD: all of
them are needed (``all``), or any of them is enough (``any``). Other nouns act by themselves. With k
the planted nouns that are left, and every other noun inert,

    LD = base - strength * [k holds all | any of the spurious nouns] + sum of the others in k

so that necessity and sufficiency of every set of words are known. With ``jitter`` every noun, also
one that fills in, adds a random number of its own. The body is a Llama of two blocks, built as in
`dst.testbed.planted` (METHOD 14).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.span_results import Spans
from dst.models.draws import shipped_nouns
from dst.testbed.planted_circuit import ANSWER_LOGIT
from dst.testbed.planted_weights import BALLAST, DEFAULT, MATCH, ROPE_THETA, SHARP

N_LAYERS, N_HEADS, D_MODEL, D_MLP = 2, 4, 64, 12
MOST = N_LAYERS * N_HEADS - 1
"""Nouns that can be planted: one head each, and one head for the jitter."""

CONTEXTUAL, ASSOCIATIVE, READER = "contextual", "associative", "is"
PAD, UNKNOWN, BOS = "<pad>", "<unk>", "<bos>"
N_NOUNS = 120
DIMENSIONS = (
    *("ballast", "at_bos", "at_reader", "at_noun", "own", "evidence"),
    *(f"has_{i}" for i in range(MOST)),  # at the noun
    *(f"seen_{i}" for i in range(MOST)),  # at the reader
)


@dataclass(frozen=True)
class SpanPlant:
    """What is planted in the words of one prompt.

    Attributes:
        n_words: Nouns in the prompt.
        spurious: Which of them are the spurious span.
        combine: ``all``: they act only together; ``any``: each is enough.
        strength: What the span takes from LD, in logits.
        others: (noun, what it adds to LD) of nouns that act by themselves.
        base: LD without any planted noun.
        noise: Norm of a random vector in each word's embedding, where no head reads.
        jitter: Standard deviation of what every noun adds to LD of its own, in logits; the
            formulas below are then those of the mean over such nouns.
        seed: Which nouns, and the noise.

    Raises:
        InputError: The plan cannot work.
    """

    n_words: int
    spurious: tuple[int, ...]
    combine: Literal["all", "any"]
    strength: float
    others: tuple[tuple[int, float], ...] = ()
    base: float = 0.0
    noise: float = 0.5
    jitter: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        planted = [*self.spurious, *(word for word, _ in self.others)]
        if not self.spurious or len({*planted}) != len(planted) or len(planted) > MOST:
            raise InputError(
                f"The words {planted} are planted", expected=f"one to {MOST} different words"
            )
        if not all(0 <= word < self.n_words for word in planted) or self.n_words > N_NOUNS // 2:
            raise InputError(
                f"The words {planted} are planted in a prompt of {self.n_words} words",
                expected=f"words of the prompt, which has at most {N_NOUNS // 2}",
            )

    @property
    def planted(self) -> tuple[int, ...]:
        """The planted nouns, those of the span first."""
        return (*self.spurious, *(word for word, _ in self.others))

    def contrast(self, left: Collection[int]) -> float:
        """LD when only these words are left and all others are inert, in logits."""
        there = [word in left for word in self.spurious]
        acts = all(there) if self.combine == "all" else any(there)
        added = sum(weight for word, weight in self.others if word in left)
        return self.base - self.strength * acts + added

    def necessity(self, words: Collection[int]) -> float:
        """N: what the associative answer loses with these words, in logits."""
        every = range(self.n_words)
        return self.contrast([i for i in every if i not in words]) - self.contrast(every)

    def kept(self, words: Collection[int]) -> float:
        """K: what the associative answer gets from these words alone, in logits."""
        return self.contrast(()) - self.contrast(words)


@dataclass(frozen=True, eq=False)
class PlantedSpan:
    """A planted model with its prompt.

    Attributes:
        plan: What was planted.
        model: A LlamaForCausalLM in float32, in evaluation mode.
        tokenizer: Word-level, puts <bos> before every text.
        case: The prompt and its two answers.
        words: The nouns of the prompt.
    """

    plan: SpanPlant
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    case: Case
    words: tuple[str, ...]

    def is_first(self, spans: Spans) -> bool:
        """Whether the best span that was found is the planted one, word by word."""
        planted = tuple(self.words[i] for i in sorted(self.plan.spurious))
        return bool(spans.found) and spans.found[0].words == planted


def sample(n: int, seed: int, *, jitter: float = 0.0) -> list[SpanPlant]:
    """Draw plans: 1 to 3 spurious nouns of 6 to 16, next to each other or not, all or any needed.

    Up to three other nouns act too, either way, none with more than 70 % of the span's strength;
    LD of the prompt is under -0.3, so that the model hallucinates.
    """
    rng = np.random.default_rng(seed)
    plans: list[SpanPlant] = []
    while len(plans) < n:
        size = 1 + len(plans) % 3
        n_words = int(rng.integers(6, 17))
        strength = round(float(rng.uniform(1.5, 6)), 2)
        if rng.random() < 0.5:  # next to each other
            start = int(rng.integers(0, n_words - size + 1))
            spurious = tuple(range(start, start + size))
        else:
            spurious = tuple(sorted(int(i) for i in rng.choice(n_words, size, replace=False)))
        free = [i for i in range(n_words) if i not in spurious]
        chosen = rng.choice(free, min(len(free), int(rng.integers(0, 4))), replace=False)
        plan = SpanPlant(
            n_words=n_words,
            spurious=spurious,
            combine="all" if rng.random() < 0.5 else "any",
            strength=strength,
            others=tuple(
                (int(i), round(float(rng.uniform(-0.7, 0.7)) * strength, 2)) for i in chosen
            ),
            base=round(float(rng.uniform(-0.5, 0.5)), 2),
            jitter=jitter,
            seed=int(rng.integers(2**31)),
        )
        if plan.contrast(range(n_words)) < -0.3:
            plans.append(plan)
    return plans


def build(plan: SpanPlant) -> PlantedSpan:
    """Make the model of a plan, with its tokenizer and its case."""
    nouns = shipped_nouns()[:N_NOUNS]
    rng = np.random.default_rng(plan.seed)
    words = tuple(nouns[i] for i in rng.permutation(N_NOUNS)[: plan.n_words])
    vocabulary = (PAD, UNKNOWN, BOS, *nouns, READER, CONTEXTUAL, ASSOCIATIVE)
    case = Case(prompt=" ".join([*words, READER]), contextual=CONTEXTUAL, associative=ASSOCIATIVE)
    with torch.random.fork_rng(devices=[]):
        model = _model(plan, words, vocabulary, rng)
    return PlantedSpan(plan, model, _tokenizer(vocabulary), case, words)


# -- inside ------------------------------------------------------------------------------------


def _tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    ids = {word: i for i, word in enumerate(vocabulary)}
    words = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=PAD, unk_token=UNKNOWN, bos_token=BOS,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _at(name: str) -> int:
    return DIMENSIONS.index(name)


def _model(
    plan: SpanPlant, words: Sequence[str], vocabulary: Sequence[str], rng: np.random.Generator
) -> PreTrainedModel:
    d, d_head = D_MODEL, D_MODEL // N_HEADS
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=d, intermediate_size=D_MLP,
        num_hidden_layers=N_LAYERS, num_attention_heads=N_HEADS, num_key_value_heads=N_HEADS,
        head_dim=d_head, max_position_embeddings=80, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        bos_token_id=vocabulary.index(BOS), eos_token_id=None,
        pad_token_id=vocabulary.index(PAD), dtype="float32",
    )  # fmt: skip
    one = 1 / (BALLAST * np.sqrt(d))  # read from the ballast, this is 1
    embed = np.zeros((len(vocabulary), d))
    free = rng.normal(size=(len(vocabulary), d - len(DIMENSIONS)))
    embed[:, len(DIMENSIONS) :] = plan.noise * free / np.linalg.norm(free, axis=1, keepdims=True)
    embed[:, 0] = BALLAST * np.sqrt(d)
    embed[vocabulary.index(BOS), _at("at_bos")] = 1
    embed[vocabulary.index(READER), _at("at_reader")] = 1
    embed[vocabulary.index(READER), _at("evidence")] = plan.base / 2
    is_noun = slice(vocabulary.index(BOS) + 1, vocabulary.index(READER))
    embed[is_noun, _at("at_noun")] = 1
    embed[is_noun, _at("own")] = plan.jitter * rng.normal(size=N_NOUNS)
    for i, word in enumerate(plan.planted):
        embed[vocabulary.index(words[word]), _at(f"has_{i}")] = 1
    head = np.zeros((len(vocabulary), d))
    for answer, sign in ((CONTEXTUAL, 1), (ASSOCIATIVE, -1)):
        head[vocabulary.index(answer), [_at("evidence"), _at("at_reader")]] = sign, ANSWER_LOGIT
    gain = np.full(d, BALLAST)
    state = {"model.embed_tokens.weight": embed, "model.norm.weight": gain, "lm_head.weight": head}
    for block in range(N_LAYERS):
        q, k, v = (np.zeros((N_HEADS, d_head, d)) for _ in range(3))
        o = np.zeros((N_HEADS, d, d_head))
        for slot in range(N_HEADS):
            feature = block * N_HEADS + slot
            parts = q[slot], k[slot], v[slot], o[slot]
            if feature < len(plan.planted):
                has = f"has_{feature}"
                _attend(parts, has, has, _writes(plan, feature), one)
            elif feature == MOST and plan.jitter:
                _attend(parts, "at_noun", "own", ("evidence", plan.n_words / 2), one)
        gate, down = np.zeros((D_MLP, d)), np.zeros((d, D_MLP))
        if block == N_LAYERS - 1:
            _combine(plan, gate, down, one)
        up = np.zeros((D_MLP, d))
        up[:, 0] = one
        at = f"model.layers.{block}"
        state |= {
            f"{at}.input_layernorm.weight": gain,
            f"{at}.post_attention_layernorm.weight": gain,
            f"{at}.self_attn.q_proj.weight": q.reshape(-1, d),
            f"{at}.self_attn.k_proj.weight": k.reshape(-1, d),
            f"{at}.self_attn.v_proj.weight": v.reshape(-1, d),
            f"{at}.self_attn.o_proj.weight": np.concatenate(list(o), axis=1),
            f"{at}.mlp.gate_proj.weight": gate,
            f"{at}.mlp.up_proj.weight": up,
            f"{at}.mlp.down_proj.weight": down,
        }
    model = LlamaForCausalLM(config)
    weights = {name: torch.from_numpy(np.float32(array)) for name, array in state.items()}
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _writes(plan: SpanPlant, feature: int) -> tuple[str, float]:
    """What a planted noun writes at the reader: its effect on LD, or that it was seen."""
    other = feature - len(plan.spurious)
    return ("evidence", plan.others[other][1] / 2) if other >= 0 else (f"seen_{feature}", 1.0)


def _attend(
    parts: tuple[np.ndarray, ...], source: str, read: str, write: tuple[str, float], one: float
) -> None:
    """The reader attends to its source, equally if there are several, else to <bos>.

    At <bos> there is nothing. Match and default are the two halves of the slowest rotary pair.
    """
    q, k, v, o = parts
    match, default = len(q) // 2 - 1, len(q) - 1
    q[match, _at("at_reader")], k[match, _at(source)] = MATCH, MATCH
    q[default, 0], k[default, _at("at_bos")] = DEFAULT * one, DEFAULT
    v[0, _at(read)] = 1
    o[_at(write[0]), 0] = write[1]


def _combine(plan: SpanPlant, gate: np.ndarray, down: np.ndarray, one: float) -> None:
    """All of m nouns: relu(sum - (m - 1)). Any of them: relu(sum) - relu(sum - 1)."""
    m = len(plan.spurious)
    terms = [(m - 1, 1.0)] if plan.combine == "all" else [(0, 1.0), (1, -1.0)]
    for neuron, (threshold, sign) in enumerate(terms):
        gate[neuron, [_at(f"seen_{i}") for i in range(m)]] = SHARP
        gate[neuron, 0] = -SHARP * threshold * one
        down[_at("evidence"), neuron] = -sign * plan.strength / 2 / SHARP
