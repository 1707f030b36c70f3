"""TensorFlow's and Keras' private names: each is still there and does what it is used for.

They stand in one file of the models and in one of the server.
"""

import ast
import contextlib
import gc
import importlib
import weakref
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, saved_model_pb2

from models.inputs import tensorflow_private
from serving.server.tensorflow_private import load, make_callable

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    "models/inputs/tensorflow_private.py",
    "serving/server/tensorflow_private.py",
)


def adam() -> tf.keras.optimizers.Adam:
    optimizer = tf.keras.optimizers.Adam()
    optimizer.build([tf.Variable([0.0])])
    return optimizer


@pytest.mark.parametrize(
    "owner, name",
    [
        ("tensorflow.python.autograph.core.config", "CONVERSION_RULES"),
        ("tensorflow.python.autograph.core.config", "DoNotConvert"),
        ("tensorflow.python.framework.ops", "gradient_registry"),
        ("tensorflow.python.framework.ops.gradient_registry", "_registry"),
        ("tensorflow.python.grappler.tf_optimizer", "OptimizeGraph"),
        ("tf_keras.src.backend", "_SEED_GENERATOR"),
        # Messages of files and of the session, which have no public name.
        ("tensorflow.core.protobuf.config_pb2", "CallableOptions"),
        ("tensorflow.core.protobuf.meta_graph_pb2", "SignatureDef"),
        ("tensorflow.core.protobuf.saved_model_pb2", "SavedModel"),
        ("tensorflow.compat.v1.Session", "_make_callable_from_options"),
        ("tensorflow.compat.v1.Graph", "_c_graph"),
        *(
            ("tensorflow.python.client.pywrap_tf_session", name)
            for name in (
                "TF_DeleteFunction",
                "TF_FunctionImportFunctionDef",
                "TF_GraphCopyFunction",
            )
        ),
        *(
            ("tensorflow.python.saved_model.loader_impl", name)
            for name in ("get_asset_tensors", "get_init_op", "parse_saved_model")
        ),
        ("a compiled tf.keras.Model", "_delete_tracking"),
        ("tf_keras.layers.Layer", "_trackable_children"),
        ("tensorflow.Module", "_trackable_children"),
        ("a compiled tf.keras.Model", "_steps_per_execution"),
        ("a compiled tf.keras.Model", "_train_counter"),
        *(
            ("a tf.keras.optimizers.Adam", name)
            for name in (
                "_build_learning_rate",
                "_built",
                "_index_dict",
                "_learning_rate",
                "_momentums",
                "_serialize_hyperparameter",
                "_var_key",
                "_velocities",
            )
        ),
    ],
)
def test_the_name_is_there(owner, name):
    if owner.endswith("Model"):
        holder = Sums()
        holder.compile()
    elif owner.startswith("a "):
        holder = adam()
    elif owner.endswith(".gradient_registry"):
        holder = importlib.import_module("tensorflow.python.framework.ops").gradient_registry
    elif owner == "tensorflow.compat.v1.Session":
        holder = tf.compat.v1.Session
    elif owner == "tensorflow.compat.v1.Graph":
        holder = tf.compat.v1.Graph()
    elif owner in ("tf_keras.layers.Layer", "tensorflow.Module"):
        holder = {"Layer": tf.keras.layers.Layer, "Module": tf.Module}[owner.rsplit(".", 1)[1]]
    else:
        holder = importlib.import_module(owner)
    assert hasattr(holder, name), f"TensorFlow {tf.__version__}: {owner} has no {name}"


class Sums(tf.keras.Model):
    """Adds up what it is given; counts how often Python goes through a step."""

    def __init__(self):
        super().__init__()
        self.sum = tf.Variable(0.0)
        self.traced: list[tf.Tensor] = []

    def train_step(self, batch):
        self.traced.append(batch)
        return {"loss": self.sum.assign_add(batch)}


@pytest.mark.parametrize("jit_compile", [False, True])
def test_several_steps_are_traced_once(jit_compile):
    """Three steps at a time, of 5 an epoch: 3 and 2. An epoch adds 0 + 1 + 2 + 3 + 4."""

    class TracedOnce(Sums):
        def make_train_function(self, force=False):
            self.train_function = tensorflow_private.several_steps(self)
            return self.train_function

    def fitted(model) -> list[float]:
        model.compile(steps_per_execution=3, jit_compile=jit_compile)
        numbers = tf.data.Dataset.range(5).map(lambda each: tf.cast(each, tf.float32)).repeat()
        return model.fit(numbers, steps_per_epoch=5, epochs=2, verbose=0).history["loss"]

    model, keras = TracedOnce(), Sums()
    assert fitted(model) == fitted(keras) == [10.0, 20.0]
    assert len(model.traced) == 1
    single = Sums()
    single.compile()
    assert tensorflow_private.several_steps(single) is None


