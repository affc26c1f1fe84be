"""Where a study runs: a real Ray cluster of this machine's own, with workers lost on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dst.core.errors import DSTError, InputError
from dst.core.study_results import StudyTable
from dst.studies import engines
from dst.studies.engines import packed, unpacked
from dst.studies.plan import Settings
from dst.studies.study import run_study
from dst.studies.worker import Worker
from tests.studies import study_cases
from tests.studies.test_study import compare

CASES = study_cases.cases(12, flows=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in a folder, as the nodes of a cluster know it."""
    return study_cases.saved(tmp_path_factory.mktemp("model"))


def study(folder: Path, out: Path, **how: Any) -> StudyTable:
    given = {"draws": 2, "batch_cases": 2, "show_progress": False} | how
    return run_study(folder, CASES, out=out, **given)


@pytest.fixture(scope="module")
def local(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    """The table made in this process."""
    return study(folder, tmp_path_factory.mktemp("local"))


@pytest.fixture
def cluster() -> Any:
    """The ray package."""
    return pytest.importorskip("ray")


# -- a real cluster ------------------------------------------------------------------------


def children(process: int) -> Iterator[tuple[int, str]]:
    """Processes below a process, with their command lines."""
    for entry in Path("/proc").iterdir():
        try:
            below = int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == process
            command = (entry / "cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError, IndexError):
            continue
        if below:
            yield int(entry.name), command
            yield from children(int(entry.name))


def kill_a_worker_after(out: Path, killed: list[int]) -> None:
    """Kill the first worker of a cluster below this process once a study's first part is there."""
    deadline, workers = time.monotonic() + 240, list[int]()
    while time.monotonic() < deadline:
        if not workers:
            named = children(os.getpid())
            workers = [n for n, command in named if command.startswith("ray::RemoteWorker")]
        elif list((out / "parts").glob("[0-9]*.parquet")):
            os.kill(workers[0], signal.SIGKILL)
            killed.append(workers[0])
            return
        time.sleep(0.005)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the worker in /proc")
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.full), 2])
def test_a_worker_killed_on_the_way_changes_nothing(
    folder: Path, tmp_path: Path, local: StudyTable, cluster: Any, workers: int
) -> None:
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_after, args=(tmp_path, killed), daemon=True)
    killer.start()
    made = study(folder, tmp_path, engine="ray", workers=workers)
    killer.join()
    assert len(killed) == 1
    assert not cluster.is_initialized()
    compare(made, local)


@pytest.mark.full
@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_table(
    folder: Path, tmp_path: Path, local: StudyTable, cluster: Any, workers: int
) -> None:
    compare(study(folder, tmp_path, engine="ray", workers=workers), local)


@pytest.mark.full
def test_a_cluster_that_runs_already_is_used_and_left_running(
    folder: Path, tmp_path: Path, local: StudyTable, cluster: Any
) -> None:
    cluster.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=engines.OBJECTS, _node_ip_address="127.0.0.1",
    )  # fmt: skip
    try:
        compare(study(folder, tmp_path, engine="ray"), local)
        assert cluster.is_initialized()
    finally:
        cluster.shutdown()


