"""What is read from and written to buckets, against a local S3 in a process of its own (moto)."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.read import raw, readers
from components.read.layouts import detection
from components.read.tables import fingerprint
from components.tables import places
from components.tables.places import Remote, place, upload
from models.names.errors import ConfigError, DataError
from tests.conftest import put, write_toy_source


def write_parts(folder: Path) -> Path:
    """Events in three parts, one of them packed, with two bad rows; items in Parquet."""
    folder.mkdir()
    lines = [f"u{row % 7},i{row % 5},{row}" for row in range(90)]
    lines[40] = ",i1,3"  # no user: the 11th row of the second part, so its 12th line
    lines[70] = "u1,i1,never"  # the 11th row of the third
    head = "user_id,item_id,timestamp\n"
    for part in range(3):
        text = head + "\n".join(lines[30 * part : 30 * part + 30]) + "\n"
        if part == 1:
            (folder / "events-1.csv.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / f"events-{part}.csv").write_text(text)
    items = pa.table({"item_id": [f"i{n}" for n in range(5)], "price": np.arange(5.0)})
    pq.write_table(items, folder / "items.parquet", row_group_size=2)
    return folder


def tables(folder: str):
    """Table -> its rows, and what was rejected: reason -> file, line, value."""
    found = {}
    for source in detection.plan(folder):
        # 200 bytes a block: about sixteen lines, so that every part is read by several ranges.
        parsed = [readers.parse(source, block) for block in raw.blocks(source, 200)]
        rejected = [
            (reason, place(one.block.file).name, line, value)
            for one in parsed
            for reason, (_, line, value) in one.rejects.items()
        ]
        if parsed:
            found[source.table] = (pa.concat_tables([one.table for one in parsed]), rejected)
    return found


def test_the_tables_of_a_bucket_are_those_of_the_folder(bucket, tmp_path):
    folder = write_parts(tmp_path / "parts")
    here, there = tables(str(folder)), tables(put(folder, f"{bucket}/parts"))
    assert here.keys() == there.keys() == {"events", "items"}
    for table, (rows, rejected) in here.items():
        assert there[table][0].equals(rows) and there[table][1] == rejected
    assert here["events"][0].num_rows == 88 and here["items"][0].num_rows == 5
    assert [(file, line) for _, file, line, _ in there["events"][1]] == [
        ("events-1.csv.gz", 12),
        ("events-2.csv", 12),
    ]


def test_a_range_is_read_and_no_more(bucket, tmp_path, monkeypatch):
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "events.csv").write_bytes(b"0123456789" * 100_000)
    put(tmp_path / "wide", f"{bucket}/wide")
    asked = []
    real = places._Ranges.readinto

    def readinto(self, buffer):
        asked.append((self.tell(), len(buffer)))
        return real(self, buffer)

    monkeypatch.setattr(places._Ranges, "readinto", readinto)
    with place(f"{bucket}/wide/events.csv").open() as file:
        file.seek(500_003)
        assert file.read(131_072) == (b"3456789012" * 13_108)[:131_072]
    assert asked == [(500_003, 131_072)]  # twice the buffer: past it, in one request


@pytest.mark.parametrize(
    "files, layout",
    [
        ({"u.data": "1\t2\t3\t881250949\n", "u.genre": "Drama|0\n"}, "ml_100k"),
        ({"ratings.dat": "1::2::3::978300760\n", "movies.dat": "2::Ö::Drama\n"}, "ml_dat"),
        ({"events.csv/part-0.csv": "user_id,item_id\nu,i\n"}, "csv"),
        ({"logs/day=1/e.csv": "user_id,item_id\nu,i\n"}, None),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_layout_is_told_by_the_names_in_a_bucket(bucket, tmp_path, files, layout):
    for name, text in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_text(text)
    uri = put(tmp_path / "folder", f"{bucket}/layouts/{layout}")
    if layout:
        assert detection.detect(uri) == detection.detect(str(tmp_path / "folder")) == layout
    options = {"files": {"events": "logs/*/*.csv"}} if layout is None else {}
    plans = [detection.plan(one, layout or "csv", options) for one in (uri, tmp_path / "folder")]
    (there, here) = (plan[0] for plan in plans)
    assert there.files == tuple(
        f"{uri}/{Path(file).relative_to(tmp_path / 'folder')}" for file in here.files
    )
    assert there.fields == here.fields


def test_a_fingerprint_of_a_bucket(bucket, tmp_path):
    folder = write_toy_source(tmp_path / "toy")
    uri = put(folder, f"{bucket}/toy")
    before = fingerprint(uri)
    assert fingerprint(uri) == before
    with place(f"{uri}/toy.user").write() as file:  # another size
        file.write(b"user_id:token\nu1\n")
    assert fingerprint(uri) != before
    with pytest.raises(DataError, match="the data folder s3://shop/none does not exist"):
        fingerprint(f"{bucket}/none")


def test_what_is_no_place():
    with pytest.raises(ConfigError, match="received ftp://host/folder"):
        place("ftp://host/folder")
    with pytest.raises(ConfigError, match="received s3://"):
        place("s3://")
    assert place("data/events.csv") == Path("data/events.csv")
    assert str(place("gs://shop/data/") / "a b.csv") == "gs://shop/data/a b.csv"


def test_a_bucket_that_is_not_there_says_where_credentials_come_from(bucket):
    with pytest.raises(DataError, match="s3://nobody/x: .*AWS_PROFILE, or the role of the machine"):
        with place("s3://nobody/x").write() as file:
            file.write(b"x")


def write_model(folder: Path) -> Path:
    for name in ("saved_model.pb", "variables/variables.index", "assets/words", "z"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_what_servers_wait_for_is_written_last(bucket, tmp_path, monkeypatch):
    closed = []
    real = Remote.write

    def write(self):
        closed.append(self.name)
        return real(self)

    monkeypatch.setattr(Remote, "write", write)
    model = write_model(tmp_path / "model")
    upload(model, place(f"{bucket}/models/1"), last="saved_model.pb")
    assert closed[-1] == "saved_model.pb" and len(closed) == 4
    found = {
        str(one.relative_to(place(f"{bucket}/models/1"))): one
        for one in (place(f"{bucket}/models/1").rglob("*"))
        if one.is_file()
    }
    assert {name: one.read_text() for name, one in found.items()} == {
        name: name for name in ("saved_model.pb", "variables/variables.index", "assets/words", "z")
    }


def test_an_upload_that_breaks_off_leaves_nothing(bucket, tmp_path, monkeypatch):
    real = Remote.write

    def write(self):
        if self.name == "saved_model.pb":
            raise DataError("the store is full")
        return real(self)

    monkeypatch.setattr(Remote, "write", write)
    with pytest.raises(DataError, match="the store is full"):
        upload(write_model(tmp_path / "model"), place(f"{bucket}/models/2"), "saved_model.pb")
    assert not place(f"{bucket}/models/2").exists()


def test_a_model_is_pushed_to_a_bucket_with_its_entry(bucket, tmp_path):
    """Twice: the ledger there has both, the newest first, and each version is whole."""
    from components.gate import ledger

    write_model(tmp_path / "model")
    destination = f"{bucket}/pushes"
    pushes = [ledger.push(str(tmp_path / "model"), destination) for _ in range(2)]
    assert list(ledger.entries(destination)) == pushes[::-1]
    version = place(destination) / str(pushes[1].version)
    assert (version / "saved_model.pb").read_text() == "saved_model.pb"
    ledger.copy_measured(pushes[0], destination, str(tmp_path / "measured"))
    assert (tmp_path / "measured" / "saved_model.pb").read_text() == "saved_model.pb"
    (version / "saved_model.pb").remove()
    assert list(ledger.entries(destination)) == pushes[:1]
    with places.fetched(str(version), tmp_path) as copy:  # as `recsys batch` asks it
        assert Path(copy).name == version.name and Path(copy).parent.parent == tmp_path
        assert (Path(copy) / "variables" / "variables.index").read_text() == (
            "variables/variables.index"
        )
    assert not Path(copy).exists()
    with places.fetched("/models/1", tmp_path) as same:
        assert same == "/models/1"


@pytest.fixture
def answers(monkeypatch):
    """Makes the model answer every user with two items, without TensorFlow."""
    from apache_beam.ml.inference.base import ModelHandler

    from components.batch import recommendations

    class Answers(ModelHandler):
        def __init__(self, path):
            super().__init__()

        def load_model(self):
            return None

        def run_inference(self, batch, model, inference_args=None):
            from serving.wire.protos import Example

            users = [
                Example.FromString(one).features.feature["user_id"].bytes_list.value[0].decode()
                for one in batch
            ]
            yield [
                pa.array([user for user in users for _ in range(2)]),
                pa.array([1, 2] * len(users), pa.int32()),
                pa.array(["a", "b"] * len(users)),
                pa.array([0.5, 0.25] * len(users), pa.float32()),
            ]

    monkeypatch.setattr(recommendations, "_SavedModel", Answers)
    return recommendations


@pytest.mark.parametrize("asked", [3000, 0])
def test_recommendations_go_to_a_bucket_as_to_a_folder(bucket, tmp_path, answers, asked):
    from components.in_process import in_process_pipeline

    users = [{"user_id": f"u{number}".encode()} for number in range(asked)]
    for to in (str(tmp_path / "to"), f"{bucket}/to/{asked}"):
        answers.recommend_all(in_process_pipeline, "none", lambda: iter(users), 2, to)
    here = sorted((tmp_path / "to").iterdir())
    there = sorted(place(f"{bucket}/to/{asked}").iterdir())
    # The mark that all is there, which a folder of this machine needs not: it appears whole.
    assert [one.name for one in there] == ["_SUCCESS", *(file.name for file in here)]
    assert here[0].name == f"recommendations-00000-of-{len(here):05d}.parquet"
    rows = [
        pa.concat_tables([pq.read_table(file) for file in here]),
        pa.concat_tables([pq.read_table(one.arrow_file()) for one in there[1:]]),
    ]
    assert rows[0].equals(rows[1]) and rows[0].num_rows == 2 * asked
    assert rows[0].schema.equals(answers.SCHEMA)
    assert rows[0].column("user_id").to_pylist()[::2] == [f"u{n}" for n in range(asked)]
    parent = [one.name for one in place(f"{bucket}/to").iterdir()]
    assert not [name for name in parent if name.startswith(".")]
    with pytest.raises(ConfigError, match="a new or an empty folder; received s3://"):
        answers.recommend_all(in_process_pipeline, "none", lambda: iter(users), 2, to)


def test_users_to_ask_for_come_from_a_bucket(bucket, tmp_path, answers):
    (tmp_path / "who").mkdir()
    (tmp_path / "who" / "ids.txt").write_text("u1\nu2\n")
    put(tmp_path / "who", f"{bucket}/who")
    shutil.rmtree(tmp_path / "who")
    read = answers.users_of_file(f"{bucket}/who/ids.txt")
    assert [request["user_id"] for request in read()] == [b"u1", b"u2"]
