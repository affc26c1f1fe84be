"""What a machine that serves nnsight models does with a request, without the network.

Started as a process of its own by `test_parity.py`, where dst cannot be imported: all that a
run needs of it must have travelled with the request. It reads a line of JSON per request (file
with the request, file for the answer, settings of the model) and writes ``done``.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import torch
import zstandard
from nnsight import TransformersModel
from nnsight.schema.request import RequestModel
from nnsight.tracing import tracer as tracing


def saved(tracer: Any) -> dict[str, Any]:
    """Run a request's block and return what it marked to be saved."""
    tracing.inc()
    try:
        tracer.execute(tracer.info.code)
        marked = tracing._saves()
        names = tracer.info.frame.f_locals.items()
        return {name: value for name, value in names if id(value) in marked}
    finally:
        tracing.dec()


def serve(folder: str) -> None:
    """Load the model and answer requests until there are no more."""
    model = TransformersModel(folder, task="text-generation", dispatch=True)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        job = json.loads(line)
        model._remoteable_set_env(job["env"])
        tracer = RequestModel.deserialize(
            Path(job["sent"]).read_bytes(), model._remoteable_persistent_objects(), compress=True
        )
        answer = io.BytesIO()
        torch.save(saved(tracer), answer)  # noqa: TID251 - as NDIF does
        Path(job["back"]).write_bytes(zstandard.ZstdCompressor().compress(answer.getvalue()))
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    assert "dst" not in sys.modules
    sys.modules["dst"] = None  # type: ignore[assignment]  # from here on an import of it fails
    serve(sys.argv[1])
