"""The shape checker of results, loadable whatever was imported before it.

nnsight hangs a method named ``save`` on Python's own ``object``, which beartype cannot
read when it is imported afterwards. It is taken off for that moment and put back.
"""

from __future__ import annotations

import sys
from typing import Any

_MOUNTS: Any = sys.modules.get("nnsight._c")
_SAVE: Any = object.__dict__.get("save") if _MOUNTS is not None else None

if _SAVE is not None:
    _MOUNTS.unmount("save")
try:
    from beartype import beartype as beartype
finally:
    if _SAVE is not None:
        _MOUNTS.mount(_SAVE.__func__, "save")
