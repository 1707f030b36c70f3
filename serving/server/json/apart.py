"""Big bodies are read, and big answers printed, by a process beside the server.

Either holds the interpreter's lock of the process that does it, .3 s for a body of 8 MB, and no
thread of that process answers anybody meanwhile.

    python -m serving.server.json.apart        # what `Apart` starts: jobs come on standard input
"""

from __future__ import annotations

import asyncio
import gc
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving.server.process import environment
from serving.wire.errors import Code, ServingError, from_exception


class Apart:
    """Runs functions in a process of its own, one after the other.

    It starts with the first of them, and anew where it has ended.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        # One thread: whoever is not waited for any longer is not in the way of the next.
        self._thread = ThreadPoolExecutor(1, "apart")

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function returns.

        Args:
            function: of a module that imports no TensorFlow.
            *arguments: as pickle takes them, and what is returned too.

        Raises:
            ServingError: what the function raised; INTERNAL: the process ended.
        """
        loop = asyncio.get_running_loop()
        done, result = await loop.run_in_executor(self._thread, self._ask, function, arguments)
        if done:
            return result
        raise ServingError(*result)

    def close(self) -> None:
        """Ends the process."""
        self._thread.shutdown(wait=False)
        self._end()

    def _ask(self, function: Callable[..., Any], arguments: tuple) -> tuple[bool, Any]:
        try:
            process = self._started()
            pickle.dump((function, arguments), process.stdin, 5)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            self._end()
            return False, (Code.INTERNAL, "The process that reads big requests ended")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment(),
                start_new_session=True,  # Ctrl-C is for the server
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def main() -> None:
    """Runs what comes on standard input until the server, which holds the other end, is gone."""
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # nothing else is to be printed there
    gc.disable()  # what is read has no rings, and millions of parts
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = True, function(*arguments)
        except Exception as failure:
            error = from_exception(failure)
            answer = False, (error.code, error.message)
        pickle.dump(answer, answers, 5)
        answers.flush()
        del function, arguments, answer


if __name__ == "__main__":
    main()
