"""Logs larger than memory: columns in files, columnar twins, shuffled windows, any step anew."""

import copy
import dataclasses
import json
import mmap
import shutil

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from components.tables import records
from models.industry.articles import Articles, Words
from models.inputs import columns, event_log, sampling, twins
from models.inputs.event_log import EventLog, by_user_and_time
from models.names import registry
from models.names.errors import DataError
from models.names.label import GROUP, Label
from models.rnn import sessions
from models.training import keeper, warm_start
from models.training.loop import TrainingLoop
from tests.models.toy import ToyData

CLICK = Label(column="rating", threshold=4.0)


@pytest.fixture
def small_pieces(monkeypatch):
    """What is for millions of rows, for some: pieces of 50 rows, and every column in a file."""
    monkeypatch.setattr(columns, "_HELD", 0)
    for module in (columns, event_log, sampling):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 50)


@pytest.fixture
def small_windows(monkeypatch):
    """Blocks of 4 rows, windows of 16."""
    monkeypatch.setattr(sampling, "BLOCK", 4)
    monkeypatch.setattr(sampling, "WINDOW", 16)


def epochs(batches: sampling.Batches, count: int) -> list[np.ndarray]:
    found = iter(batches.dataset.as_numpy_iterator())
    return [
        np.concatenate([next(found)["row"] for _ in range(batches.steps)]) for _ in range(count)
    ]


