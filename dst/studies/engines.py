"""Where a study runs: in this process, or on a Ray cluster with one model per actor.

An engine is given batches and yields each as it is done, in any order. What a batch holds is
fixed before, so where it runs changes no row, and no number beyond rounding.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from dst.core.case import Case
from dst.core.errors import DSTError, InputError
from dst.core.lens_results import ReferenceRuns, TunedLens
from dst.core.results import Result, open_result
from dst.models.backend import Backend
from dst.studies.plan import Settings
from dst.studies.rows import Row
from dst.studies.worker import About, Worker

ENGINES = ("local", "ray")

LOSSES = 3
"""How often a batch may lose its worker: the third time, the batch is taken to be the cause."""

OBJECTS = 128 * 1024 * 1024
"""Bytes of the object store of a Ray that is started here: rows are small."""

Batch = tuple[int, Sequence[Case]]
Done = tuple[int, list[Row], dict[str, Any]]


class Engine(Protocol):
    """What runs batches (a context manager)."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *what: Any) -> None: ...

    def about(self) -> About:
        """What the model is; loads it if it must."""
        ...

    def lengths(self, cases: Sequence[Case]) -> list[int]:
        """Tokens of each case's prompt."""
        ...

    def run(self, batches: Sequence[Batch], room: int | None) -> Iterator[Done]:
        """Each batch's number, its rows and how it ran, as they are done."""
        ...


class LocalEngine:
    """This process, one batch after the other.

    Args:
        worker: What makes the rows.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *what: Any) -> None:
        """Nothing to give back."""

    def about(self) -> About:
        """What the model is."""
        return self.worker.about()

    def lengths(self, cases: Sequence[Case]) -> list[int]:
        """Tokens of each case's prompt."""
        return self.worker.lengths(cases)

    def run(self, batches: Sequence[Batch], room: int | None) -> Iterator[Done]:
        """Each batch in turn."""
        for number, cases in batches:
            yield (number, *self.worker.rows(cases, room))


class RemoteWorker:
    """A `Worker` in another process, told everything as text and bytes.

    Args:
        order: The model's name, how to load it, and the settings, as JSON.
        lens: A tuned lens as the bytes of its file; empty for none.
        reference: Correct runs, likewise.
    """

    def __init__(self, order: str, lens: bytes, reference: bytes) -> None:
        self.order, self.lens, self.reference = json.loads(order), lens, reference
        self.worker: Worker | None = None

    def load(self) -> str:
        """Load the model; what it is, or ``error`` with the sentence, as JSON."""
        from dst.models.load import load

        try:
            settings = self.order["settings"] | {
                "measures": tuple(self.order["settings"]["measures"])
            }
            self.worker = Worker(
                load(self.order["model"], **self.order["loading"]),
                Settings(**settings),
                unpacked(self.lens),
                unpacked(self.reference),
            )
        except DSTError as error:
            return json.dumps({"error": str(error), "input": isinstance(error, InputError)})
        return json.dumps(asdict(self.worker.about()))

    def lengths(self, cases: Sequence[str]) -> list[int]:
        """Tokens of each case's prompt, of cases as JSON."""
        assert self.worker is not None
        return self.worker.lengths(_cases(cases))

    def rows(self, cases: Sequence[str], room: int | None) -> tuple[list[Row], dict[str, Any]]:
        """The rows of a batch, of cases as JSON."""
        assert self.worker is not None
        return self.worker.rows(_cases(cases), room)


