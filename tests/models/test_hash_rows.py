"""Values that share rows: two hashes a value, no vocabulary, a table as small as it was told."""

import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from components import standalone
from models.contract import tasks
from models.inputs import ids
from models.inputs.fields import FieldRows, shared_rows
from models.inputs.preprocessing import UNKNOWN, hashed
from models.inputs.schema import Field
from models.names import registry
from models.names.errors import ConfigError
from models.names.hyper_parameters import resolve
from models.training import warm_start
from models.training.loop import TrainingLoop
from tests.models import toy as toys
from tests.models.contract import assert_as_large_as_said, assert_takes_every_weight
from tests.models.score_contract import CLICK, train

ODD = np.array([-0x61C8864680B583EB, 0x2545F4914F6CDD1D], np.int64)


def in_numpy(index, rows):
    with np.errstate(over="ignore"):
        key = np.asarray(index, np.int64)[..., np.newaxis] * ODD
    return (key ^ (key >> 32)) % rows


def field(name, kind="categorical", tokens=(), is_hashed=True):
    return Field(name, "item", kind, tf.string, kind == "multivalued", tuple(tokens), is_hashed)


def test_the_graph_has_the_rows_that_numpy_has():
    index = np.random.default_rng(0).integers(2, 2**31 - 1, 100_000)
    rows = shared_rows(tf.constant(index, tf.int32), 1000).numpy()
    np.testing.assert_array_equal(rows, in_numpy(index, 1000))
    # 100 values a row, of a deviation of 10: each row within 6 of them, by either hash.
    for one in rows.T:
        counts = np.bincount(one, minlength=1000)
        assert abs(counts - 100).max() < 60
    # That two of one row by a hash meet by the other too is chance: 1 pair of 1,000.
    first, second = rows.T
    of_row = second[first == first[0]]
    assert np.unique(of_row).size > 0.9 * of_row.size


def test_values_that_meet_by_one_hash_differ_by_the_other():
    rows = FieldRows([field("ad")], {"ad": 50})
    values = tf.constant([str(number) for number in range(200)])
    pairs = rows({"ad": hashed(values)})[0][:, 0].numpy()
    left, right = next(
        (a, b)
        for a in range(200)
        for b in range(a)
        if pairs[a, 0] == pairs[b, 0] and pairs[a, 1] != pairs[b, 1]
    )
    table = rows.embedding(4, 1.0, "table")
    row, weight = rows({"ad": tf.gather(hashed(values), [left, right])})
    vectors = table(row).numpy()[:, 0]
    of = table.embeddings.numpy()
    np.testing.assert_allclose(vectors[0], of[pairs[left, 0]] + of[pairs[left, 1]], rtol=1e-6)
    assert abs(vectors[0] - vectors[1]).max() > 0.01 and weight.numpy().tolist() == [[1], [1]]
    # Missing and unknown have a row of their own, which starts at 0.
    assert not table(rows({"ad": tf.constant([0, 1])})[0]).numpy().any()
    # 50 rows, of missing, of unknown, and the two that no value has.
    assert of.shape == (54, 4)


def test_a_vocabulary_that_fits_keeps_its_rows():
    fits = field("user_id", "id", [b"a", b"b"], False)
    large = field("item_id", "id", [b"a", b"b", b"c"], False)
    rows = FieldRows([fits, large], {"user_id": 2, "item_id": 2})
    index = tf.constant([0, 1, 2, 3])
    row = rows({"user_id": index, "item_id": tf.constant([0, 1, 2, 4])})[0].numpy()
    assert row[:, 0].tolist() == [[2, 0], [3, 0], [4, 0], [5, 0]]
    # Behind the 4 of the user 2 + 2; by the hash of the text, so that it is the same in every run.
    two = in_numpy(hashed(tf.constant(["a", "c"])), 2) + 8
    assert row[:, 1].tolist() == [[6, 0], [7, 0], *two.tolist()]


def test_many_values_are_weighed_as_ever():
    many = field("tags", "multivalued")
    rows = FieldRows([field("ad"), many], {"ad": 10, "tags": 10})
    values = hashed(tf.constant([["x", "y"], ["z", "z"]])) * tf.constant([[1, 1], [1, 0]])
    row, weight = rows({"ad": tf.constant([0, 0]), "tags": values})
    assert row.shape == (2, 3, 2) and weight.numpy().tolist() == [[1, 0.5, 0.5], [1, 1, 0]]
    pooled = rows.pool(rows.embedding(3, 1.0, "t")(row) * weight[..., tf.newaxis], {"tags": values})
    assert pooled.shape == (2, 2, 3)


