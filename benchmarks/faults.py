"""The inputs that once made a wrong model, a traceback or a silence, as a run takes them now.

    python -m benchmarks.faults --data FOLDER [--only 09-inch ...] [--read] [--output FOLDER]

FOLDER holds a folder an input, with the log and perhaps items, users and schemas; its README says
what happened once. Every input is read and checked as a run does it. One that is taken then goes
through the whole of `recsys run` to the push, since a fault of reading may show as late as there
(--read leaves that out): with popularity, or with the model that its README names where the fault
lay in what models make of columns. One that is refused needs no more: a run ends with it at reading
or at the check, before anything is built. Prints a Markdown table: what should be, and what was.
Exits with 1 where the two differ.
"""

import argparse
import contextlib
import io
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Ended:
    """How a command ended.

    Attributes:
        well: whether it ended with 0: the data were taken, or the model was pushed.
        said: all that it printed.
        output: the folder of its runs.
        tables: table -> the report of what was read of it.
    """

    well: bool
    said: str
    output: Path
    tables: dict[str, dict] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """An input, and how it should end.

    Attributes:
        folder: the data, under FOLDER.
        should: in words.
        refused: whether it should be, in one message; else there is a whole run.
        says: patterns of what is to be printed where it is read.
        settings: of `--set`.
        model: whose run.
        rows: table -> how many rows are to be kept and rejected of it.
        tells: patterns of what the whole run is to print.
        then: what else holds of the whole run, given FOLDER too; raises AssertionError.
    """

    folder: str
    should: str
    refused: bool = False
    says: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    model: str = "popularity"
    rows: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tells: tuple[str, ...] = ()
    then: Callable[[Ended, Path], None] = field(default=lambda ended, folder: None)


def recsys(*arguments: object, output: Path) -> Ended:
    """One command of `recsys`, in this process, so that TensorFlow and TFX are imported once."""
    from pipeline.cli import main

    said, code = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main([*map(str, arguments), "--output", str(output)], standalone_mode=False)
        except SystemExit as ended:
            code = int(ended.code or 0)
        except Exception:  # what a user would see; the other inputs are still to come
            code = 1
            said.write(traceback.format_exc())
    return Ended(code == 0, said.getvalue(), output)


def read(model: str, data: Path, settings: tuple[str, ...], output: Path) -> Ended:
    """What a run does before anything is split: it is looked at, read and checked."""
    from components import standalone
    from components.check import rules
    from components.in_process import in_process_pipeline
    from components.tables.names import TABLES
    from components.tables.schemas import read_columns, read_schemas, schema_folder
    from models.names.errors import RecsysError
    from pipeline import config, preflight

    said: list[str] = []
    tables: dict[str, dict] = {}
    try:
        keys = {"model": model, "data.source": str(data), **config.parse_settings(settings)}
        run = config.load(None, keys)
        found = preflight.check(run, said.append)
        schemas = read_schemas(schema_folder(found.schemas))
        tables = standalone.read_tables(
            str(found.source),
            found.reader,
            read_columns(run.data.columns, schemas),
            str(output / "tables"),
            run.data.max_rejected_share,
        )
        uris = {table: str(output / "tables" / table) for table in TABLES}
        checked = rules.check(
            in_process_pipeline, uris, str(output / "check"), run.check, int(time.time())
        )
        said += checked["notes"]
    except RecsysError as error:
        return Ended(False, "\n".join([*said, str(error)]), output, tables)
    return Ended(True, "\n".join(said), output, tables)


def _batches(ended: Ended, folder: Path) -> None:
    """`recsys batch --users` with the five forms of the folder 25-batch."""
    files = folder / "25-batch"
    asked = {"bom.txt": 4, "header.csv": 2, "two_columns.csv": 2}
    for name in (*asked, "float_null.parquet", "history_text.parquet"):
        to = ended.output / f"batch-{name}"
        done = recsys("batch", "--to", to, "--users", files / name, output=ended.output)
        assert done.well, f"{name}: {done.said}"
        import pyarrow.parquet as pq

        answered = {row["user_id"] for row in pq.read_table(to).to_pylist()}
        if name in asked:
            assert len(answered) == asked[name], f"{name}: answered {sorted(answered)}"
        if name in ("header.csv", "two_columns.csv"):
            assert answered == {"u0", "u1"}, f"{name}: answered {sorted(answered)}"


