"""A recipe that trains in a second, and error tables of a few cases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from dst.testbed import card, judge
from dst.testbed import train as training
from dst.testbed.recipe import Recipe

TINY = Recipe(
    steps=6, schedule=20, warm_up=2, batch=4, layers=1, width=16, heads=2, mlp=24, save_every=2
)


@contextmanager
def few_cases() -> Iterator[None]:
    """A model of six steps needs no thousands of cases."""
    with pytest.MonkeyPatch.context() as patch:
        for name, n in (("PER_KIND", 2), ("PER_YES_NO", 2), ("PER_COMPOSED", 1)):
            patch.setattr(card, name, n)
        patch.setattr(judge, "DEMO_CASES", 4)
        patch.setattr(training, "NOTED", 1)
        card.table_cases.cache_clear()
        yield
    card.table_cases.cache_clear()


@contextmanager
def one_thread() -> Iterator[None]:
    """A model this small gains nothing from a second thread, and waits for it on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
