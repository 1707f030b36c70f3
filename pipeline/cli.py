"""The command line.

Everything heavy is imported in the command that needs it: `recsys --help` answers at once.
"""

# ruff: noqa: D301 (`\b` is click's mark before lines that it must not wrap.)

import atexit
import gc
import os
import sys
import warnings

import click

from pipeline.commands import about, answering, cluster, judging, running

# Importing TensorFlow and tracing graphs make millions of objects that live: looking through them
# as often as Python does by default takes a fifth of a run's own work.
gc.set_threshold(100_000, 20, 20)

# Libraries below warn of what their users can do nothing about; TensorFlow's destructors complain
# while Python shuts down.
if not sys.warnoptions:
    warnings.simplefilter("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
atexit.register(setattr, sys, "unraisablehook", lambda _: None)

_EXAMPLES = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=_EXAMPLES)
@click.version_option(package_name="recsys-tfx")
def main() -> None:
    """Train, gate, push and serve published recommender models.

    \b
    Example: recsys run two_tower --data movielens-100k --set epochs=20
    """


for command in (
    about.doctor,
    about.list_models,
    about.list_datasets,
    about.config_manual,
    about.data,
    running.run,
    running.bundle,
    running.demo,
    answering.serve,
    answering.ingest,
    answering.recommend,
    answering.similar,
    answering.batch,
    answering.export,
    judging.runs,
    judging.show_run,
    judging.evaluate,
    judging.compare,
    judging.drift,
    cluster.compile_run,
    cluster.submit,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
