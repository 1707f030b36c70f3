"""The inputs that once made a wrong model, a traceback or a silence, as a run takes them now.

    python -m benchmarks.faults --data FOLDER [--only 09-inch ...] [--read] [--output FOLDER]

FOLDER holds a folder an input, with the log and perhaps items, users and schemas; its README says
what happened once. Where the fault lay in reading, the input is read and checked as a run does it;
where it lay later, it goes through `recsys run`, with popularity unless the fault asks for another
model (--read leaves those out). Prints a Markdown table: what should be, and what was. Exits with 1
where the two differ.
"""

import argparse
import contextlib
import io
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
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
        refused: whether it should be, in one message.
        says: patterns of what is to be printed.
        settings: of `--set`.
        model: whose run.
        whole: whether it goes through the whole run, for the fault lay behind reading and checks.
        then: what else holds of how it ended, given FOLDER too; raises AssertionError.
    """

    folder: str
    should: str
    refused: bool = False
    says: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    model: str = "popularity"
    whole: bool = False
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


def _read(table: str, kept: int, rejected: int = 0) -> Callable[[Ended, Path], None]:
    def then(ended: Ended, folder: Path) -> None:
        report = ended.tables[table]
        found = report["kept"], report["read"] - report["kept"]
        assert found == (kept, rejected), f"{table}: rows kept and rejected: {found}"

    return then


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


def _two_shops(ended: Ended, folder: Path) -> None:
    """Another folder of the same name is another pipeline."""
    other = recsys(
        "run", "popularity", "--data", folder / "43-same-name/shop_b/data", output=ended.output
    )
    assert other.well, other.said
    servables = [path.name for path in (ended.output / "serving").iterdir()]
    assert len(servables) == 2, f"servables: {servables}"


CASES = (
    Case("01-price", "prices are numbers", says=(r"price: number \(10 buckets\)",)),
    Case("02-index", "the column without a name is left out, and said", says=("has no name",)),
    Case("03-names", should="any name is trained on", says=("Gr",), whole=True),
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
    Case("06-iso-mixed", "all times are read, whole seconds or not", then=_read("events", 320)),
    Case("09-inch", "30 items, the inch mark as it stands", then=_read("items", 30)),
    Case("09f-inch-big", "3,000 events", then=_read("events", 3000)),
    Case(
        "10-latin1",
        "refused at reading, by line, with the option",
        refused=True,
        says=("is not UTF-8", "data.columns.encoding"),
    ),
    Case(
        "10-latin1",
        "read with the encoding",
        settings=("data.columns.encoding=latin-1",),
        whole=True,
    ),
    Case(
        "14-rating01",
        "refused: all labels of train are 0",
        refused=True,
        model="deepfm",
        says=("labels of train are 0",),
    ),
    Case("20-genres-int", "lists of whole numbers are read", then=_read("events", 320)),
    Case(
        "20d-year-9999",
        "one row rejected",
        settings=("data.max_rejected_share=0.01",),
        then=_read("events", 319, 1),
    ),
    Case("21-dup-header", "refused: a column twice", refused=True, says=("is there 2 times",)),
    Case("22e-utf16", "UTF-16 is read", then=_read("events", 320)),
    Case("22i-macos", "files that begin with a dot are passed over", then=_read("events", 320)),
    Case("25-batch", should="ids are read as the reader reads them", then=_batches, whole=True),
    Case(
        "33-yyyymmdd", "days such as 20200913 are read, and said", says=("days such as 20200913",)
    ),
    Case("42-schema-cache", should="the edited schema is read", then=_edited_schema, whole=True),
    Case("43-same-name", should="two pipelines", then=_two_shops, whole=True),
    Case(
        "50-map-both",
        "the mapped column is taken, the other left out",
        settings=("data.columns.item_id=sku",),
        says=("item_id is left out: item_id is sku",),
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
        whole=True,
        settings=("label.column=click", "epochs=1", "gate.min_lift=-1"),
        says=("(?i)auc", "(?i)log loss"),
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
        whole=True,
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


def end(case: Case, folder: Path, output: Path) -> Ended:
    """Puts an input through what it is for."""
    if not case.whole:
        return read(case.model, data_of(case, folder), case.settings, output)
    arguments = ["run", case.model, "--data", data_of(case, folder)]
    for setting in case.settings:
        arguments += ["--set", setting]
    return recsys(*arguments, output=output / "runs")


def faults_of(case: Case, ended: Ended, folder: Path) -> Iterator[str]:
    """What is other than it should be."""
    if ended.well == case.refused:
        last = ended.said.strip().splitlines()[-1:]
        yield f"{'not refused' if ended.well else 'refused'}: {' '.join(last)}"
    if "Traceback" in ended.said:
        yield "a traceback"
    for pattern in case.says:
        if not re.search(pattern, ended.said):
            yield f"does not say {pattern!r}"
    if ended.well:
        try:
            case.then(ended, folder)
        except AssertionError as error:
            yield str(error)


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
    print("| input | should | did | seconds of a processor |\n|---|---|---|---|", flush=True)
    for number, case in enumerate(CASES):
        if given.only and case.folder not in given.only or given.read and case.whole:
            continue
        started = time.process_time()
        ended = end(case, given.data, output / f"{number}-{case.folder}")
        faults = list(faults_of(case, ended, given.data))
        wrong += bool(faults)
        did = "; ".join(faults) if faults else "so"
        if faults:
            print(ended.said, file=sys.stderr)
        seconds = time.process_time() - started
        print(f"| {case.folder} | {case.should} | {did} | {seconds:.1f} |", flush=True)
    if given.output is None:
        shutil.rmtree(output)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
