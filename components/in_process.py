"""The Beam pipeline that runs in this process.

It is for tests, notebooks and tools outside the TFX launcher.
"""

import apache_beam as beam

from components import beam_signatures as beam_signatures  # it makes Beam remember them
from components.engines import IN_PROCESS, new_pipeline


def in_process_pipeline() -> beam.Pipeline:
    """A new pipeline on Beam's own in-process runner."""
    return new_pipeline(IN_PROCESS)