def _edited_schema(ended: Ended, folder: Path) -> None:
    """The user's own schema is read again when it was edited: a price above 1 is refused then."""
    schema = ended.output.parent / "schema"
    shutil.copytree(folder / "42-schema-cache" / "schema", schema)
    for path in schema.iterdir():
        path.chmod(0o644)
    arguments = ("run", "popularity", "--data", folder / "01-price/data")
    arguments += ("--set", f"data.schema={schema}")
    first = recsys(*arguments, output=ended.output)
    assert first.well, first.said
    items = schema / "items.pbtxt"
    price = re.search(r'feature \{\n  name: "price"', items.read_text())
    assert price, "the schema has no price"
    text = items.read_text()
    bound = "\n  float_domain {\n    max: 1.0\n  }"
    items.write_text(text[: price.end()] + bound + text[price.end() :])
    second = recsys(*arguments, output=ended.output)
    assert not second.well and "items.price" in second.said, second.said[-500:]


def _sold_by_sku(ended: Ended, folder: Path) -> None:
    """What is recommended are values of the mapped column, `i3`, and not of the other, `900`."""
    import pyarrow.parquet as pq

    to = ended.output / "batch"
    done = recsys("batch", "--to", to, output=ended.output)
    assert done.well, done.said
    items = set(pq.read_table(to)["item_id"].to_pylist())
    assert items and all(item.startswith("i") for item in items), f"items: {sorted(items)}"


def _two_shops(ended: Ended, folder: Path) -> None:
    """Another folder of the same name is another pipeline."""
    other = recsys(
        "run", "popularity", "--data", folder / "43-same-name/shop_b/data", output=ended.output
    )
    assert other.well, other.said
    servables = [path.name for path in (ended.output / "serving").iterdir()]
    assert len(servables) == 2, f"servables: {servables}"


_LEARNS = ("epochs=2", "gate.min_lift=-1")
"""Settings of a model that is trained: whether it is good is not what is asked."""

CASES = (
    Case(
        "01-price",
        "prices are numbers",
        says=(r"price: number \(10 buckets\)",),
        model="two_tower",
        settings=_LEARNS,
    ),
    Case(
        "02-index",
        "the column without a name is left out, and said",
        says=("has no name",),
        model="two_tower",
        settings=_LEARNS,
    ),
    Case(
        "03-names",
        should="any name is trained on",
        says=("Gr",),
        model="two_tower",
        settings=_LEARNS,
    ),
    Case(
        "04-id",
        "refused: `id` of the items would be called as `item_id`",
        refused=True,
        says=("'id' of the table items", "'item_id'"),
    ),
    Case(
        "04b-id-users",
        "refused: `id` of the users would be called as `user_id`",
        refused=True,
        says=("'id' of the table users", "'user_id'"),
    ),
    Case(
        "05b-prefix-clash",
        "refused by both names",
        refused=True,
        says=("'color' of the table items", "'item_color' of the table events"),
    ),
    Case(
        "06-iso-mixed",
        "all times are read, whole seconds or not",
        rows={"events": (320, 0)},
        settings=("split.name=temporal",),
    ),
    Case("09-inch", "30 items, the inch mark as it stands", rows={"items": (30, 0)}),
    Case("09f-inch-big", "3,000 events", rows={"events": (3000, 0)}),
    Case(
        "10-latin1",
        "refused at reading, by line, with the option",
        refused=True,
        says=("is not UTF-8", "data.columns.encoding"),
    ),
    Case(
        "10-latin1",
        "read with the encoding",
        model="two_tower",
        settings=("data.columns.encoding=latin-1", *_LEARNS),
    ),
    Case(
        "14-rating01",
        "refused: all labels of train are 0",
        refused=True,
        model="deepfm",
        says=("labels of train are 0",),
    ),
    Case("20-genres-int", "lists of whole numbers are read", rows={"events": (320, 0)}),
    Case(
        "20d-year-9999",
        "one row rejected",
        settings=("data.max_rejected_share=0.01",),
        rows={"events": (319, 1)},
    ),
    Case("21-dup-header", "refused: a column twice", refused=True, says=("is there 2 times",)),
    Case("22e-utf16", "UTF-16 is read", rows={"events": (320, 0)}),
    Case("22i-macos", "files that begin with a dot are passed over", rows={"events": (320, 0)}),
    Case("25-batch", should="ids are read as the reader reads them", then=_batches),
    Case(
        "33-yyyymmdd", "days such as 20200913 are read, and said", says=("days such as 20200913",)
    ),
    Case("42-schema-cache", should="the edited schema is read", then=_edited_schema),
    Case("43-same-name", should="two pipelines", then=_two_shops),
    Case(
        "50-map-both",
        "the mapped column is taken, the other left out",
        settings=("data.columns.item_id=sku",),
        says=("item_id is left out: item_id is sku",),
        then=_sold_by_sku,
    ),
    Case(
        "51-map-typo",
        "refused, with the nearest name",
        refused=True,
        settings=("data.columns.timestamp=bougth_at",),
        says=("did you mean 'bought_at'",),
    ),
    Case("58-int-code", "whole numbers are categories", says=("category_id: category",)),
    Case(
        "h-prefixlabel",
        "clicks: AUC and log loss",
        model="deepfm",
        settings=("label.column=click", "epochs=1", "gate.min_lift=-1"),
        tells=("(?i)auc", "(?i)log loss"),
    ),
    Case(
        "h-missing",
        "`NA` is counted and named by the check",
        refused=True,
        settings=("data.max_rejected_share=1",),
        says=("stands for none", "NA"),
    ),
    Case("h-semi", "read, with the delimiter told", says=("the delimiter is ';'",)),
    Case(
        "h-whole-catalogue",
        "who has had everything gets nothing, and the model is pushed",
        settings=(
            "data.columns.user_id=customer",
            "data.columns.item_id=sku",
            "data.columns.timestamp=bought_at",
        ),
    ),
)

