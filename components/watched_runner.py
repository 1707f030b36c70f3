"""Beam's client of a job service, which does not wait for a worker that is gone.

Beam's own job service waits for ever for a worker that ends before its first bundle, and so a run
that has lost one would hang. Where the pool is on this machine its workers can be seen, and the job
is cancelled when they are gone. Clusters see to their workers themselves.
"""

import contextlib
import threading
import time
from typing import Any

import psutil
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.runner import PipelineState

from components.engines import is_of_this_machine, listeners

# A job that is done says so some moments after its worker has ended.
_ENDED_BEFORE_S = 15
_LOOKED_EVERY_S = 0.5


class WatchedRunner(PortableRunner):
    """PortableRunner that cancels a job whose workers on this machine are gone."""

    def run_portable_pipeline(self, pipeline: Any, options: PipelineOptions) -> Any:
        """Submits the pipeline and watches the pool until it has ended."""
        told = options.view_as(PortableOptions)
        host, _, port = str(told.environment_config).rpartition(":")
        external = told.environment_type == "EXTERNAL"
        pools = listeners(int(port)) if external and is_of_this_machine(host) else set()
        before = _children(pools)
        result = super().run_portable_pipeline(pipeline, options)
        if not pools:
            return result
        gone: list[str] = []
        wait = result.wait_until_finish
        watcher = threading.Thread(target=_watch, args=(result, pools, before, gone), daemon=True)

        def wait_until_finish(duration: int | None = None) -> Any:
            watcher.start()
            try:
                return wait(duration)
            except Exception as error:
                if gone:
                    raise RuntimeError(f"{gone[0]}: failed in state CANCELLED") from error
                raise
            finally:
                gone.append("")  # which ends the watcher

        result.wait_until_finish = wait_until_finish
        return result


def _watch(result: Any, pools: set[int], before: set[int], gone: list[str]) -> None:
    """Cancels the job when the workers that it was given have all ended."""
    seen: set[int] = set()
    alive_at = time.monotonic()
    while not gone:
        alive = _children(pools) - before
        seen |= alive
        if alive or not seen:
            alive_at = time.monotonic()
        elif time.monotonic() - alive_at > _ENDED_BEFORE_S:
            if PipelineState.is_terminal(result.state):
                return
            workers = ", ".join(map(str, sorted(seen)))
            gone.append(f"the worker (process {workers}) ended in the middle of a job")
            with contextlib.suppress(Exception):
                result.cancel()
            return
        time.sleep(_LOOKED_EVERY_S)


def _children(processes: set[int]) -> set[int]:
    """The children of processes that live."""
    found: set[int] = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found |= {one.pid for one in psutil.Process(process).children() if _lives(one)}
    return found


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    return False
