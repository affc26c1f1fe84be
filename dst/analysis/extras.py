"""Packages that not everybody installed, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from dst.core.errors import CapabilityError


def need(module: str, package: str) -> Any:
    """A module of the extra ``baselines``, or an error that says how to install it.

    Raises:
        CapabilityError: The package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise CapabilityError(
            f"{package} is not installed",
            do='Install the extra: pip install "dst-tracing[baselines]"',
        ) from None
