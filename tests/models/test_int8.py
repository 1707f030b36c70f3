"""Tables in bytes: what a number may be off by, what an export weighs and answers."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from models.contract import tasks
from models.inputs import int8
from models.inputs.int8 import Int8Table, dequantise, products, quantise, rows_a_scale
from models.inputs.token_layers import TokenEmbedding
from models.inputs.traced import traced
from models.names import registry
from models.names.errors import ConfigError
from models.names.export import ExportConfig
from models.training import trainer, warm_start
from models.training.export import in_int8
from models.training.loop import TrainingLoop
from tests.models.score_contract import CLICK, RATING

INT8 = {"tables": "int8", "smallest": 64}


@pytest.mark.parametrize("width", [1, 5, 16, 40])
def test_a_number_is_off_by_half_a_step_at_most(width):
    draw = np.random.default_rng(width)
    values = (draw.normal(size=[103, width]) * 10.0 ** draw.integers(-6, 3, [103, 1])).astype("f4")
    values[7] = 0
    values[50:90] = 0  # whole groups of zeros have a scale of 0
    bytes_, scales = quantise(values)
    together = rows_a_scale(width)
    assert together == -(-16 // width) and len(scales) == -(-103 // together)
    found = dequantise(bytes_, scales)
    largest = [np.abs(values[row - row % together :][:together]).max() for row in range(103)]
    # A scale is the largest / 127, rounded up in the 8th bit at most.
    bound = np.array(largest)[:, np.newaxis] / 127 * (1 + 2**-7) / 2
    assert (np.abs(found - values) <= bound * (1 + 1e-6)).all()
    assert (found[values == 0] == 0).all() and np.abs(bytes_.astype(int)).max() == 127


def test_by_hand():
    # 127/128 of 1 is the largest scale below it that bfloat16 has: 1.27 / 127 = .01 is none, the
    # next is .010009765625, and 1.27 is 126.88 of them, -.5 is -49.95, .004 is .4.
    bytes_, scales = quantise(np.array([[1.27, -0.5, 0.004, 0.0] * 4], np.float32))
    assert bytes_.tolist() == [[127, -50, 0, 0] * 4] and scales.tolist() == [0x3C24]
    np.testing.assert_allclose(dequantise(bytes_, scales)[0, :2], [1.27124, -0.500488], rtol=1e-5)


def test_the_graph_looks_up_what_numpy_has_stored():
    values = np.random.default_rng(0).normal(size=[33, 5]).astype(np.float32)
    table, wanted = Int8Table(values), dequantise(*quantise(values))
    index = tf.constant([[0, 32], [3, 4]])
    np.testing.assert_array_equal(table.rows(index), wanted[index.numpy()])
    np.testing.assert_array_equal(tf.convert_to_tensor(table), wanted)
    np.testing.assert_array_equal(table[2:], wanted[2:])
    # 9 scales for 33 rows, of 4 rows each.
    assert table.saved == 4 * 165 - 165 - 2 * 9


@pytest.mark.parametrize("width", [5, 16, 40])
@pytest.mark.parametrize("queries", [0, 1, 3])
def test_products_of_blocks_of_rows_are_those_of_the_table(width, queries, monkeypatch):
    monkeypatch.setattr(int8, "_BLOCK", 10 * width)  # 11 blocks, of 3 rows the last
    draw = np.random.default_rng(width)
    values, asked = (draw.normal(size=[rows, width]).astype("f4") for rows in (103, queries))
    table, wanted = Int8Table(values), asked @ dequantise(*quantise(values)).T
    np.testing.assert_allclose(products(tf.constant(asked), table), wanted, atol=1e-5)
    graph = traced(lambda vectors: products(vectors, table))
    np.testing.assert_allclose(graph(tf.constant(asked)), wanted, atol=1e-5)


def test_a_layer_has_what_it_had_afterwards():
    layer = TokenEmbedding([b"a", b"b"], 4, 32)
    model = tf.keras.Sequential([layer])
    model.build([None, 1])
    learnt = layer.embeddings
    wanted = dequantise(*quantise(learnt.numpy()))
    with in_int8(model, 129) as saved:
        assert saved == 0 and layer.embeddings is learnt
    with in_int8(model, 128) as saved:
        assert saved == 3 * 128 - 2 * 4 and not model.trainable_variables
        np.testing.assert_array_equal(layer(tf.constant([3, 1])), wanted[[3, 1]])
    assert layer.embeddings is learnt and [each is learnt for each in model.weights] == [True]
    np.testing.assert_array_equal(layer(tf.constant([3])), learnt.numpy()[[3]])


def run(name, toy, folder, export, settings):
    """Trains as the component does; returns the training log."""
    glob = {split: [pattern] for split, pattern in toy.splits.items()}
    valid = glob.pop("valid")
    config = {"model": name, "hyper_parameters": settings, "export": export}
    if toy.label:
        config["label"] = toy.label.model_dump()
    trainer.run_fn(
        SimpleNamespace(
            train_files=[file for files in glob.values() for file in files],
            eval_files=valid,
            transform_graph_path=toy.graph,
            schema_path=toy.schema,
            serving_model_dir=str(folder / "model"),
            model_run_dir=str(folder / "logs"),
            base_model=None,
            custom_config=config,
            hyperparameters=None,
        )
    )
    return json.loads((folder / "logs" / "training.json").read_text())


def test_no_export_has_what_the_optimiser_keeps(toy_data, tmp_path):
    toy = toy_data("event", 0.0, CLICK)
    run("fm", toy, tmp_path, {}, {"epochs": 1, "factors": 7})
    variables = tf.train.list_variables(str(tmp_path / "model" / "variables" / "variables"))
    assert sum(shape[1:] == [7] for _, shape in variables) == 1


def test_an_export_has_its_ids_once(toy_data, tmp_path):
    toy = toy_data("event", 0.0, CLICK)
    run("fm", toy, tmp_path, {}, {"epochs": 1, "factors": 7})
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "model" / "assets").iterdir()}
    assert sizes["user_occupation"] and not sizes["user_id"] + sizes["item_frequency"]
    signatures = tf.saved_model.load(str(tmp_path / "model")).signatures
    known, item = toy.load("fm").users.ids[:1], tf.constant([["item 1 é世"]])
    answer = signatures["rank"](
        user_id=tf.constant([*known, b"nobody"]), item_id=tf.repeat(item, 2, 0)
    )
    assert answer["known"].numpy().tolist() == [True, False]


def size_of(folder):
    """What an export weighs without the training log, which is written after it."""
    return sum(
        os.path.getsize(os.path.join(parent, name))
        for parent, _, names in os.walk(folder)
        for name in names
        if name != "training.json"
    )


def operations(folder):
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    return {node.op for node in nodes}


def test_a_table_whose_bytes_are_exported_is_not_written_again(toy_data, tmp_path, capsys):
    data, module = toy_data("event", 0.0).load_once("bpr_mf"), registry.load("bpr_mf")
    prints = []
    for name, seed, exported in (("one", 1, True), ("other", 2, True), ("alone", 1, False)):
        tf.keras.utils.set_random_seed(seed)
        model = module.Model(module.HyperParameters(factors=16), data)
        TrainingLoop(model.hyper_parameters, data).build(model)
        tables = warm_start.large_tables(model, 64)
        assert len(tables) == 2
        folder = tmp_path / name
        if exported:
            held = tf.Module()
            held.tables = [int8.Int8Table(table.embeddings.numpy()) for table in tables]
            tf.saved_model.save(held, str(folder))
        whole = warm_start.save_weights(model, str(folder), 64)
        beside = np.load(folder / "assets.extra" / "weights.npz")
        places = [each for each in beside.files if each.startswith("place/")]
        assert len(places) == (2 if exported else 0)
        assert whole > sum(4 * table.embeddings.shape.num_elements() for table in tables)
        prints.append(warm_start.fingerprint(str(folder)))
        wanted = [int8.dequantise(*int8.quantise(table.embeddings.numpy())) for table in tables]
        tf.keras.utils.set_random_seed(3)
        fresh = module.Model(module.HyperParameters(factors=16), data)
        TrainingLoop(fresh.hyper_parameters, data).build(fresh)
        assert warm_start.load_weights(fresh, str(folder))["complete"]
        for table, values in zip(warm_start.large_tables(fresh, 64), wanted, strict=True):
            # The first row stands for none; the others are those of the same token.
            np.testing.assert_array_equal(table.embeddings.numpy(), values)
    assert len(set(prints)) == 3

    shutil.rmtree(tmp_path / "one" / "variables")
    assert not warm_start.load_weights(fresh, str(tmp_path / "one"))["complete"]
    assert "names variables of the SavedModel" in capsys.readouterr().out


@pytest.mark.thorough
def test_an_export_in_bytes_of_a_model_that_scores(toy_data, tmp_path, capsys):
    toy = toy_data("event", 0.0, CLICK)
    settings = {"epochs": 3, "factors": 200, "learning_rate": 1e-2}
    log = run("fm", toy, tmp_path, INT8, settings)["export"]
    size = size_of(tmp_path / "model")
    assert log["bytes"] == size
    # What it would have is what it has in float32.
    assert not run("fm", toy, tmp_path / "float32", {}, settings).get("export")
    plain = size_of(tmp_path / "float32" / "model")
    assert log["float32_bytes"] == pytest.approx(plain, rel=0.02)
    line = next(line for line in capsys.readouterr().out.splitlines() if "export:" in line)
    assert (
        f"({size / log['float32_bytes']:.2f}), tables in int8; auc {log['valid']['auc']:.5f}"
        in line
    )
    assert abs(log["valid"]["auc"] - log["float32_valid"]["auc"]) < 0.005
    assert log["valid"]["log_loss"] != log["float32_valid"]["log_loss"]

    # The tables are not there in float32, and what is served says what was measured.
    data = toy.load_once("fm")
    numbers = sum(field.size for field in data.fields) + 2
    variables = str(tmp_path / "model" / "variables" / "variables")
    tables = [
        (shape, tf.train.load_variable(variables, name).dtype)
        for name, shape in tf.train.list_variables(variables)
        if shape in ([numbers, 1], [numbers, 200])
    ]
    assert sorted(tables) == [([numbers, 1], np.int8), ([numbers, 200], np.int8)]
    signatures = tf.saved_model.load(str(tmp_path / "model")).signatures
    valid = data.queries("valid")
    values = signatures["evaluate"](examples=tf.constant(valid, tf.string))
    np.testing.assert_allclose(np.mean(values["log_loss"]), log["valid"]["log_loss"], rtol=1e-5)
    used = operations(tmp_path / "model")
    assert used <= {*dir(tf.raw_ops)}, used - {*dir(tf.raw_ops)}

    # A warm start has the weights that are served, which lie there once.
    beside = np.load(tmp_path / "model" / "assets.extra" / "weights.npz")
    assert max(beside[name].nbytes for name in beside.files) < numbers * 200 / 2
    model = registry.load("fm").Model(registry.load("fm").Model.HyperParameters(factors=200), data)
    TrainingLoop(model.hyper_parameters, data).build(model)
    assert warm_start.load_weights(model, str(tmp_path / "model"))["complete"]
    measured = tasks.of("fm", CLICK).evaluation(data, "valid").of(model)()
    np.testing.assert_allclose(measured["log_loss"], log["valid"]["log_loss"], rtol=1e-5)


def test_an_export_in_bytes_of_a_model_that_ranks(toy_data, tmp_path):
    toy = toy_data("event", 0.0)
    log = run("bpr_mf", toy, tmp_path, INT8, {"epochs": 3, "factors": 32})["export"]
    signatures = tf.saved_model.load(str(tmp_path / "model")).signatures
    data = toy.load_once("bpr_mf")
    valid = data.queries("valid")
    values = signatures["evaluate"](examples=tf.constant(valid, tf.string))
    np.testing.assert_allclose(np.mean(values["ndcg_10"]), log["valid"]["ndcg_10"], rtol=1e-5)
    assert abs(log["valid"]["ndcg_10"] - log["float32_valid"]["ndcg_10"]) < 0.02
    # What is retrieved of what is embedded is the product of both in bytes.
    user = tf.constant(data.users.ids[:4])
    query = signatures["embed"](user_id=user, history=tf.fill([4, 1], ""))["embedding"]
    found = signatures["retrieve"](embedding=query, k=tf.constant(5))
    items = signatures["item_vectors"](item_id=tf.reshape(found["item_id"], [-1]))["embedding"]
    wanted = tf.reduce_sum(tf.reshape(items, [4, 5, -1]) * query[:, tf.newaxis], axis=2)
    np.testing.assert_allclose(found["score"], wanted, rtol=1e-4)
    used = operations(tmp_path / "model")
    assert used <= {*dir(tf.raw_ops)}, used - {*dir(tf.raw_ops)}


@pytest.mark.parametrize("name", ["autorec", "mult_vae", "cdae", "sr_gnn", "item2vec", "ials"])
def test_a_table_that_is_read_whole_is_read_in_bytes(name, toy_data):
    """Of a model that looks no rows up in it; nothing is learnt for this, but in closed form."""
    entry = registry.get(name)
    toy = toy_data(entry.kind, 0.0, RATING if entry.task == "score" else None)
    data, task = toy.load_once(name), tasks.of(name, toy.label)
    model_class = registry.load(name).Model
    model = model_class(model_class.HyperParameters(epochs=1), data)
    loop = TrainingLoop(model.hyper_parameters, data)
    model.learn(loop) if name == "ials" else loop.build(model)
    evaluation = task.evaluation(data, "valid")
    learnt, exporter = evaluation.of(model)(), task.exporter(model, data)
    exporter.store_in_int8(1)
    with in_int8(model, 1) as saved:
        assert saved > 0
        served = evaluation.of(model, exporter)()
    metric, most = ("rmse", 1e-2) if toy.label else ("ndcg_10", 0.05)
    assert served[metric] == pytest.approx(learnt[metric], abs=most)


def test_a_model_without_a_table_refuses(toy_data, tmp_path):
    toy = toy_data("profile", 0.0)
    with pytest.raises(ConfigError, match="export.tables: int8 is for .*; ease has no such table"):
        run("ease", toy, tmp_path, INT8, {})


def test_smallest_is_a_number():
    with pytest.raises(ConfigError, match="export.smallest: .*greater than or equal to 1"):
        ExportConfig.parse({"tables": "int8", "smallest": 0})
