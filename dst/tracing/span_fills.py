"""Fills: words of as many tokens to put in the place of a prompt's words.

Every filling word (`dst.tracing.span_pools`) is either for the search or for the scores, never for
both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from dst.core.errors import InputError, TokenError
from dst.models.backend import Backend
from dst.models.draws import LONGEST_PHRASE, phrases
from dst.models.text import encode, unknown_id
from dst.tracing.prepare import Prepared
from dst.tracing.replaced import is_content
from dst.tracing.span_pools import KINDS, halves, lengths, pool, said
from dst.tracing.span_words import Among, Mentions, Word, words_of

LEAST = 2
"""Fills of each kind that a word needs in the search, and others in the scores."""

TRIED, SPARE = 100, 4
"""Words that are tried for one word, fills beyond need."""


@dataclass(frozen=True)
class Fills:
    """What stands in the words' place.

    Attributes:
        words: The words that can be replaced.
        kinds: The kinds of fills.
        search: [draw pos]: token ids with *every* word replaced; draws go through the kinds in
            turn.
        scoring: The same for the scores.
        search_words: The filling words of the search.
        scoring_words: Those of the scores, none of the search among them.
        left_out: Words of the prompt that are not replaced, each with its reason.
    """

    words: tuple[Word, ...]
    kinds: tuple[str, ...]
    search: np.ndarray
    scoring: np.ndarray
    search_words: tuple[str, ...]
    scoring_words: tuple[str, ...]
    left_out: tuple[str, ...]


def make_fills(
    model: Backend,
    run: Prepared,
    *,
    kinds: Sequence[str],
    among: Among,
    mentions: Mentions,
    n_search: int,
    n_scoring: int,
    seed: int,
) -> Fills:
    """Find the words of a prompt, and draw what is put in their place.

    A filling word fits if the prompt keeps its number of tokens and all tokens of other words; none
    is a word of the case. Where no single word has as many tokens, two to four in a row have.

    Args:
        model: The model.
        run: The case.
        kinds: Some of `KINDS`.
        among: ``content`` leaves stop words as they are, ``all`` replaces them by stop words.
        mentions: Whether a word is replaced at all its mentions at once.
        n_search: Draws of each kind for the search.
        n_scoring: Draws of each kind for the scores.
        seed: Seed of the draws, and of which filling words are the search's.

    Raises:
        InputError: There is no such kind.
        TokenError: No word of the prompt can be replaced; says why.
    """
    kinds = tuple(dict.fromkeys(kinds))
    if not kinds or not {*kinds} <= {*KINDS}:
        raise InputError(f"fills are {list(kinds)}", expected="some of " + ", ".join(KINDS))
    found, left_out = words_of(model.tokenizer, run, among, mentions)
    rng = np.random.default_rng([seed, 1])
    pools = {kind: pool(model, kind, said(run), rng) for kind in kinds}
    drawn: dict[str, list[Mapping[str, list[_Fill]]]] = {"search": [], "scoring": []}
    words: list[Word] = []
    wanted = {"search": n_search, "scoring": n_scoring}
    sizes = lengths(model.tokenizer, pools)
    fitter = _Fitter(model.tokenizer, run, halves(pools, seed), sizes, wanted, rng)
    fitting = [fitter.fitting(word) for word in found]
    usable = tuple(
        kind for kind in kinds if any(not _lacks(one, kind) for one in fitting)
    )  # a kind that fits nowhere is refused as a whole
    for word, one in zip(found, fitting, strict=True):
        lacking = [kind for kind in usable if _lacks(one, kind)]
        if lacking or not usable:
            n = len(word.positions) // len(word.spans)
            what = f"{n} token{'s' if n > 1 else ''}"
            left_out.append(f"{word.text!r}: too few {' and '.join(lacking) or 'words'} fit {what}")
            continue
        words.append(word)
        for half in drawn:
            drawn[half].append(one[half])
    for kind in kinds:
        if words and kind not in usable:
            left_out.append(f"{kind} fills: too few of them fit any word with this tokenizer")
    if not words:
        raise TokenError(
            "No word of the prompt can be replaced by others of as many tokens "
            f"({'; '.join(left_out) or 'it has no words to try'})",
            do="Give other kinds of fills, among='all', or a longer prompt",
        )
    arrays, used = {}, {}
    for half, n in wanted.items():
        arrays[half], used[half] = _draw(run, words, drawn[half], usable, n, rng)
    return Fills(
        words=tuple(words),
        kinds=usable,
        search=arrays["search"],
        scoring=arrays["scoring"],
        search_words=used["search"],
        scoring_words=used["scoring"],
        left_out=tuple(left_out),
    )


# -- what can stand in their place -----------------------------------------------------------


@dataclass(frozen=True)
class _Fill:
    """A word, or a few in a row, and the tokens that it is at a word's positions."""

    text: str
    ids: tuple[int, ...]


