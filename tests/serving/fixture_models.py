"""The models of the conformance cases, made here.

`python -m tests.serving.fixture_models DIR` writes them with a models.config, so that a real
tensorflow_model_server can be started on them: see serving/README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow as tf

from tests.serving.support import AWKWARD_IDS

v1 = tf.compat.v1
PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
TYPES = (
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint32",
    "uint64",
    "bool",
    "float32",
    "float64",
    "string",
    "complex64",
    "float16",
    "bfloat16",
)


def _signature(inputs: dict, outputs: dict, method: str = PREDICT):
    info = v1.saved_model.build_tensor_info
    return v1.saved_model.build_signature_def(
        {name: info(tensor) for name, tensor in inputs.items()},
        {name: info(tensor) for name, tensor in outputs.items()},
        method,
    )


def save(folder: Path, build) -> Path:
    """Writes one version: `build()` makes the graph and returns its signatures."""
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        signatures = build()
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()
    return folder


def _example_x():
    serialized = v1.placeholder(tf.string, [None], "examples")
    features = v1.parse_example(
        serialized, {"x": v1.FixedLenFeature([1], tf.float32, default_value=[0.0])}
    )
    return serialized, features["x"]


def half(offset: float = 2.0, version: int = 1):
    """Computes y = x / 2 + offset, from tensors and from examples.

    `version` tells which one runs.
    """

    def build():
        a = tf.Variable(0.5, name="a", use_resource=True)
        x = v1.placeholder(tf.float32, None, "x")
        serialized, from_example = _example_x()
        y = tf.add(from_example * a, offset)
        regress = _signature({"inputs": serialized}, {"outputs": y}, REGRESS)
        return {
            "serving_default": _signature({"x": x}, {"y": tf.add(x * a, offset, name="y")}),
            "regress_x_to_y": regress,
            "classify_x_to_y": _signature({"inputs": serialized}, {"scores": y}, CLASSIFY),
            # As TensorFlow 2 saves them: `predict` is the method of every signature.
            "regress_of_tf2": _signature({"inputs": serialized}, {"outputs": y}),
            "classify_of_tf2": _signature({"inputs": serialized}, {"scores": y}),
            "tensorflow/serving/regress": regress,
            "version": _signature({"x": x}, {"version": tf.fill(tf.shape(x), version)}),
        }

    return build


def multi():
    """Three inputs, two outputs."""
    tag = v1.placeholder(tf.string, [None], "tag")
    signal = v1.placeholder(tf.float32, [None, 5], "signal")
    sensor = v1.placeholder(tf.float32, [None, 2, 2], "sensor")
    total = tf.reduce_sum(signal, 1) + tf.reduce_sum(sensor, [1, 2])
    return {
        "serving_default": _signature(
            {"tag": tag, "signal": signal, "sensor": sensor},
            {"name": tf.identity(tag), "total": total},
        )
    }


def types():
    """One identity for each type."""
    signatures = {}
    for name in TYPES:
        x = v1.placeholder(tf.as_dtype(name), None)
        signatures[name] = _signature({"x": x}, {"y": tf.identity(x)})
    return signatures


def bytes_model():
    """Strings out under a name that says bytes and one that does not."""
    text = v1.placeholder(tf.string, [None])
    return {
        "serving_default": _signature(
            {"text": text}, {"img_bytes": tf.identity(text), "txt": tf.identity(text)}
        ),
        "one": _signature({"text": text}, {"txt": tf.identity(text)}),
    }


def scalar():
    """Outputs without a batch dimension."""
    x = v1.placeholder(tf.float32, [None])
    return {
        "serving_default": _signature({"x": x}, {"y": tf.reduce_sum(x)}),
        "uneven": _signature({"x": x}, {"a": tf.reduce_sum(x, keepdims=True), "b": tf.identity(x)}),
        "first": _signature({"x": x}, {"y": tf.reduce_sum(x, keepdims=True)}),
        "none": _signature({"x": x}, {"y": x[:0]}),
    }


def counter():
    """Tells how it is run: how often so far, and with how many rows."""
    x = v1.placeholder(tf.float32, [None], "x")
    runs = tf.Variable(0, name="runs", dtype=tf.int32, use_resource=True)
    count = runs.assign_add(1, read_value=True)
    serialized, from_example = _example_x()
    inputs, counted = {"inputs": serialized}, 0.0 * from_example + tf.cast(count, tf.float32)
    return {
        "regress": _signature(inputs, {"outputs": tf.identity(counted)}, REGRESS),
        "classify": _signature(inputs, {"scores": tf.identity(counted)}, CLASSIFY),
        "serving_default": _signature({"x": x}, {"runs": tf.fill(tf.shape(x), count)}),
        "rows": _signature({"x": x}, {"rows": tf.fill(tf.shape(x), tf.shape(x)[0])}),
    }


def faulty():
    """Signatures that are wrong for their method, one that raises and one that takes long."""
    serialized, x = _example_x()
    inputs = {"inputs": serialized}
    two = tf.concat([x, x], 1)
    words = tf.as_string(two)
    value = v1.placeholder(tf.float32, [None], "value")
    with tf.control_dependencies([v1.assert_non_negative(value, message="value is negative")]):
        checked = tf.identity(value)
    _, waited = v1.while_loop(
        lambda i, _: i < tf.cast(value[0], tf.int32),
        lambda i, matrix: (i + 1, tf.tanh(tf.matmul(matrix, matrix))),
        [0, tf.ones([64, 64])],
    )
    return {
        "serving_default": _signature({"x": value}, {"y": checked}),
        "slow": _signature({"x": value}, {"y": value + 0.0 * tf.reduce_sum(waited)}),
        "two_outputs": _signature(inputs, {"outputs": x, "more": x}, REGRESS),
        "input_name": _signature({"x": serialized}, {"outputs": x}, REGRESS),
        "output_name": _signature(inputs, {"y": x}, REGRESS),
        "wide": _signature(inputs, {"outputs": two}, REGRESS),
        "double": _signature(inputs, {"outputs": tf.cast(x, tf.float64)}, REGRESS),
        "classes": _signature(inputs, {"classes": words}, CLASSIFY),
        "both": _signature(inputs, {"classes": words, "scores": two}, CLASSIFY),
        "numeric_classes": _signature(inputs, {"classes": two}, CLASSIFY),
        "double_scores": _signature(inputs, {"scores": tf.cast(two, tf.float64)}, CLASSIFY),
        "flat_scores": _signature(inputs, {"scores": two[:, 0]}, CLASSIFY),
        "sizes_differ": _signature(inputs, {"classes": words, "scores": x}, CLASSIFY),
        "few_scores": _signature(inputs, {"scores": two[:1]}, CLASSIFY),
    }


class Recommender(tf.Module):
    """The contract of the recommenders, exported as they are.

    Ten items in order, without those seen or excluded; users whose id begins with "u" are known.
    """

    def __init__(self, items: list):
        super().__init__()
        self.items = tf.Variable(items, trainable=False)
        self.scores = tf.Variable(tf.range(10.0, 0.0, -1.0) / 3.0, trainable=False)
        # A look-up table, as in the real models: the server must run its initializer.
        self.positions = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(items, tf.range(10, dtype=tf.int64)), -1
        )

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "user_id"),
            tf.TensorSpec([None, None], tf.string, "history"),
            tf.TensorSpec([None, None], tf.string, "exclude"),
            tf.TensorSpec([None], tf.int32, "k"),
        ]
    )
    def recommend(self, user_id, history, exclude, k):
        """The signature `recommend`."""
        tf.debugging.assert_positive(k, message="k must be at least 1")
        hidden = self.positions.lookup(tf.concat([history, exclude], 1))
        seen = tf.reduce_any(hidden[:, :, None] == tf.range(10, dtype=tf.int64), 1)
        scores = tf.where(seen, -1.0, self.scores)
        size = tf.minimum(tf.reduce_max(k), 10)
        best, index = tf.math.top_k(scores, size)
        shown = (best > 0) & (tf.range(size) < k[:, None])
        known = tf.strings.regex_full_match(user_id, "u.*")
        return {
            "item_id": tf.where(shown, tf.gather(self.items, index), ""),
            "score": tf.where(shown, best, 0.0),
            "strategy": tf.where(known, "model", "fallback"),
        }


class Told(Recommender):
    """One that reads more than ids: every score is the sum of all numbers that it was told.

    On an `oven` that is less, so that the context shows.
    """

    def recommend_events(self, user_id, history, exclude, k, **told):
        """The signature `recommend_events`."""
        answer = self.recommend(user_id, history, exclude, k)
        known = tf.cast(told["event_types"] == "buy", tf.float32) * 1000
        spent = told["dwell"] + tf.cast(told["timestamps"], tf.float32) / 1000
        hour = tf.where(tf.math.is_nan(told["hour"]), -1.0, told["hour"])
        total = tf.reduce_sum(known + spent, axis=1) + 10_000 * hour
        total -= tf.where(told["device"] == "oven", 0.5, 0.0)
        return {**answer, "score": tf.broadcast_to(total[:, None], tf.shape(answer["score"]))}


def save_told(folder: Path) -> Path:
    """Writes one version of `Told`."""
    module = Told([f"i{number}" for number in range(10)])
    matrix = {"event_types": tf.string, "dwell": tf.float32, "timestamps": tf.int64}
    told = tf.function(module.recommend_events).get_concrete_function(
        **{spec.name: spec for spec in module.recommend.input_signature},
        **{name: tf.TensorSpec([None, None], kind, name) for name, kind in matrix.items()},
        device=tf.TensorSpec([None], tf.string, "device"),
        hour=tf.TensorSpec([None], tf.float32, "hour"),
    )
    signatures = {"recommend": module.recommend, "recommend_events": told}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


def save_recommender(folder: Path, items: list) -> Path:
    """Writes one version of `Recommender`."""
    module = Recommender(items)
    signatures = {"serving_default": module.recommend, "recommend": module.recommend}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


def write_all(folder: Path) -> Path:
    """Writes every fixture under `folder`, and a models.config; returns the config's path."""
    builders = {
        "half3": half(3.0),
        "multi": multi,
        "types": types,
        "bytes": bytes_model,
        "scalar": scalar,
        "faulty": faulty,
        "counter": counter,
    }
    for name, build in builders.items():
        save(folder / name / ("123" if name == "half3" else "1"), build)
    for version in (123, 124):
        save(folder / "half" / str(version), half(version=version))
    save_recommender(folder / "recommender" / "1", [f"i{number}" for number in range(10)])
    save_recommender(folder / "awkward" / "1", AWKWARD_IDS)
    save_told(folder / "told" / "1")
    folders = {name: name for name in (*builders, "half", "recommender", "awkward", "told")}
    # Names that a path must encode.
    folders |= {"a b": "half3", "a/b": "half3"}
    entries = []
    for name, source in folders.items():
        policy = " model_version_policy { latest { num_versions: 2 } }" if name == "half" else ""
        entries.append(
            f'  config {{ name: "{name}" base_path: "{(folder / source).resolve()}" '
            f'model_platform: "tensorflow"{policy} }}'
        )
    config = folder / "models.config"
    config.write_text("model_config_list {\n" + "\n".join(entries) + "\n}\n")
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }\n")
    return config


if __name__ == "__main__":
    print(write_all(Path(sys.argv[1])))
