"""A headless Chromium driven over its debugging pipe, with the standard library alone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe"),
    # What Chromium asks for by itself finds no host.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.*",
)


def find_chromium() -> str | None:
    """Path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One blank page of a Chromium of its own; every event that it sends is kept.

    Args:
        binary: The Chromium to run.
        profile: An empty folder for its profile; its log and net log are written there.
        seconds: How long to wait for any one answer.
    """

    def __init__(self, binary: str, profile: Path, seconds: float = 60.0) -> None:
        self.seconds = seconds
        self.net_log = profile / "net-log.json"
        self.events: list[dict[str, Any]] = []
        self._buffer = b""
        self._last_id = 0
        to_child, self._write = _pipe()
        self._read, from_child = _pipe()
        arguments = [binary, *FLAGS, f"--user-data-dir={profile / 'profile'}"]
        arguments += [f"--log-net-log={self.net_log}", "about:blank"]
        log = str(profile / "chromium.log")
        self._process: int | None = os.posix_spawn(
            binary,
            arguments,
            os.environ,
            file_actions=[
                # Chromium reads commands on 3 and writes answers on 4.
                (os.POSIX_SPAWN_DUP2, to_child, 3),
                (os.POSIX_SPAWN_DUP2, from_child, 4),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setpgroup=0,
        )
        os.close(to_child)
        os.close(from_child)
        self._session = ""
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
                "sessionId"
            ]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        self._last_id += 1
        command = {"id": self._last_id, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._write, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + self.seconds
        while True:
            message = self._message(deadline)
            if message.get("id") == self._last_id:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return dict(message["result"])
            self.events.append(message)

    def open(self, url: str) -> None:
        """Go to ``url`` and wait until it has loaded and its scripts have run."""
        before = len(self.named("Page.loadEventFired"))
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + self.seconds
        while len(self.named("Page.loadEventFired")) == before:
            self.events.append(self._message(deadline))

    def settle(self) -> None:
        """Let two frames pass, so that what was asked for is drawn."""
        self.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def named(self, method: str) -> list[dict[str, Any]]:
        """The parameters of every event of this name so far."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def resize(self, width: int, height: int) -> None:
        """Make the page this many CSS pixels wide and high, as a phone or a screen has."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.settle()

    def prefer(self, scheme: str) -> None:
        """Let the page believe that the reader prefers ``light`` or ``dark``."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.settle()

    def close(self) -> None:
        """End this Chromium and its children; its net log is complete after this."""
        if self._process is None:
            return
        self._session = ""
        process, self._process = self._process, None
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            self.call("Browser.close")
        os.close(self._read)
        os.close(self._write)
        for _ in range(100):
            if os.waitpid(process, os.WNOHANG)[0]:
                return
            time.sleep(0.1)
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                raise TimeoutError(f"Chromium said nothing for {self.seconds:g} s")
            chunk = os.read(self._read, 1 << 16)
            if not chunk:
                raise RuntimeError("Chromium has ended")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(message))


def _pipe() -> tuple[int, int]:
    """A pipe whose ends lie above 3 and 4, so that moving one there covers no other."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