_Fitting = Mapping[str, Mapping[str, list[_Fill]]]  # half -> kind -> fills


@dataclass(frozen=True)
class _Fitter:
    """Finds fills for a word: some of each kind that fit, in random order."""

    tokenizer: Any
    run: Prepared
    halves: Mapping[str, Mapping[str, Sequence[str]]]
    lengths: Mapping[str, int]
    wanted: Mapping[str, int]
    rng: np.random.Generator

    def fitting(self, word: Word) -> _Fitting:
        """The fills of a word, per half and kind; fewer than `LEAST` where too few fit."""
        return {
            half: {kind: self._fills(word, pool, max(self.wanted[half], LEAST) + SPARE)
                   for kind, pool in pools.items()}
            for half, pools in self.halves.items()
        }  # fmt: skip

    def _fills(self, word: Word, pool: Sequence[str], n: int) -> list[_Fill]:
        content = is_content(word.text)
        alike = [other for other in pool if is_content(other) == content]
        order = [alike[i] for i in self.rng.permutation(len(alike))]
        size = len(word.positions) // len(word.spans)
        single = [other for other in order if self.lengths[other] == 1]
        candidates = [other for other in order if self.lengths[other] == size][:TRIED]
        if 1 < size <= LONGEST_PHRASE:
            candidates += phrases(single[:TRIED], size)
        candidates += order[:SPARE]  # where a line begins, words may take other numbers of tokens
        fills: list[_Fill] = []
        for capital in (True, False):  # few tokenizers know "Guitar" as well as "guitar"
            fills = list(islice(self._that_fit(word, candidates, capital), n))
            if len(fills) >= LEAST:
                break
        return fills

    def _that_fit(self, word: Word, candidates: Sequence[str], capital: bool) -> Iterator[_Fill]:
        """The candidates in whose place all other tokens stay as they are."""
        base, own = self.run.tokenized.encoding, {*word.positions}
        templated = self.run.tokenized.case.is_chat  # the template holds its special tokens
        for candidate in dict.fromkeys(candidates):
            text = base.text
            for start, end in reversed(word.spans):
                text = text[:start] + _as(text[start:end], candidate, capital) + text[end:]
            ids = encode(self.tokenizer, text, special=not templated).ids
            if len(ids) != len(base.ids) or unknown_id(self.tokenizer) in ids:
                continue
            changed = {p for p, (x, y) in enumerate(zip(base.ids, ids, strict=True)) if x != y}
            if changed and changed <= own:
                yield _Fill(candidate, tuple(ids[p] for p in word.positions))


def _as(old: str, new: str, capital: bool) -> str:
    """A word with the capital of the one it replaces."""
    return new[0].upper() + new[1:] if capital and old[0].isupper() else new


def _lacks(fitting: _Fitting, kind: str) -> bool:
    return any(len(fitting[half][kind]) < LEAST for half in fitting)


def _draw(
    run: Prepared,
    words: Sequence[Word],
    fitting: Sequence[Mapping[str, list[_Fill]]],
    kinds: Sequence[str],
    n: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """[draw pos] token ids with every word replaced, ``n`` draws of each kind, and the fills.

    Words of one draw differ where there are enough.
    """
    rows = np.tile(np.array(run.tokenized.ids), (n * len(kinds), 1))
    used: set[str] = set()
    for draw in range(len(rows)):
        kind, turn = kinds[draw % len(kinds)], draw // len(kinds)
        taken: set[str] = set()
        for i in rng.permutation(len(words)):
            fills = fitting[i][kind]
            start = turn % len(fills)
            turned = fills[start:] + fills[:start]
            chosen = next((fill for fill in turned if fill.text not in taken), turned[0])
            taken.add(chosen.text)
            used |= {part.casefold() for part in chosen.text.split()}
            rows[draw, list(words[i].positions)] = chosen.ids
    return rows, tuple(sorted(used))
