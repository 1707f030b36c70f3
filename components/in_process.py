"""The Beam pipeline that runs in this process.

It is for tests, notebooks and tools outside the TFX launcher.
"""

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from components import beam_signatures as beam_signatures  # it makes Beam remember them

# The runner is named, because newer Beams would first try to download another one. One worker in
# memory is faster than two processes. With cloudpickle, the default of newer Beams, a short
# Transform takes a fifth less.
ARGUMENTS = (
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--direct_running_mode=in_memory",
    "--direct_num_workers=1",
    "--pickle_library=cloudpickle",
)


def in_process_pipeline() -> beam.Pipeline:
    """A new pipeline on Beam's own in-process runner."""
    return beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(list(ARGUMENTS[1:])))