class RayEngine:
    """A Ray cluster, one model per actor; a batch whose worker is lost goes to another.

    Args:
        model: Name or folder of the model, as every node of the cluster knows it.
        loading: Further arguments of `dst.load`.
        settings: The study's.
        lens: A tuned lens of the model.
        reference: Its correct runs.
        workers: Actors; by default one per GPU of the cluster, else one per processor.
        address: Of a running cluster, ``"auto"`` for the one of this machine; by default what
            RAY_ADDRESS says, else a cluster of this machine's own that ends with the study.
        gpus: GPUs of an actor; by default 1 where the cluster has some.

    Raises:
        InputError: Ray is not installed, or there is no cluster at that address.
    """

    def __init__(
        self,
        model: str,
        loading: Mapping[str, Any],
        settings: Settings,
        lens: TunedLens | None = None,
        reference: ReferenceRuns | None = None,
        *,
        workers: int | None = None,
        address: str | None = None,
        gpus: float | None = None,
    ) -> None:
        self.ray = _ray()
        self.model, self.loading, self.settings = model, dict(loading), settings
        self.lens, self.reference = packed(lens), packed(reference)
        self.workers, self.address, self.gpus = workers, address, gpus
        self.actors: list[Any] = []
        self.first: Any = None
        self.known: About | None = None
        self.started = False

    def __enter__(self) -> Self:
        ray = self.ray
        if not ray.is_initialized():
            address = self.address or os.environ.get("RAY_ADDRESS") or "local"
            quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
            if address == "local":
                quiet |= {"num_cpus": self.workers or os.cpu_count() or 1}
                quiet |= {"object_store_memory": OBJECTS, "include_dashboard": False}
                quiet |= {"_node_ip_address": "127.0.0.1"}
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise InputError(
                    f"There is no Ray cluster at {address} ({_first_line(error)})",
                    do="Start one with `ray start --head`, or leave the address out",
                ) from None
            self.started = True
        try:
            self._plan(ray.cluster_resources())
        except InputError:
            self.__exit__(None, None, None)
            raise
        return self

    def _plan(self, has: Mapping[str, float]) -> None:
        """How many workers, with how many GPUs each, as the cluster allows.

        Raises:
            InputError: A worker asks for more GPUs than there are.
        """
        if self.gpus is None:
            self.gpus = 1.0 if has.get("GPU", 0) >= 1 else 0.0
        if self.gpus > has.get("GPU", 0):
            raise InputError(
                f"A worker asks for {self.gpus:g} GPUs, and the cluster has {has.get('GPU', 0):g}",
                do="Ask for fewer with --gpus (gpus=0 for none)",
            )
        if self.workers is None:
            most = has["GPU"] / self.gpus if self.gpus else has.get("CPU", 1)
            self.workers = max(1, int(most))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for actor in self.actors:
            self.ray.kill(actor)
        self.actors.clear()
        if self.started:
            self.ray.shutdown()

    def about(self) -> About:
        """What the first worker's model is."""
        if self.known is None:
            self.first = self._actor()
            try:
                self.known = self._loaded(self.ray.get(self.first.load.remote()))
            except self.ray.exceptions.RayActorError as error:
                raise DSTError(
                    f"The first worker ended while it loaded {self.model} ({_first_line(error)})",
                    do="Give workers more memory",
                ) from None
        return self.known

    def lengths(self, cases: Sequence[Case]) -> list[int]:
        """Tokens of each case's prompt, by the first worker's tokenizer."""
        found: list[int] = self.ray.get(self.first.lengths.remote(_texts(cases)))
        return found

    def run(self, batches: Sequence[Batch], room: int | None) -> Iterator[Done]:
        """Each batch as it is done; a lost worker is replaced, and its batch goes to the next.

        Raises:
            DSTError: A batch has lost its worker `LOSSES` times.
        """
        ray, lost = self.ray, Counter[int]()
        waiting, cases = deque(number for number, _ in batches), dict(batches)
        idle = deque([self.first])
        loading: dict[Any, Any] = {}
        running: dict[Any, tuple[Any, int]] = {}
        assert self.workers is not None
        for _ in range(min(self.workers, len(batches)) - 1):
            actor = self._actor()
            loading[actor.load.remote()] = actor
        while waiting or running:
            while waiting and idle:
                actor, number = idle.popleft(), waiting.popleft()
                running[actor.rows.remote(_texts(cases[number]), room)] = (actor, number)
            (ready,), _ = ray.wait([*running, *loading], num_returns=1)
            starting = ready in loading
            actor, number = (loading.pop(ready), -1) if starting else running.pop(ready)
            try:
                answer = ray.get(ready)
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
                lost[number] += 1
                if lost[number] == LOSSES:
                    what = "Loading the model" if starting else f"Batch {number}"
                    raise DSTError(
                        f"{what} has ended its worker {LOSSES} times ({_first_line(error)})",
                        do="Give workers more memory, or batches fewer cases (batch_cases)",
                    ) from None
                if not starting:
                    waiting.appendleft(number)
                self.actors.remove(actor)
                replacement = self._actor()
                loading[replacement.load.remote()] = replacement
                continue
            idle.append(actor)
            if starting:
                self._loaded(answer)
            else:
                rows, how = answer
                yield number, rows, how

    def _actor(self) -> Any:
        order = {"model": self.model, "loading": self.loading, "settings": asdict(self.settings)}
        if self.gpus and not (self.loading.get("device") or self.loading.get("device_map")):
            order["loading"] = self.loading | {"device": "cuda"}
        remote = self.ray.remote(num_cpus=1, num_gpus=self.gpus or 0, max_restarts=0)
        actor = remote(RemoteWorker).remote(json.dumps(order), self.lens, self.reference)
        self.actors.append(actor)
        return actor

    def _loaded(self, answer: str) -> About:
        """What a worker has loaded.

        Raises:
            InputError: It could not, or its weights are not those of the others.
        """
        told = json.loads(answer)
        if "error" in told:
            raise (InputError if told["input"] else DSTError)(told["error"])
        found = About(**told)
        if self.known is not None and found.model != self.known.model:
            raise InputError(
                f"Two workers have loaded different models by the name {self.model!r}",
                expected="the same weights on every node",
            )
        return found


def loading_of(model: Backend) -> dict[str, Any]:
    """How a model that was loaded by name is loaded again elsewhere."""
    found: dict[str, Any] = {"backend": model.provenance().backend}
    if model.spec.dtype != "float32":
        found["dtype"] = model.spec.dtype
    return found | ({"revision": model.spec.revision} if model.spec.revision else {})


def packed(result: Result | None) -> bytes:
    """A result as the bytes of its file; empty for none."""
    if result is None:
        return b""
    with tempfile.TemporaryDirectory() as folder:
        return result.save(Path(folder) / "result.npz").read_bytes()


def unpacked(stored: bytes) -> Any:
    """The result of such bytes; None of empty ones."""
    if not stored:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.npz"
        path.write_bytes(stored)
        return open_result(path)


def _texts(cases: Sequence[Case]) -> list[str]:
    return [json.dumps(case.to_dict()) for case in cases]


def _cases(texts: Sequence[str]) -> list[Case]:
    return [Case.from_dict(json.loads(text)) for text in texts]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _ray() -> Any:
    """The ray package.

    Raises:
        InputError: It is not installed.
    """
    try:
        import ray
    except ImportError:
        raise InputError(
            "engine='ray' needs Ray, which is not installed", do="pip install 'dst-tracing[ray]'"
        ) from None
    return ray
