"""What several commands have: how they end on an error, and options."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import click

from models.names.errors import RecsysError


def mended(command: Callable) -> Callable:
    """Ends the command on an error that the user can mend.

    It ends with the error's message and exit code 1, not with a traceback.
    """

    @functools.wraps(command)
    def wrapped(*arguments, **options):
        try:
            return command(*arguments, **options)
        except RecsysError as error:
            click.secho(f"error: {error}", fg="red", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted; the next run goes on from here", err=True)
            sys.exit(130)

    return wrapped


SETTINGS = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A hyper-parameter, or a dotted key of the run.",
)
BEAM = click.option(
    "--beam",
    help="The engine of Beam's part of the work: a runner, such as processes or flink, or a "
    "mapping as `beam` of a run file is.",
)
OUTPUT = click.option(
    "--output", type=click.Path(), default="runs", show_default=True, help="Folder of runs."
)


def run_options(command: Callable) -> Callable:
    """The options of commands that run the pipeline."""
    options = [
        click.argument("model", required=False),
        click.option(
            "--config", type=click.Path(), help="A run as a YAML file; flags override it."
        ),
        click.option("--data", "source", help="A public data set by name, or a folder; s3:// too."),
        click.option("--reader", help="Layout of the folder; told by its files when left out."),
        click.option(
            "--split",
            help="How the log is split, such as leave_one_out, temporal or ratio; a name that is "
            "none is answered with those there are.",
        ),
        SETTINGS,
        BEAM,
        click.option("--seed", type=int, help="Of initial weights, batches and negatives."),
        click.option(
            "--output",
            type=click.Path(),
            help="Folder of runs, metadata and pushed models (default runs).",
        ),
        click.option(
            "--warm-start/--cold-start", default=None, help="Start from the last blessed model."
        ),
        click.option(
            "--refit/--no-refit",
            default=None,
            help="Train the blessed model again on everything, test too, and push that.",
        ),
    ]
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


def config_of(
    model, config, source, reader, split, settings, beam, seed, output, warm_start, refit
) -> Any:
    """The run that `run_options` say."""
    from pipeline import config as run_config

    flags = {
        "model": model,
        "data.source": source,
        "data.reader": reader,
        "split.name": split,
        "seed": seed,
        "output": output,
    }
    flags |= {"warm_start": warm_start, "refit": refit}
    return run_config.load(
        config,
        {
            **run_config.parse_beam(beam),
            **run_config.parse_settings(settings),
            **{k: v for k, v in flags.items() if v is not None},
        },
    )