def test_an_epoch_of_windows_has_every_row_once(small_windows):
    """103 rows are 25 blocks and 3 rows: 6 windows of 16, and one of a block and the 3.

    A batch of 10 crosses the border of two windows.
    """
    batches = sampling.shuffled_batches({"row": range(103)}, 10, seed=3)
    assert batches.steps == 11
    first, second = epochs(batches, 2)
    for rows in (first, second):
        assert sorted(rows) == list(range(103))
        windows = [rows[begin : begin + 16] for begin in range(0, 96, 16)]
        # Each window has four whole blocks, and not four that lie beside each other.
        assert all(len({row // 4 for row in window}) == 4 for window in windows)
        assert any(max(window) - min(window) > 16 for window in windows)
        # Within it, no row stays where its block is: that all 16 did has a chance of 1 in 16!.
        assert all(sorted(window) != list(window) for window in windows)
        assert {100, 101, 102} <= set(rows[96:])
    assert first.tolist() != second.tolist()


def test_the_share_of_a_block_in_a_batch_is_that_of_chance(small_windows, monkeypatch):
    """64 blocks of 4 in windows of 128 rows: of a block of 4 a batch of 32 has one on average.

    The count of a block's rows in a batch is hypergeometric (128 rows, 4 of the block, 32 drawn):
    variance 32 (4 / 128) (124 / 128) (96 / 127) = .732. Unshuffled blocks would have it at 3.
    """
    monkeypatch.setattr(sampling, "WINDOW", 128)
    batches = sampling.shuffled_batches({"row": range(256)}, 32, seed=1)
    counts = [
        np.bincount(rows[begin : begin + 32] // 4, minlength=64)[np.unique(half // 4)]
        for rows in epochs(batches, 20)
        for half in (rows[:128], rows[128:])
        for begin in (0, 32, 64, 96)
        for rows in (half,)
    ]
    assert abs(np.mean(counts) - 1) < 1e-9
    assert abs(np.var(counts) - 0.732) < 0.1


def test_rows_of_one_window_come_in_any_order():
    """As they always have: the permutation of (seed, epoch)."""
    batches = sampling.shuffled_batches({"row": range(10)}, 4, seed=7, first_epoch=2)
    expected = tf.random.experimental.stateless_shuffle(tf.range(10), [7, 2])
    np.testing.assert_array_equal(epochs(batches, 1)[0], expected)


@pytest.mark.parametrize("steps", [0, 1, 3, 11, 12, 25])
def test_batches_go_on_from_any_step(small_windows, steps):
    """In the first window, in a later one, at the end of an epoch and behind it; mapped too."""
    batches = sampling.shuffled_batches({"row": range(103)}, 10, seed=3, first_epoch=1).map(
        lambda batch: {"row": batch["row"] + 1, "seed": batch["step_seed"]}
    )
    later = batches.after(steps)
    wanted = batches.dataset.skip(steps).take(12).as_numpy_iterator()
    for one, other in zip(wanted, later.dataset.take(12).as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(one["row"], other["row"])
        np.testing.assert_array_equal(one["seed"], other["seed"])


def unequal(data):
    """The same data with three to seven events of a user, who all have seven."""
    events = data.events
    kept = events.position < 3 + events.user % 5
    columns = {each.name: getattr(events, each.name) for each in dataclasses.fields(events)}
    few = {name: each[kept] for name, each in columns.items() if isinstance(each, np.ndarray)}
    found = copy.copy(data)
    found.events = dataclasses.replace(events, **few)
    return found


@pytest.mark.parametrize(
    ("name", "kind", "label", "setting"),
    [
        ("bpr_mf", "event", None, {"unknown_rate": 0.3}),
        ("two_tower", "event", None, {"unknown_rate": 0.3}),
        ("neumf", "event", None, {"unknown_rate": 0.3}),
        ("deepfm", "event", CLICK, {"unknown_rate": 0.3}),
        ("sr_gnn", "sequence", None, {}),
        ("cdae", "profile", None, {}),
        ("cdae of many items", "profile", None, {}),
        ("mult_dae", "profile", None, {}),
        ("ials", "profile", None, {"factors": 4}),
        ("mult_vae", "profile", None, {}),
        ("item2vec", "walk", None, {"block": 3, "subsample": 0.02, "shared_negatives": 7}),
        ("ges", "walk", None, {"block": 3}),
        ("yahoo_news of articles", "event", None, {"article_batch_size": 49, "article_length": 2}),
        ("gru4rec", "sequence", None, {"n_sample": 100}),
        ("youtube_candidates", "event", None, {"examples_a_user": 4, "negatives": 100}),
    ],
)
def test_the_shares_of_all_workers_are_the_batch_of_one(
    toy_data, monkeypatch, name, kind, label, setting
):
    """To the bit, negatives and what is forgotten too, from any step; none makes another's rows."""
    name, *what = name.split(" of ")
    data = toy_data(kind, 0.0, *([label] if label else [])).load_once(name)
    data = data if label else unequal(data)
    module = registry.load(name)
    if what == ["many items"]:
        monkeypatch.setattr(module, "_FEW_ITEMS", 0)
    batched = "batch_size" in module.HyperParameters.model_fields
    size = {"batch_size": 49} if batched else {}  # three shares of 17, 17 and 15
    model = module.Model(module.HyperParameters(**size, **setting), data)
    if what == ["articles"]:
        words = Words(data, 1000).of_items
        model = Articles(model.hyper_parameters, data, model.encoder, words)
    sizes = assert_shares_are_the_batch(model.batches(data, 3, 1))
    # Tiles are as many as they are, and so are the users of a block of iALS.
    assert sizes == [17, 17, 15] or kind == "walk" or not batched


def assert_shares_are_the_batch(batches):
    """Of three workers, in the last batch of the epoch, which may be smaller, and in the next.

    Returns how many rows each has of the next.
    """
    later = batches.steps - 1
    parts = [batches.after(1).make(later - 1, sampling.Share(number, 3)) for number in range(3)]
    whole = batches.after(later).dataset.take(2)
    for one, *shares in zip(whole, *(part.take(2) for part in parts), strict=True):
        assert one.keys() == shares[0].keys()
        for key, value in one.items():
            if key == "step_seed":
                continue
            found = [share[key].numpy() for share in shares]
            if value.shape.rank > 1:  # a share's lists are as long as its own longest
                free = [value.shape[-1] - each.shape[-1] for each in found]
                left = [(0, 0)] * (value.shape.rank - 1)
                found = [np.pad(each, [*left, (0, more)]) for each, more in zip(found, free)]
            if key == GROUP:  # numbered anew in each
                ends = np.cumsum([0] + [each.max() + 1 for each in found])
                found = [each + before for each, before in zip(found, ends)]
            assert all(len(each) for each in found)
            np.testing.assert_array_equal(value, np.concatenate(found), err_msg=key)
    return [len(share[next(iter(one))]) for share in shares]


def test_a_worker_has_whole_groups():
    """Of one to five rows each, some of which are forgotten."""
    group = np.repeat(np.arange(40), np.arange(40) % 5 + 1)

    def forgotten(batch):
        return {**batch, "seen": sampling.forget_some(batch["row"], 0.5, batch["step_seed"])}

    batches = sampling.group_batches({"row": np.arange(len(group))}, group, 20, 3).map(forgotten)
    assert_shares_are_the_batch(batches)
    for number in range(3):
        share = next(iter(batches.make(0, sampling.Share(number, 3))))
        rows = share["row"].numpy()
        assert sorted(rows) == np.flatnonzero(np.isin(group, group[rows])).tolist()


def test_a_share_draws_what_its_rows_have_of_the_whole():
    seed = tf.constant([1, 2], tf.int64)
    shares = [sampling.Share(number, 3).cut(tf.range(7), seed) for number in range(3)]
    assert [rows.numpy().tolist() for rows, _ in shares] == [[0, 1, 2], [3, 4, 5], [6]]
    for draw in (sampling.uniform, sampling.normal):
        whole = draw(tf.constant([7, 3]), seed, dtype=tf.float64)
        found = [draw(tf.stack([len(rows), 3]), own, dtype=tf.float64) for rows, own in shares]
        np.testing.assert_array_equal(tf.concat(found, axis=0), whole)
    for one, other in zip(sampling.split(seed, 2), sampling.split(shares[1][1], 2), strict=True):
        assert other.numpy().tolist() == [*one.numpy().tolist(), 3, 7, 1, 3]
    # Of seven rows and five replicas: 2, 2, 2, 1 and none.
    bounds = [sampling.Share(number, 5).bounds(tf.constant(7)) for number in range(5)]
    assert [(int(a), int(b)) for a, b in bounds] == [(0, 2), (2, 4), (4, 6), (6, 7), (7, 7)]


def test_a_worker_makes_its_share_alone(monkeypatch):
    """The second of three workers, of one replica each."""
    made = []
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    context = tf.distribute.InputContext(3, 1, 3)
    monkeypatch.setattr(
        strategy, "distribute_datasets_from_function", lambda function: function(context)
    )

    def noted(batch):
        rows = tf.numpy_function(
            lambda rows: made.append(len(rows)) or rows, [batch["row"]], tf.int64
        )
        return {"row": rows}

    batches = sampling.shuffled_batches({"row": range(30)}, 10, seed=3).map(noted)
    loop = TrainingLoop(None, None, strategy=strategy)
    found = next(iter(loop._distributed(batches)))["row"].numpy()
    whole = next(iter(batches.dataset))["row"].numpy()
    assert found.tolist() == whole[4:8].tolist()
    assert made[0] == len(found)


def test_session_parallel_batches_go_on_from_any_step():
    """5 + 2 + 3 events in two slots: the first takes 4 steps, the others 1 and 2."""
    items, starts = np.arange(2, 12), np.array([0, 5, 7, 10])
    batches = sessions.parallel_batches(items, starts, 2, None, seed=0)
    assert (batches.steps, batches.rows) == (4, 7)
    wanted = batches.dataset.skip(3).take(4).as_numpy_iterator()
    found = batches.after(3).dataset.take(4).as_numpy_iterator()
    for one, other in zip(wanted, found, strict=True):
        for name in ("item", "target", "fresh", "valid"):
            np.testing.assert_array_equal(one[name], other[name])


def test_a_large_column_lies_in_a_file_that_tensors_share(small_pieces):
    column = columns.Column(np.int32)
    for begin in (0, 100):
        column.append(np.arange(begin, begin + 100))
    array = column.array()
    assert isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap)
    tensor = columns.as_tensor(array)
    np.testing.assert_array_equal(tensor, np.arange(200))
    array[5] = 77  # the same memory
    assert int(tensor[5]) == 77
    # Of what does not begin where TensorFlow wants memory to, there is a copy.
    np.testing.assert_array_equal(columns.as_tensor(array[1:]), array[1:])


def test_a_full_disk_is_named(small_pieces, monkeypatch):
    """The kernel's own full disk stands for it."""
    monkeypatch.setattr(columns, "_file", lambda: open("/dev/full", "wb", buffering=0))
    with pytest.raises(DataError, match="TMPDIR"):
        columns.room((10,), np.int64)
    column = columns.Column(np.int64)
    with pytest.raises(DataError, match="TMPDIR"):
        column.append(np.arange(10))


@pytest.mark.parametrize("drops", [False, True])
def test_the_order_of_a_log_is_that_of_a_sort(small_pieces, drops):
    """Users of up to hundreds of events in any order, more than a piece has, with equal times."""
    random = np.random.RandomState(0)
    user = random.choice([2, 3, 7, 9], size=400, p=[0.7, 0.1, 0.1, 0.1]).astype(np.int32)
    time, row = random.randint(5, size=400), random.permutation(400)
    known = random.rand(400) < 0.8 if drops else None
    wanted = np.lexsort((row, time, user))
    wanted = wanted[known[wanted]] if drops else wanted
    np.testing.assert_array_equal(by_user_and_time(user, time, row, known), wanted)


def test_what_is_computed_of_a_log_in_pieces(small_pieces):
    """Against the same in one go: places, sessions, matrix, and negatives that are none's own."""
    random = np.random.RandomState(1)
    user = np.sort(random.choice([2, 4, 5], size=180)).astype(np.int32)
    item = random.randint(1, 30, size=180).astype(np.int32)
    session = random.randint(4, size=180)
    log = EventLog(
        user, item, np.arange(180), np.ones(180, np.float32), np.arange(180), session, user * 0.0
    )
    bounds = np.searchsorted(user, [2, 4, 5, 6])
    np.testing.assert_array_equal(log.starts, bounds)
    np.testing.assert_array_equal(
        log.position, np.arange(180) - np.repeat(bounds[:3], np.diff(bounds))
    )
    together = {}
    for place in range(180):
        together.setdefault((user[place], session[place]), []).append(place)
    order, starts = log.in_sequences
    # Times ascend with the places, so a sequence that begins earlier comes first.
    wanted = sorted(together.values())
    assert [list(order[a:b]) for a, b in zip(starts[:-1], starts[1:])] == wanted
    dense = np.zeros((3, 30))
    for one, other in zip(np.searchsorted([2, 4, 5], user), item):
        if other >= 2:
            dense[one, other - 2] = 1
    np.testing.assert_array_equal(log.matrix(30).toarray(), dense)
    few = np.zeros((3, 30))
    for number, end in enumerate(bounds[1:]):
        for other in item[end - 3 : end]:
            if other >= 2:
                few[number, other - 2] = 1
    np.testing.assert_array_equal(log.matrix(30, latest=3).toarray(), few)
    shuffled = random.permutation(180)
    for order in (np.arange(180), shuffled):
        negatives = sampling.UniformNegatives(user[order], item[order], 30)
        drawn = negatives.draw(tf.constant([2, 4, 5]), 200, tf.constant([1, 2])).numpy()
        for row, has in zip(drawn, dense):
            # 200 draws find each of some ten; there is none of a user who has all.
            assert set(row) == ({place + 2 for place in range(30) if not has[place]} or {0})


SPEC = {
    "user_id": tf.io.FixedLenFeature([], tf.string),
    "rating": tf.io.FixedLenFeature([], tf.float32, default_value=-1.0),
    "number": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
    "words": tf.io.VarLenFeature(tf.string),
    "history": tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64),
    "nowhere": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
}


@pytest.fixture
def split(tmp_path):
    """Two files of rows in which anything may be missing, and their twins."""
    texts = pa.large_list(pa.large_binary())
    for number in range(2):
        table = pa.table(
            {
                "user_id": pa.array([b"a", "é".encode(), b"a"], pa.large_binary()),
                "rating": pa.array([1.5, None, float(number)], pa.float32()),
                "number": pa.array([None, 2**40, 7], pa.int64()),
                "words": pa.array([[b"x", b"y"], [], None], texts),
                "history": pa.array([[b"i"], [b"j", b"i", b"k"], []], texts),
                "beside": pa.array([1, 2, 3], pa.int64()),
            }
        )
        records.write_table(table, str(tmp_path / "Split-train"), number)
    return tmp_path / "Split-train"


def read(split) -> dict:
    def flat(row):
        words = row.pop("words")
        return {**row, "words": columns.to_ragged(words)}

    found = columns.read_columns(str(split / "*"), SPEC, flat)
    return {
        name: column.to_list() if isinstance(column, tf.RaggedTensor) else column.tolist()
        for name, column in found.items()
    }


def test_a_twin_says_what_the_examples_say(split):
    files = sorted(map(str, split.iterdir()))
    assert len(twins.of(files)) == 2
    kinds = {"user_id": "bytes", "number": "int", "history": "bytes_list", "nowhere": "float"}
    ours, rows = read(split), [list(records.read_batches(file, kinds)) for file in files]
    assert ours["history"] == 2 * [[b"i"], [b"j", b"i", b"k"], []]
    assert ours["rating"] == [1.5, -1, 0, 1.5, -1, 1] and ours["nowhere"] == 6 * [[]]
    shutil.rmtree(split.parent / "Columns-train")
    assert not twins.of(files)
    assert read(split) == ours
    assert [list(records.read_batches(file, kinds)) for file in files] == rows


def test_rows_are_read_as_columns_and_as_bytes_at_once(split):
    first, _ = sorted(map(str, split.iterdir()))
    wanted = {"user_id", "rating", "number", "words", "nowhere"}

    def found() -> list:
        return [
            [
                (serialized, {name: row[name] or [] for name in ("user_id", "rating", "number")})
                for serialized, row in zip(rows, batch.to_pylist(), strict=True)
            ]
            for batch, rows in records.read_rows(first, wanted, at_once=2)
        ]

    of_twin = found()
    assert [len(batch) for batch in of_twin] == [2, 1]
    every = [pair for batch in of_twin for pair in batch]
    assert [serialized for serialized, _ in every] == list(records.read_records(first))
    assert [row["number"] for _, row in every] == [[], [2**40], [7]]
    assert [row["rating"] for _, row in every] == [[1.5], [], [0.0]]
    batch, _ = next(records.read_rows(first, wanted, at_once=3))
    assert "beside" not in batch.schema.names
    assert batch.to_pydict()["words"] == [[b"x", b"y"], [], None]
    shutil.rmtree(split.parent / "Columns-train")
    assert found() == of_twin


def test_a_twin_of_other_rows_is_none(split):
    """The examples are what counts: written anew, the twin that is left no longer counts."""
    (first, _) = sorted(split.iterdir())
    other = pa.table({"user_id": pa.array([b"new"], pa.large_binary())})
    records.write_records(records.encode(other), str(split), 0)
    assert not twins.of([str(first)])
    assert read(split)["user_id"][0] == b"new"
    (batch,) = records.read_batches(str(first), {"user_id": "bytes"})
    assert batch.column("user_id").to_pylist() == [b"new"]


@pytest.mark.parametrize("part", ["pages", "footer"])
def test_a_damaged_twin_is_named(split, part):
    path = split.parent / "Columns-train" / "data_tfrecord-00000.parquet"
    whole = path.read_bytes()
    # The footer says whose it is.
    path.write_bytes(b"\0" * 200 + whole[200:] if part == "pages" else whole[:-20])
    file = str(split / "data_tfrecord-00000.gz")
    for reads in (
        lambda: read(split),
        lambda: list(records.read_rows(file, {"user_id"}, at_once=2)),
        lambda: list(records.read_batches(file, {"user_id": "bytes"})),
    ):
        with pytest.raises(DataError, match="Columns-train"):
            reads()


def same(one, other) -> bool:
    if isinstance(one, tf.RaggedTensor):
        return one.to_list() == other.to_list()
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


@pytest.mark.parametrize(("name", "label"), [("two_tower", None), ("deepfm", CLICK)])
def test_batches_are_the_same_from_twins_examples_memory_and_files(
    toy_data, tmp_path, request, name, label
):
    toy = toy_data("event", 0.0, *([label] if label else []))
    assert list((toy.folder / "examples").glob("Columns-train/*.parquet"))
    bare = ToyData(tmp_path, label)
    for part in ("graph", "schema"):
        (tmp_path / part).symlink_to(toy.folder / part)
    (tmp_path / "examples").mkdir()
    for part in (toy.folder / "examples").glob("Split-*"):
        (tmp_path / "examples" / part.name).symlink_to(part)
    module = registry.load(name)
    parameters = module.HyperParameters(batch_size=64)

    def loaded(which):
        data = which.load(name)
        model = module.Model(parameters, data)
        return data, next(iter(model.batches(data, 3, 1).dataset))

    (twin, one), (examples, other) = loaded(toy), loaded(bare)
    request.getfixturevalue("small_pieces")
    pieces, third = loaded(toy)
    assert isinstance(pieces.events.item, np.memmap) and pieces.events.item.dtype == np.int32
    for key in ("user", "item", "timestamp", "row", "session", "rating", "label"):
        column = getattr(twin.events, key)
        assert same(column, getattr(examples.events, key)), key
        assert same(column, getattr(pieces.events, key)), key
    for key, column in one.items():
        np.testing.assert_array_equal(column, other[key], err_msg=key)
        np.testing.assert_array_equal(column, third[key], err_msg=key)
    assert twin.user_history.to_list() == examples.user_history.to_list()


@pytest.mark.parametrize(
    ("name", "kind", "label", "setting"),
    [
        ("gru4rec", "profile", None, {"units": (4,), "dropout_hidden": 0.2}),
        ("deepfm", "event", CLICK, {"hidden": (4,), "dropout": 0.5}),
    ],
)
def test_a_training_goes_on_within_an_epoch(
    toy_data, tmp_path, monkeypatch, name, kind, label, setting
):
    """To the bit: killed in the second epoch, after the first save of its first step or steps."""
    data = toy_data(kind, 0.0, *([label] if label else [])).load_once(name)
    module = registry.load(name)
    parameters = module.HyperParameters(epochs=3, batch_size=32, **setting)

    def run(folder):
        tf.keras.utils.set_random_seed(5)
        model = module.Model(parameters, data)
        loop = TrainingLoop(parameters, data, seed=5, checkpoint_dir=folder)
        model.learn(loop)
        return loop, warm_start.variables_by_path(model)

    whole, weights = run(None)
    monkeypatch.setattr(keeper, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(keeper, "_SAVING_SHARE", 0)
    save = keeper.Keeper._save

    def kill(self, epoch, finished, step=0):
        save(self, epoch, finished, step)
        if epoch == 1 and step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(keeper.Keeper, "_save", kill)
        run(str(tmp_path))
    state = json.loads((tmp_path / "model" / "state.json").read_text())
    assert state["epoch"] == 1 and state["step"] == 8 and not state["finished"]
    # Of the steps before, nothing is kept.
    assert {file.name.split(".")[0] for file in (tmp_path / "model").glob("epoch*")} == {
        "epoch-1-step-8"
    }
    resumed, others = run(str(tmp_path))
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in resumed.history]
    for path, variable in weights.items():
        np.testing.assert_array_equal(variable, others[path], err_msg=path)
