"""A server in a process of its own, for a while: for the canary, the demonstration and tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from serving.wire.errors import StartError


def environment() -> dict[str, str]:
    """This process's, in which Python finds the project whatever the folder."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


class ServerProcess:
    """Starts `python -m serving.server` on free ports of the loopback; leaving stops it.

    Who has other work to do before it asks may `start` it ahead.

    Usage:
        with ServerProcess("two_tower", "/models/two_tower") as ready:
            Client(f"127.0.0.1:{ready['rest']}", "two_tower")

    Args:
        name: the model's name.
        base_path: folder of its versions.
        seconds: how long it may take until it answers.
        options: further flags of the server.
    """

    def __init__(
        self, name: str, base_path: str, seconds: float = 180, options: tuple[str, ...] = ()
    ):
        self._seconds = seconds
        self._command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "serving.server",
            "--stop-at-end-of-input",
        ]
        self._command += ["--model-name", name, "--model-base-path", base_path]
        self._command += ["--port", "0", "--rest-api-port", "0", *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server and waits for nothing."""
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,  # ends with this process, however that ends, and so does it
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment(),
            # Ctrl-C is for the caller, who then stops the server.
            start_new_session=True,
        )

    def __enter__(self) -> dict[str, Any]:
        """Starts the server, where that has not been done, and waits until it answers.

        Returns:
            What the server printed: its ports `rest` and `grpc`, and `models`, what it serves.

        Raises:
            StartError: it ended, or was not ready in time; with the last line it printed.
        """
        if self._process is None:
            self.start()
        process = self._process
        watchdog = threading.Timer(self._seconds, process.kill)
        watchdog.start()
        try:
            line = process.stdout.readline()
        except BaseException:
            self.stop()
            raise
        finally:
            watchdog.cancel()
        if line.startswith(b"{"):
            return json.loads(line)
        # It never said that it is ready: it ended, or the watchdog ended it.
        status = process.wait()
        self._log.seek(0)
        said = self._log.read().decode("utf-8", "replace").strip().splitlines() or ["nothing"]
        self.stop()
        raise StartError(
            f"the server ended with status {status} before it was ready; it said: {said[-1]}"
        )

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """Stops the server, where there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdin.close()
        process.stdout.close()
        self._log.close()