def test_what_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="'age' is numeric, of which no vocabulary is large"):
        FieldRows([field("age", "numeric", [b"1"], False)], {"age": 5})
    with pytest.raises(ConfigError, match="'ad' was transformed without a vocabulary; required"):
        FieldRows([field("ad")])
    with pytest.raises(ConfigError, match="biased_mf has no use for 'hash_rows': it has no table"):
        registered("biased_mf", {"ad": 5})
    with pytest.raises(ConfigError, match="hash_rows: .*at least 1"):
        registered("fm", {"ad": 0})


def registered(name, hash_rows):
    return resolve(name, registry.load(name).Model.HyperParameters, {"hash_rows": hash_rows})


@pytest.fixture(scope="module")
def shared(toy_data, tmp_path_factory):
    """The toy clicks, whose titles and occupations Transform hashes."""
    toy, place = toy_data("event", 0.0, CLICK), tmp_path_factory.mktemp("hashed")
    folder = place / "data"
    shutil.copytree(toy.folder, folder)
    shutil.rmtree(folder / "graph")
    moved = dataclasses.replace(toy, folder=folder)
    custom = {"text": ["item_title"], "hashed": ["user_occupation", "item_genres"]}
    standalone.transform(str(folder / "examples"), moved.schema, moved.graph, custom)
    return moved


ALIKE = ("lr", "wide_deep", "deepfm", "xdeepfm")  # their rows are those of the same layer


@pytest.mark.parametrize(
    "name", ["fm", *(pytest.param(name, marks=pytest.mark.thorough) for name in ALIKE)]
)
def test_a_model_learns_and_serves_without_a_vocabulary(name, shared, tmp_path):
    sharing = {"user_occupation": 20, "item_genres": 30, "item_id": 25}
    settings = {"epochs": 8, "learning_rate": 1e-2, "batch_size": 128, "hash_rows": sharing}
    if name in ("wide_deep", "deepfm", "xdeepfm"):
        settings["hidden"] = (16,)
    model, data = train(name, shared, settings)
    assert data.field("user_occupation").hashed and len(data.field("item_id").tokens) > 25
    measured = tasks.of(name, CLICK).evaluation(data, "test").of(model)()
    assert measured["auc"] > 0.65, measured  # chance: .5, deviation .04
    rows = sum(
        2 + min(sharing.get(each.name, 1 << 30), len(each.tokens) or 1 << 30)
        for each in data.fields
    )
    assert model.rows.count == 2 + rows

    folder = tmp_path / "model"
    tasks.of(name, CLICK).exporter(model, data).export(str(folder))
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    assert {node.op for node in nodes} <= {*dir(tf.raw_ops)}
    signatures = tf.saved_model.load(str(folder)).signatures
    test = tf.constant(data.queries("test"), tf.string)
    inputs, _, _ = data.parse(test)
    served = signatures["score_examples"](examples=test)["score"]
    np.testing.assert_allclose(served, model.predict_rows(inputs), atol=1e-5)
    # A value that train has never seen has rows as any other, and is none of the unknown.
    assert (inputs["user_occupation"].numpy() != UNKNOWN).all()
    assert_takes_every_weight(trained_of(model, data), str(tmp_path))
    assert_as_large_as_said(model, data)


def trained_of(model, data):
    from types import SimpleNamespace

    return SimpleNamespace(model=model, data=data)


def test_a_warm_start_keeps_what_a_hash_has_learnt(shared, tmp_path):
    """Of another number of rows nothing is taken over but what has rows of its own."""
    model, data = train("fm", shared, {"epochs": 1, "hash_rows": hash_of(20)})
    warm_start.save_weights(model, str(tmp_path))

    def warmed(rows):
        other = type(model)(registry_settings(rows), data)
        TrainingLoop(other.hyper_parameters, data).build(other)
        warm_start.load_weights(other, str(tmp_path))
        return other

    def block(of, name="user_occupation"):
        start = of.rows.offsets[name] + 2
        return of.factors.embeddings.numpy()[start : start + 20]

    np.testing.assert_array_equal(block(warmed(20)), block(model))
    other = warmed(21)
    assert not (block(other) == block(model)).any()
    new = slice(other.rows.offsets["user_id"], other.rows.offsets["user_id"] + 10)
    old = slice(model.rows.offsets["user_id"], model.rows.offsets["user_id"] + 10)
    np.testing.assert_array_equal(
        other.factors.embeddings.numpy()[new], model.factors.embeddings.numpy()[old]
    )