_DATA = {"25-batch": "02-index/data", "42-schema-cache": "01-price/data"}
"""Input -> whose log the command reads, where that is another's."""


def data_of(case: Case, folder: Path) -> Path:
    """The folder of the log of a case."""
    own = folder / _DATA.get(case.folder, case.folder)
    nested = [own / "shop_a" / "data", own / "data"]
    return next((one for one in nested if one.is_dir()), own)


def run(case: Case, folder: Path, output: Path) -> Ended:
    """The whole run of an input that is taken."""
    arguments = ["run", case.model, "--data", data_of(case, folder)]
    for setting in case.settings:
        arguments += ["--set", setting]
    return recsys(*arguments, output=output / "runs")


def faults_of_reading(case: Case, ended: Ended) -> Iterator[str]:
    """What is other than it should be of what was read and checked."""
    if ended.well == case.refused:
        yield f"{'not refused' if ended.well else 'refused'}: {_last_line(ended)}"
    yield from _unsaid(case.says, ended)
    if not ended.well:
        return
    for table, wanted in case.rows.items():
        report = ended.tables[table]
        found = report["kept"], report["read"] - report["kept"]
        if found != wanted:
            yield f"{table}: rows kept and rejected: {found}"


def faults_of_run(case: Case, ended: Ended, folder: Path) -> Iterator[str]:
    """The same of the whole run."""
    if not ended.well:
        yield f"the run failed: {_last_line(ended)}"
        yield from _unsaid((), ended)
        return
    yield from _unsaid(case.tells, ended)
    if not list(ended.output.glob("serving/*/*/saved_model.pb")):
        yield "nothing was pushed"
        return
    try:
        case.then(ended, folder)
    except AssertionError as error:
        yield str(error)


def _last_line(ended: Ended) -> str:
    return " ".join(ended.said.strip().splitlines()[-1:])


def _unsaid(patterns: tuple[str, ...], ended: Ended) -> Iterator[str]:
    if "Traceback" in ended.said:
        yield "a traceback"
    for pattern in patterns:
        if not re.search(pattern, ended.said):
            yield f"does not say {pattern!r}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="folders; left out, all")
    parser.add_argument("--read", action="store_true", help="leave whole runs out")
    parser.add_argument("--output", type=Path, help="of runs; left out, one that is removed")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    output = given.output or Path(tempfile.mkdtemp(prefix="faults-"))
    wrong = 0
    print("| input | should | did | went as far as | seconds of a processor |", flush=True)
    print("|---|---|---|---|---|", flush=True)
    for number, case in enumerate(CASES):
        if given.only and case.folder not in given.only:
            continue
        started, place = time.process_time(), output / f"{number}-{case.folder}"
        ended = read(case.model, data_of(case, given.data), case.settings, place)
        faults, said = list(faults_of_reading(case, ended)), ended.said
        through = not (case.refused or given.read or faults)
        if through:
            ended = run(case, given.data, place)
            faults, said = list(faults_of_run(case, ended, given.data)), ended.said
        wrong += bool(faults)
        did = "; ".join(faults) if faults else "so"
        if faults:
            print(said, file=sys.stderr)
        seconds, until = time.process_time() - started, "push" if through else "check"
        print(f"| {case.folder} | {case.should} | {did} | {until} | {seconds:.1f} |", flush=True)
        if given.output is None:
            shutil.rmtree(place, ignore_errors=True)
    if given.output is None:
        shutil.rmtree(output)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