def test_a_model_is_saved_without_what_keras_would_load(tmp_path):
    layer = tf.keras.layers.Dense(2)
    expected = layer(tf.ones([1, 3]))
    module = tf.Module()
    module.layer = layer
    answer = tf.function(lambda rows: {"answer": layer(rows)})
    signature = answer.get_concrete_function(tf.TensorSpec([None, 3], name="rows"))
    children = {}
    for name, saving in (
        ("with", contextlib.nullcontext()),
        ("without", tensorflow_private.without_keras()),
    ):
        with saving:
            tf.saved_model.save(module, str(tmp_path / name), signatures={"ask": signature})
        loaded = tf.saved_model.load(str(tmp_path / name))
        found = loaded.signatures["ask"](rows=tf.ones([1, 3]))["answer"]
        np.testing.assert_array_equal(found, expected)
        written = saved_model_pb2.SavedModel.FromString(
            (tmp_path / name / "saved_model.pb").read_bytes()
        )
        nodes = written.meta_graphs[0].object_graph_def.nodes
        (place,) = (each.node_id for each in nodes[0].children if each.local_name == "layer")
        children[name] = {each.local_name for each in nodes[place].children}
    assert children["without"] == {"kernel", "bias"} < children["with"]
    assert "_trackable_children" in vars(tf.keras.layers.Layer)  # Keras' own again


BRANCH = "def positive(x):\n    if x > 0:\n        return x\n    return -x\n"


def test_autograph_leaves_a_package_alone_that_is_named(tmp_path, monkeypatch):
    """An `if` over a tensor is what AutoGraph turns into a graph, and Python refuses."""
    config = importlib.import_module("tensorflow.python.autograph.core.config")
    monkeypatch.setattr(config, "CONVERSION_RULES", config.CONVERSION_RULES)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("private_names_converted", "private_names_left"):
        (tmp_path / f"{name}.py").write_text(BRANCH)
    tensorflow_private.leave_unconverted("private_names_left")
    converted = importlib.import_module("private_names_converted")
    assert tf.function(lambda x: converted.positive(x))(tf.constant(-2.0)).numpy() == 2.0
    left = importlib.import_module("private_names_left")
    with pytest.raises(tf.errors.OperatorNotAllowedInGraphError):
        tf.function(lambda x: left.positive(x))(tf.constant(-2.0))


def test_autograph_leaves_what_the_models_trace_alone():
    """The first rule that matches a module holds, so none before ours may have them converted."""
    config = importlib.import_module("tensorflow.python.autograph.core.config")
    importlib.import_module("models.inputs.preprocessing")
    for module in ("models.baseline.bpr_mf", "tensorflow_transform.mappers", "tf_keras.src.engine"):
        rule = next(rule for rule in config.CONVERSION_RULES if rule.matches(module))
        assert isinstance(rule, config.DoNotConvert), module


def test_a_gradient_of_our_own_is_forgotten_with_what_it_holds():
    """One that was traced before stays, and so does one of an operation."""
    registered = importlib.import_module("tensorflow.python.framework.ops").gradient_registry

    def tripled():
        """A function whose gradient, 3, holds a variable."""
        held = tf.Variable(3.0)

        @tf.custom_gradient
        def triple(x):
            return 3.0 * x, lambda above: above * held

        return tf.function(triple).get_concrete_function(tf.TensorSpec([], tf.float32)), held

    def slope(function):
        with tf.GradientTape() as tape:
            x = tf.constant(2.0)
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x).numpy()

    earlier, _held = tripled()
    before = set(registered.list())
    with tensorflow_private.forgotten_gradients():
        function, held = tripled()
        assert slope(function) == 3.0
        tf.RegisterGradient("OfAnOperation")(lambda op, above: above)
        held, function = weakref.ref(held), None
        gc.collect()
        assert held() is not None
    gc.collect()
    assert held() is None
    assert set(registered.list()) - before == {"OfAnOperation"}
    assert slope(earlier) == 3.0


class Positions(tf.keras.optimizers.Optimizer):
    """Sets a variable to its position times the learning rate."""

    def __init__(self, learning_rate):
        super().__init__("Positions")
        tensorflow_private.set_learning_rate(self, learning_rate)
        self.builds = 0

    def build(self, var_list):
        super().build(var_list)
        if tensorflow_private.builds_now(self):
            self.builds += 1

    def update_step(self, gradient, variable):
        variable.assign(
            self.learning_rate * float(tensorflow_private.place_of(self, variable)) + 0 * gradient
        )

    def get_config(self):
        return {}


