"""Kubeflow Pipelines: compile, submit."""

# ruff: noqa: D301 (`\b` is click's mark before lines that it must not wrap.)

import click

from pipeline.commands.options import mended


@click.command("compile")
@click.argument("config", type=click.Path())
@click.option(
    "--to",
    "target",
    type=click.Path(),
    default="pipeline.yaml",
    show_default=True,
    help="File to write; .json leaves out what only Kubernetes reads, for Vertex AI.",
)
@click.option("--image", help="Container image that holds this project; else cluster.image.")
@mended
def compile_run(config: str, target: str, image: str | None) -> None:
    """Compile the run in CONFIG, a YAML file, for Kubeflow Pipelines v2.

    \b
    Example: recsys compile my_run.yaml --to pipeline.yaml --image registry.example/recsys:1
    """
    from pipeline import config as run_config
    from pipeline import kubeflow

    click.echo(kubeflow.compile_pipeline(run_config.load(config), target, image))


@click.command()
@click.argument("file", type=click.Path())
@click.option(
    "--endpoint",
    metavar="URL",
    help="Where Kubeflow Pipelines answers, such as http://localhost:8888 "
    "(default: KF_PIPELINES_ENDPOINT).",
)
@click.option(
    "--data", help="Folder of the data: s3:// or gs://, or on a volume that the steps mount."
)
@click.option("--seed", type=int, help="Of initial weights, batches and negatives.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A hyper-parameter.")
@click.option("--warm-start/--cold-start", default=None, help="Start from the last blessed model.")
@click.option("--experiment", help="Group of runs; made where it is missing.")
@click.option("--namespace", help="Of the user, in an installation for several.")
@mended
def submit(file, endpoint, settings, experiment, namespace, **parameters) -> None:
    """Run the compiled FILE on a cluster, with other settings than the compiled ones if wanted.

    The token of an installation that asks for one is read from the file that
    KF_PIPELINES_SA_TOKEN_PATH names.

    \b
    Example: recsys submit pipeline.yaml --endpoint http://localhost:8888 --seed 3 --set epochs=30
    """
    from pipeline import config as run_config
    from pipeline import submit as submission

    given = {name: value for name, value in parameters.items() if value is not None}
    for key, value in run_config.parse_settings(settings).items():
        group, _, name = key.rpartition(".")
        if group == "hyper_parameters":
            given.setdefault(group, {})[name] = value
        else:
            given[key] = value
    click.echo(submission.submit(file, endpoint, given, experiment=experiment, namespace=namespace))
