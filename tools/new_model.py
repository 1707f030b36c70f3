"""Writes what a new model needs: its file, its line in the registry, its test.

    make new-model NAME=cdae TASK=retrieve KIND=profile
    make new-model NAME=autoint TASK=score KIND=event FAMILY=feature_interaction FROM=deepfm

The file begins as the nearest model that there is: the shortest one of the same task and example
kind, or FROM. So it runs, trains and serves at once, and turns into the new one step by step. What
must be written fails until it is: the test of its own. The row of the benchmark follows from the
registry.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from models.names import registry  # noqa: E402

_CONTRACTS = {
    "RetrieveContract": "tests.models.contract",
    "ScoreContract": "tests.models.score_contract",
}
_LABELS = ("CLICK", "RATING")  # which the contract of scores defines
_DOCSTRING = '''"""{title}: one line that says what it is.

Cite: authors: title, venue year.

    score = ...        the equations that the code implements, a line each, with every symbol

Deviations: every one that the code has of the paper, or none. (Begun from {source}.)
"""'''

_TEST = '''"""{title}: the contract, and what its paper says of it, by hand."""

import pytest

from {where} import {imported}

{settings}

def test_a_golden_vector_of_the_paper():
    pytest.fail("derive a small case of the paper's equations by hand in a comment, and assert it")
'''


def nearest(task: str, kind: str) -> registry.Entry:
    """The model of the task and the kind with the shortest file; a baseline if no other is."""
    of_kind = [
        entry
        for entry in registry.MODELS.values()
        if (entry.task, entry.kind) == (task, kind) and not entry.baseline
    ]
    if not of_kind:
        raise click.UsageError(f"no {task} model is trained on rows of the kind {kind}; name FROM")
    # Baselines are closed forms more often than not.
    return min(
        of_kind,
        key=lambda entry: (entry.family == "baseline", len(file_of(entry).read_text("utf-8"))),
    )


def file_of(entry: registry.Entry) -> Path:
    """The file of a model."""
    return ROOT / (entry.module.replace(".", "/") + ".py")


def model_source(source: registry.Entry, name: str, title: str) -> str:
    """The text of `source`'s file under another name, with a docstring to be filled in."""
    text = file_of(source).read_text("utf-8")
    tree = ast.parse(text)
    lines = text.split("\n")[tree.body[0].end_lineno :]
    docstring = _DOCSTRING.format(title=title, source=source.name)
    old = text.rstrip().rsplit("Model = ", 1)[1]
    return docstring + re.sub(rf"\b{old}\b", class_name(name), "\n".join(lines))


def class_name(name: str) -> str:
    """`wide_deep` -> `WideDeep`."""
    return "".join(part.capitalize() for part in name.split("_"))


def with_entry(text: str, entry: dict[str, str]) -> str:
    """The registry's text with one entry more, the last."""
    tree = ast.parse(text)
    (entries,) = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_ENTRIES"
    ]
    lines = text.split("\n")
    added = [f'        {key}="{value}",' for key, value in entry.items()]
    lines[entries.end_lineno - 1 : entries.end_lineno - 1] = ["    Entry(", *added, "    ),"]
    return "\n".join(lines)


def contract_class(source: registry.Entry, name: str, model: str) -> tuple[str, str]:
    """The name of the contract and the text of the class that holds a model to it.

    The settings are those of the model that the new one begins as; its own tests stay behind.
    """
    text = (ROOT / f"tests/models/test_{source.name}.py").read_text("utf-8")
    nodes = ast.parse(text).body
    values = {
        ast.unparse(node.targets[0]): ast.get_source_segment(text, node.value)
        for node in nodes
        if isinstance(node, ast.Assign)
    }
    for node in nodes:
        contract = (
            ast.unparse(node.bases[0]) if isinstance(node, ast.ClassDef) and node.bases else ""
        )
        if contract in _CONTRACTS:
            lines = [
                f"    {ast.unparse(part.targets[0])} = {ast.get_source_segment(text, part.value)}"
                for part in node.body
                if isinstance(part, ast.Assign)
            ]
            body = "\n".join(lines).replace(f'"{source.name}"', f'"{name}"')
            used = [key for key in values if re.search(rf"\b{key}\b", body)]
            constants = "".join(f"{key} = {values[key]}\n" for key in used)
            gap = "\n\n" if constants else ""
            return contract, f"{constants}{gap}class Test{model}({contract}):\n{body}\n"
    raise click.UsageError(f"tests/models/test_{source.name}.py has no contract; name another FROM")


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name")
@click.option("--task", type=click.Choice(["retrieve", "score"]), required=True)
@click.option("--kind", type=click.Choice(["event", "profile", "sequence", "walk"]), required=True)
@click.option("--family", help="its folder in models/; left out, that of the model it begins as")
@click.option("--from", "source", help="the model that it begins as; left out, the nearest one")
@click.option("--title", help="what people call it; left out, the name in capitals")
@click.option("--paper", default="first author, venue year", show_default=True)
def main(name, task, kind, family, source, title, paper):
    """Writes the three places, or none of them."""
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise click.UsageError(f"NAME: required: small letters, digits and _; received {name!r}")
    if name in registry.MODELS:
        raise click.UsageError(f"NAME: {name} is registered already")
    begun = registry.get(source) if source else nearest(task, kind)
    family, title = family or begun.family, title or name.replace("_", "-").upper()
    model, test = ROOT / f"models/{family}/{name}.py", ROOT / f"tests/models/test_{name}.py"
    for path in (model, test):
        if path.exists():
            raise click.UsageError(f"{path.relative_to(ROOT)} is there already")
    entry = {
        "name": name,
        "title": title,
        "task": task,
        "kind": kind,
        "family": family,
        "paper": paper,
        "module": f"models.{family}.{name}",
    }
    if task == "score":
        entry["learns"] = begun.learns
    entry["explains"] = begun.explains
    contract, settings = contract_class(begun, name, class_name(name))
    registered = ROOT / "models/names/registry.py"
    texts = {
        model: model_source(begun, name, title),
        test: _TEST.format(
            title=title,
            where=_CONTRACTS[contract],
            imported=", ".join([*(name for name in _LABELS if name in settings), contract]),
            settings=settings,
        ),
        registered: with_entry(registered.read_text("utf-8"), entry),
    }
    if not model.parent.exists():
        texts[model.parent / "__init__.py"] = f'"""Models of the family {family}."""\n'
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
        click.echo(f"wrote {path.relative_to(ROOT)}")
    for arguments in (["check", "--fix-only"], ["format"]):
        subprocess.run([sys.executable, "-m", "ruff", *arguments, "--quiet", *texts], cwd=ROOT)
    click.echo(
        f"begun from {begun.name}; next: CONTRIBUTING.md, 'How to add a model', and\n"
        "    make test-all "
        f'ARGS="tests/models/test_contract.py tests/models/test_{name}.py -k {name}"'
    )


if __name__ == "__main__":
    main()