def test_an_optimiser_of_our_own_is_built_once_and_knows_its_variables():
    optimizer = Positions(0.5)
    variables = [tf.Variable([7.0]) for _ in range(3)]
    for _ in range(2):
        optimizer.apply_gradients([(tf.constant([1.0]), variable) for variable in variables])
    # The learning rate times the position: 0.5 * 0, 0.5 * 1, 0.5 * 2.
    assert [variable.numpy().tolist() for variable in variables] == [[0.0], [0.5], [1.0]]
    assert optimizer.builds == 1
    assert tensorflow_private.learning_rate_config(optimizer) == 0.5


def test_a_shared_learning_rate_is_one():
    optimizer, other = Positions(0.5), Positions(0.25)
    tensorflow_private.share_learning_rate(optimizer, other)
    other.learning_rate = 0.125
    assert float(optimizer.learning_rate) == 0.125


def test_the_moments_of_adam_are_those_of_the_variable():
    optimizer = tf.keras.optimizers.Adam(beta_1=0.5, beta_2=0.75)
    first, second = tf.Variable([0.0]), tf.Variable([0.0])
    optimizer.apply_gradients([(tf.constant([1.0]), first), (tf.constant([4.0]), second)])
    m, v = tensorflow_private.adam_moments(optimizer, second)
    # (1 - 0.5) * 4 and (1 - 0.75) * 4^2
    assert (m.numpy().tolist(), v.numpy().tolist()) == ([2.0], [4.0])


def test_a_prepared_run_feeds_and_fetches_in_the_order_of_its_options():
    with tf.Graph().as_default():
        left, right = (tf.compat.v1.placeholder(tf.float32, []) for _ in range(2))
        difference, word = left - right, tf.constant(b"word")
        options = config_pb2.CallableOptions(
            feed=[left.name, right.name], fetch=[difference.name, word.name]
        )
        with tf.compat.v1.Session() as session:
            call = make_callable(session, options)
            assert call(np.float32(5), np.float32(3)) == [2.0, b"word"]


def test_a_load_infers_no_shape_through_a_call(tmp_path):
    """That would hold the interpreter's lock. What the file tells of shapes is taken over."""
    module = tf.Module()
    module.total = tf.Variable(2.0)
    inner = tf.function(lambda rows: tf.reshape(rows, [2, 2]) * module.total)
    module.ask = tf.function(lambda rows: {"answer": inner(rows)})
    signature = module.ask.get_concrete_function(tf.TensorSpec([4], name="rows"))
    tf.saved_model.save(module, str(tmp_path), signatures={"ask": signature})
    file = tmp_path / "saved_model.pb"
    written = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for shape in ([2, 2], None):
        with tf.compat.v1.Session(graph=tf.Graph()) as session:
            definition = load(session, str(tmp_path)).signature_def["ask"]
            asked, answered = definition.inputs["rows"].name, definition.outputs["answer"].name
            assert session.graph.get_tensor_by_name(answered).shape == tf.TensorShape(shape)
            found = session.run(answered, {asked: np.arange(4, dtype=np.float32)})
        np.testing.assert_array_equal(found, [[0, 2], [4, 6]])
        for node in written.meta_graphs[0].graph_def.node:
            node.attr.pop("_output_shapes", None)
        file.write_bytes(written.SerializeToString())


NOT_MEANT = {
    "_replace": "of a named tuple",
    "_make_beam_pipeline": "TFX gives it to executors",
    "_exit": "of os, public in spite of its name",
    "_parse_flags": "of TFX, in a test",
}


def sources() -> dict[str, ast.Module]:
    tops = ("benchmarks", "components", "models", "pipeline", "serving", "tests")
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8"))
        for top in tops
        for path in sorted((ROOT / top).rglob("*.py"))
    }


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def ours(tree: ast.Module) -> set[str]:
    """The private names that a file defines: functions, classes, variables, attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def test_private_names_are_used_in_their_files_alone():
    trees = {name: tree for name, tree in sources().items() if name not in FILES}
    known = set().union(*map(ours, trees.values())) | NOT_MEANT.keys()
    found = []
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                if node.attr not in known:
                    found.append(f"{name}:{node.lineno}: {node.attr}")
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [alias.name for alias in node.names]
                if isinstance(node, ast.ImportFrom):
                    modules = [f"{node.module}.{module}" for module in modules]
                found += [
                    f"{name}:{node.lineno}: {module}"
                    for module in modules
                    if module.startswith(("tensorflow.python", "keras.src", "tf_keras.src"))
                ]
    assert not found, f"another library's private names outside of {' and '.join(FILES)}: {found}"
