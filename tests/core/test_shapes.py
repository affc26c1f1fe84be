"""Results load and check shapes after nnsight has changed Python's own ``object``."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import nnsight
before = object.__dict__["save"]
from dst.core.results import Score
import numpy as np
try:
    Score("x", np.zeros((2, 2)), 0.0, "share", ("", ""))
except Exception as error:
    print(type(error).__name__)
print((3).save is not None, object.__dict__["save"].__func__ is before.__func__)
"""


def test_dst_can_be_imported_after_nnsight_and_leaves_it_as_it_was() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-500:]
    assert run.stdout.split() == ["TypeCheckError", "True", "True"]