@pytest.mark.full
def test_what_one_engine_began_another_ends(
    folder: Path,
    tmp_path: Path,
    local: StudyTable,
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, left = Worker.rows, iter([True, True])

    def stopped(self: Worker, *given: Any) -> Any:
        if not next(left, False):
            raise KeyboardInterrupt
        return rows(self, *given)

    monkeypatch.setattr(Worker, "rows", stopped)
    with pytest.raises(KeyboardInterrupt, match="Stopped after 2 of 6 batches"):
        study(folder, tmp_path)
    monkeypatch.undo()
    kept = (tmp_path / "parts" / "000000.parquet").read_bytes()
    compare(study(folder, tmp_path, engine="ray", workers=1), local)
    assert (tmp_path / "parts" / "000000.parquet").read_bytes() == kept


@pytest.mark.full
def test_where_there_is_no_cluster_one_sentence_says_so(
    folder: Path, tmp_path: Path, cluster: Any
) -> None:
    with pytest.raises(InputError, match="There is no Ray cluster at auto"):
        study(folder, tmp_path / "out", engine="ray", address="auto")
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_a_model_that_a_worker_cannot_load_is_a_sentence(tmp_path: Path, cluster: Any) -> None:
    with pytest.raises(InputError, match="nowhere"):
        study(Path("./nowhere"), tmp_path / "out", engine="ray", workers=1)
    assert not (tmp_path / "out").exists()


# -- the same rules without a cluster --------------------------------------------------------


class LostError(Exception):
    """What Ray raises where an actor has died."""


class Call:
    """A call of an actor that has not been made yet."""

    def __init__(self, function: Callable[..., Any], *given: Any) -> None:
        self.function, self.given = function, given

    def remote(self, *given: Any) -> Call:
        return Call(self.function, *given)

    def __call__(self) -> Any:
        return self.function(*self.given)


class FakeActor:
    """A `RemoteWorker` in this process, which may be one that dies at every batch."""

    def __init__(self, cluster: FakeRay, real: Any, options: dict[str, Any]) -> None:
        self.cluster, self.real, self.options = cluster, real, options
        self.number = len(cluster.actors)
        self.load, self.lengths = Call(self.loaded), Call(real.lengths)
        self.rows = Call(self.measured)

    def loaded(self) -> str:
        order = self.real.order
        if self.cluster.refusal:
            return json.dumps({"error": self.cluster.refusal, "input": True})
        self.real.worker = Worker(study_cases.model(), Settings(**order["settings"]))
        about = dataclasses.asdict(self.real.worker.about())
        return json.dumps(about | {"model": about["model"] | self.cluster.other(self.number)})

    def measured(self, *given: Any) -> Any:
        if self.number in self.cluster.dying:
            raise LostError("The actor died unexpectedly.\nIts node was lost.")
        return self.real.rows(*given)


class FakeRay:
    """The few calls of Ray that the engine makes, in this process and in order."""

    exceptions = SimpleNamespace(RayActorError=LostError, ObjectLostError=LostError)

    def __init__(self, dying: Sequence[int] = (), gpus: int = 0, refusal: str = "") -> None:
        self.dying, self.gpus, self.refusal = dying, gpus, refusal
        self.actors: list[FakeActor] = []
        self.killed: list[FakeActor] = []
        self.other: Callable[[int], dict[str, str]] = lambda number: {}

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 3.0} | ({"GPU": float(self.gpus)} if self.gpus else {})

    def remote(self, **options: Any) -> Callable[[type], Any]:
        def actor_class(cls: type) -> Any:
            def made(*given: Any) -> FakeActor:
                self.actors.append(FakeActor(self, cls(*given), options))
                return self.actors[-1]

            return SimpleNamespace(remote=made)

        return actor_class

    def get(self, call: Call) -> Any:
        return call()

    def wait(self, calls: list[Call], num_returns: int) -> tuple[list[Call], list[Call]]:
        return calls[-num_returns:], calls[:-num_returns]  # who is loading comes first

    def kill(self, actor: FakeActor) -> None:
        self.killed.append(actor)


def faked(out: Path, cluster: FakeRay, monkeypatch: pytest.MonkeyPatch, **how: Any) -> StudyTable:
    monkeypatch.setattr(engines, "_ray", lambda: cluster)
    return study(Path("model"), out, engine="ray", **how)