@pytest.mark.parametrize("users", [{"user_id": 7}, {}], ids=["shared", "a row each"])
def test_many_ids_are_learnt_served_and_started_from_as_few_are(
    users, shared, tmp_path, monkeypatch
):
    settings = {"epochs": 2, "hash_rows": {**users, **hash_of(20)}}

    def served(model, data, folder):
        tasks.of("fm", CLICK).exporter(model, data).export(str(folder))
        warm_start.save_weights(model, str(folder))
        return tf.saved_model.load(str(folder)).signatures

    model, few = train("fm", shared, settings)
    answers = served(model, few, tmp_path / "few")
    monkeypatch.setattr(ids, "MANY", 6)
    monkeypatch.setattr(toys, "_loaded", {})
    model, many = train("fm", shared, settings)
    if not users:  # whose first rows were drawn for other users
        assert warm_start.load_weights(model, str(tmp_path / "few"))["complete"]
    others = served(model, many, tmp_path / "many")
    assert isinstance(many.user_table, ids.IdIndex) and isinstance(many.users.ids, ids.Ids)
    assert list(many.users.ids) != few.users.ids.tolist()
    assert sorted(many.users.ids) == sorted(few.users.ids)
    assert list(many.items.ids) == few.items.ids.tolist()
    np.testing.assert_array_equal(many.item_counts, few.item_counts)
    for name, table in few.items.features.items():
        assert tf.reduce_all(many.items.features[name] == table), name
    test = tf.constant(few.queries("test"), tf.string)
    pairs = {
        "user_id": tf.constant([few.users.ids[3], b"nobody"]),
        "item_id": tf.constant([few.items.ids[:5].tolist()] * 2),
    }
    for name, asked in (("score_examples", {"examples": test}), ("rank", pairs)):
        expected, received = answers[name](**asked), others[name](**asked)
        for column, values in expected.items():
            if values.dtype == tf.string:
                assert tf.reduce_all(received[column] == values), (name, column)
            else:
                np.testing.assert_allclose(received[column], values, atol=1e-6)
    # Once each: the hashes of the users, those of the items and which of them lies where.
    saved = tf.train.list_variables(str(tmp_path / "many" / "variables" / "variables"))
    shapes = [shape for _, shape in saved]
    assert [shapes.count([len(one)]) for one in (many.users, many.items)] == [1, 2]
    assert isinstance(model.factors.tokens, ids.Ids)
    assert_takes_every_weight(trained_of(model, many), str(tmp_path))


@pytest.mark.parametrize("sorted_so", [True, False])
def test_many_ids_that_share_rows_are_exported_in_4_bytes_and_a_half_each_or_8(sorted_so, tmp_path):
    """A look-up in stock operations, and the rows of what it finds, by the same hashes."""
    count = 40_000
    tokens = ids.Ids.of([[b"%d" % number for number in range(count)]])
    tokens = tokens.take(ids.bucket_order(tokens)) if sorted_so else tokens
    table = ids.IdIndex(tokens)
    many = dataclasses.replace(field("user_id", "id", (), False), tokens=tokens, table=table)
    rows = FieldRows([many], {"user_id": 100})
    module = tf.Module()
    module.table = table

    def ask(values):
        return rows({"user_id": tf.cast(table.lookup(values), tf.int32)})[0]

    asked = tf.constant(["17", "39999", "nobody"])
    signature = [tf.TensorSpec([None], tf.string)]
    module.ask = tf.function(ask, input_signature=signature, autograph=False)
    tf.saved_model.save(module, str(tmp_path))
    # By the hash of the text, as of few ids.
    two = in_numpy(hashed(asked[:2]), 100) + 4
    loaded = tf.saved_model.load(str(tmp_path))
    assert loaded.ask(asked)[:, 0].numpy().tolist() == [*two.tolist(), [3, 0]]
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert size < (4.5 if sorted_so else 8.5) * count + 40_000


def hash_of(rows):
    return {"user_occupation": rows, "item_genres": 30}


def registry_settings(rows):
    return registry.load("fm").Model.HyperParameters(hash_rows=hash_of(rows))
