"""A local path never calls the hub, and memory does not grow: each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.models.test_load import saved

REPOSITORY = Path(__file__).resolve().parents[2]


def python(code: str, *arguments: object) -> str:
    """Run code in a fresh interpreter that may use the network, as a user's may."""
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=REPOSITORY,
        env={key: value for key, value in os.environ.items() if key not in offline},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WITHOUT_SOCKETS = """
    import contextlib, pathlib, socket, sys

    def refuse(*arguments, **options):
        raise AssertionError(f"a socket was asked for {arguments}")

    socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse

    import dst
    from dst.core.errors import DSTError

    for name in sys.argv[1:]:
        folder = pathlib.Path(name)
        engine = dst.load(folder)
        dst.trace(engine, dst.Case(prompt="a bass is a", contextual="fish", associative="drum"))
        for file in ("chat_template.jinja", "generation_config.json", "tokenizer_config.json"):
            (folder / file).unlink()
            dst.load(folder)
        for file in ("tokenizer.json", "model.safetensors", "config.json"):
            (folder / file).unlink()
            try:
                dst.load(folder)
            except DSTError as error:
                assert "socket" not in str(error), error
            else:
                raise AssertionError(f"{name} loads without {file}")
    print(dst.load().spec.name)
"""


@pytest.mark.parametrize(
    "families",
    [
        ("llama", "gemma2"),
        pytest.param(
            ("gpt2", "opt", "qwen3", "gpt_neox", "phi3", "falcon", "stablelm"),
            marks=pytest.mark.full,
        ),
    ],
)
def test_a_local_path_never_calls_the_hub(families: tuple[str, ...], tmp_path: Path) -> None:
    folders = [saved(tmp_path / family, family) for family in families]
    assert python(WITHOUT_SOCKETS, *folders) == "embedded\n"


TWO_HUNDRED_TRACES = """
    import numpy, os, torch

    import dst
    from tests import tiny

    torch.set_num_threads(1)
    engine = tiny.backend("llama", hidden_size=256, intermediate_size=512)
    case = dst.Case(
        prompt="Anna is at the lake. Anna sees a bass. The bass is a",
        contextual="fish",
        associative="instrument",
        subject="bass",
    )
    sizes = []
    for i in range(240):
        dst.trace(engine, case)
        if i >= 40:  # what is kept once, such as a compiled kernel, is kept by then
            pages = int(open("/proc/self/statm").read().split()[1])
            sizes.append(pages * os.sysconf("SC_PAGE_SIZE"))
    slope = numpy.polyfit(range(len(sizes)), sizes, 1)[0]
    one = dst.trace(engine, case)
    print(slope, one.resid.nbytes + one.attn_out.nbytes + one.mlp_out.nbytes)
"""


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="there is no /proc here")
def test_two_hundred_traces_take_no_more_memory_than_a_few() -> None:
    slope, one_trace = map(float, python(TWO_HUNDRED_TRACES).split())
    # A trace that were kept would show as a slope of its own size.
    assert slope < one_trace / 20
