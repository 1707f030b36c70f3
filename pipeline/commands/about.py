"""What there is, on this machine and in this kit: doctor, models, datasets, config, data."""

# ruff: noqa: D301 (`\b` is click's mark before lines that it must not wrap.)

import sys

import click

from pipeline.commands.options import SETTINGS, mended


@click.command()
@click.argument("run_file", metavar="[RUN.yaml]", required=False, type=click.Path())
@SETTINGS
@click.option(
    "--deep", is_flag=True, help="Import TFX and run a Beam pipeline as well; takes a minute."
)
@mended
def doctor(run_file: str | None, settings: tuple[str, ...], deep: bool) -> None:
    """Check this machine: lane, versions, Keras, GPU, Beam; say what is wrong and the mend.

    With RUN.yaml, or a setting of a run, say instead what that run will want: rows, vocabularies,
    parameters, bytes of memory and of disk. Exits with 1 when it does not fit; `recsys run` refuses
    such a run, unless room.refuse is false.

    \b
    Example: recsys doctor --deep
             recsys doctor my_run.yaml
             recsys doctor --set model=ease --set data.source=/data/shop
    """
    from pipeline import doctor as doctors

    if not run_file and not settings:
        sys.exit(doctors.run_doctor(deep))
    from pipeline import config as run_config

    config = run_config.load(run_file, run_config.parse_settings(settings))
    sys.exit(doctors.run_estimate(config, click.echo))


@click.command("models")
@mended
def list_models() -> None:
    """List the models: task, example kind, what a request may hold, what carries an answer.

    And the family and the paper.

    \b
    Example: recsys models
    """
    from models.names.registry import EXPLANATIONS, MODELS
    from pipeline.show import print_table

    def told(entry) -> str:
        return ", ".join(("features" if entry.task == "score" else "ids", *entry.reads))

    rows = [
        (
            entry.name,
            entry.title,
            entry.task,
            entry.kind,
            told(entry),
            entry.explains,
            entry.family,
            entry.paper,
        )
        for entry in MODELS.values()
    ]
    headings = ("name", "model", "task", "examples", "a request holds", "explains by")
    print_table("Models", (*headings, "family", "paper"), rows)
    print_table("What models explain answers by", ("explains by", "weights"), EXPLANATIONS.items())


@click.command("datasets")
@click.option("--layouts", is_flag=True, help="List the layouts of data folders instead.")
@mended
def list_datasets(layouts: bool) -> None:
    """List the public data sets: what they are, where they come from, under what terms.

    With --layouts, what a folder of data may look like, by the name that data.reader takes.

    \b
    Example: recsys datasets
             recsys datasets --layouts
    """
    if layouts:
        from pipeline import manual, show

        show.print_table("Layouts", ("reader", "what it reads"), manual.layouts())
        return
    from components.read.datasets import DATASETS
    from pipeline.show import print_table

    rows = [
        (name, dataset.description, dataset.source, dataset.terms)
        for name, dataset in DATASETS.items()
    ]
    print_table("Data sets", ("name", "what", "source", "terms"), rows)


class _Manual(click.Command):
    """A command whose help ends with the manual."""

    def format_epilog(self, ctx, formatter) -> None:
        from pipeline import manual

        formatter.write("\nKeys of a run file:\n\n" + manual.text())


@click.command("config", cls=_Manual)
@click.argument("model", required=False)
@click.option("--page", is_flag=True, help="Write the whole manual as Markdown.")
@mended
def config_manual(model: str | None, page: bool) -> None:
    """Print every key of a run file: what it takes, its default, what it means, an example.

    With MODEL, print the hyper-parameters of that model.

    \b
    Example: recsys config --help
             recsys config two_tower
             recsys config --page > MANUAL.md
    """
    from pipeline import manual

    if page:
        click.echo(manual.page(), nl=False)
    else:
        click.echo(manual.text(manual.of_model(model) if model else None))


@click.group()
def data() -> None:
    """Fetch public data sets.

    \b
    Example: recsys data get movielens-100k
    """


@data.command("get")
@click.argument("name")
@mended
def data_get(name: str) -> None:
    """Fetch data set NAME into the cache: checksummed, kept, taken up again after an interruption.

    \b
    Example: recsys data get movielens-1m
    """
    from components.read import datasets

    click.echo(datasets.get(name, progress=click.echo))