def test_a_lost_workers_batch_goes_to_another(
    tmp_path: Path, local: StudyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeRay(dying=[1])
    made = faked(tmp_path, cluster, monkeypatch, workers=2)
    compare(made, local, but={"model", "key"})  # the model's name is another here
    assert len(cluster.actors) == 3  # two, and one in the place of the lost
    assert cluster.actors[1] not in cluster.killed
    assert len(cluster.killed) == 2  # the others are given back


def test_a_batch_that_ends_every_worker_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeRay(dying=range(100))
    with pytest.raises(DSTError) as caught:
        faked(tmp_path, cluster, monkeypatch, workers=1)
    assert str(caught.value).startswith(
        "Batch 0 has ended its worker 3 times (The actor died unexpectedly)."
    )
    assert not isinstance(caught.value, InputError)
    assert len(cluster.actors) == 3


def test_workers_are_as_many_as_there_is_work_or_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeRay()
    faked(tmp_path / "room", cluster, monkeypatch)
    assert len(cluster.actors) == 3  # processors
    assert {(a.options["num_cpus"], a.options["num_gpus"]) for a in cluster.actors} == {(1, 0)}
    cluster = FakeRay()
    faked(tmp_path / "work", cluster, monkeypatch, workers=50)
    assert len(cluster.actors) == 6  # batches


def test_where_there_are_gpus_each_worker_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeRay(gpus=2)
    faked(tmp_path / "one", cluster, monkeypatch)
    assert [actor.options["num_gpus"] for actor in cluster.actors] == [1.0, 1.0]
    cluster = FakeRay(gpus=1)  # as the command line gives what was not asked for
    faked(tmp_path / "asked", cluster, monkeypatch, loading={"device": None, "dtype": None})
    assert {actor.real.order["loading"]["device"] for actor in cluster.actors} == {"cuda"}
    cluster = FakeRay(gpus=2)
    faked(tmp_path / "half", cluster, monkeypatch, gpus=0.5, loading={"device": "cpu"})
    assert [actor.options["num_gpus"] for actor in cluster.actors] == [0.5] * 4
    assert {actor.real.order["loading"]["device"] for actor in cluster.actors} == {"cpu"}


def test_more_gpus_than_there_are_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="A worker asks for 2 GPUs, and the cluster has 1"):
        faked(tmp_path / "out", FakeRay(gpus=1), monkeypatch, gpus=2)
    assert not (tmp_path / "out").exists()


def test_a_first_worker_that_dies_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeRay()
    monkeypatch.setattr(FakeActor, "loaded", lambda self: raising(LostError("Killed for memory.")))
    with pytest.raises(DSTError, match=r"ended while it loaded model \(Killed for memory\)"):
        faked(tmp_path / "out", cluster, monkeypatch)
    assert not (tmp_path / "out").exists()


def raising(error: Exception) -> Any:
    raise error


def test_a_worker_with_other_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeRay()
    cluster.other = lambda number: {"weights_hash": "other"} if number else {}
    with pytest.raises(InputError, match="Two workers have loaded different models by the name"):
        faked(tmp_path, cluster, monkeypatch, workers=2)


def test_a_worker_that_cannot_load_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeRay(refusal="There is no such model.")
    with pytest.raises(InputError, match=r"^There is no such model\.$"):
        faked(tmp_path / "out", cluster, monkeypatch)
    assert len(cluster.killed) == 1
    assert not (tmp_path / "out").exists()


def test_a_loaded_model_is_loaded_again_by_its_name(
    tmp_path: Path, local: StudyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeRay()
    monkeypatch.setattr(engines, "_ray", lambda: cluster)
    made = run_study(
        study_cases.model(), CASES, out=tmp_path, engine="ray", draws=2, batch_cases=2,
        show_progress=False,
    )  # fmt: skip
    order = cluster.actors[0].real.order
    assert (order["model"], order["loading"]) == ("tiny-llama", {"backend": "hooks"})
    compare(made, local, but={"model", "key"})


def test_without_ray_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'dst-tracing\[ray\]'"):
        study(Path("model"), tmp_path / "out", engine="ray")
    assert not (tmp_path / "out").exists()


def test_a_lens_travels_as_the_bytes_of_its_file() -> None:
    from dst.models.load import load
    from dst.tracing.reference import shipped_lens

    lens, _ = shipped_lens(load(check=False))
    assert lens is not None
    assert unpacked(packed(lens)).fingerprint == lens.fingerprint
    assert unpacked(packed(None)) is None
