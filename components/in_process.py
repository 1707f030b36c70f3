"""The Beam pipeline that runs in this process.

It is for tests, notebooks and tools outside the TFX launcher.
"""

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

# Named, because newer Beams would first try to download another runner; one worker in memory beats
# two processes. Newer Beams pickle with cloudpickle, which takes a fifth off a short Transform.
ARGUMENTS = (
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--direct_running_mode=in_memory",
    "--direct_num_workers=1",
    "--pickle_library=cloudpickle",
)


def in_process_pipeline() -> beam.Pipeline:
    """A new pipeline on Beam's own in-process runner."""
    return beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(list(ARGUMENTS[1:])))
