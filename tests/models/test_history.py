"""A history is more than ids, and a request tells of its moment: from the log to the answer."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from components import standalone
from models.contract.retrieve import RetrieveModel
from models.contract.retrieve_task import Evaluation, RetrieveTask
from models.contract.retriever import Retriever
from models.contract.score import ScoreModel
from models.contract.score_task import ScoreTask
from models.contract.two_stage import TwoStage
from models.inputs.schema import read_schema
from models.names import features
from models.names.errors import DataError
from models.names.hyper_parameters import Epochs, Ranking
from models.names.label import Label
from tests.models.contract import strings
from tests.models.toy import example

# User, item, type, seconds, time, device, hour. Leave-one-out tests d's last event and v's, and
# validates the ones before; `rare` stands in validation alone, so train does not know it.
EVENTS = """\
user_id,item_id,event_type,dwell,timestamp,device,hour,shown
u,a,view,1,100,phone,8,c|a|b
u,b,buy,2,200,phone,9,
u,c,,3,300,desk,10,rare|c
u,rare,view,4,400,desk,11,
u,d,view,5,500,phone,12,
v,b,view,6,150,desk,13,b
v,d,buy,,250,,14,
v,c,view,8,350,phone,15,
v,a,view,9,450,tablet,16,
w,c,view,10,460,desk,17,a|d
"""
TYPES = {"dwell": "float", "hour": "int"}
ALL = {
    "history": ["event_types", "dwell", "timestamps"],
    "context": ["device", "hour"],
    "item_features": True,
}


class Told(RetrieveModel[Ranking]):
    """Scores an item of the history by all that is told of it.

    That is 1,000 x its type's index + its dwell + its time / 1,000; every item has the device's
    index x 100,000 besides.
    """

    uses_history = True
    reads_history = ("event_types", "dwell", "timestamps")
    reads_context = True
    reads_item_features = True
    reranks = 0

    def score_items(self, query, catalogue):
        told = (
            1000.0 * tf.cast(query.event_types.values, tf.float32)
            + query.dwell.values
            + tf.cast(query.timestamps.values, tf.float32) / 1000
        )
        rows = tf.shape(query.history.row_lengths())[0]
        place = tf.stack([query.history.value_rowids(), query.history.values - 2], axis=1)
        scores = tf.scatter_nd(place, told, [rows, 4])
        device = tf.cast(query.context["device"], tf.float32)
        return scores + 100_000.0 * device[:, tf.newaxis]


class Reranking(Told):
    """Turns the first three round and leaves the worst of them out."""

    reranks = 3

    def rerank(self, query, position, score):
        best = score == tf.reduce_max(score, axis=1, keepdims=True)
        return tf.where(best, float("-inf"), -score)

    def signatures(self, retriever):
        count = tf.function(lambda: {"items": tf.shape(retriever.ranker.item_ids)[0]})
        return {"count_items": count.get_concrete_function()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("event"), "event")


@pytest.fixture(scope="module", params=["event", "sequence"])
def either(request, tmp_path_factory):
    """The rows of both kinds, which hold the same events."""
    if request.param == "event":
        return request.getfixturevalue("built")
    return build(tmp_path_factory.mktemp(request.param), request.param)


def build(folder, kind):
    source = folder / "source"
    source.mkdir()
    (source / "events.csv").write_text(EVENTS)
    (source / "items.csv").write_text("item_id,color,tags\na,red,x|y\nb,blue,y\nc,,\nd,red,\n")
    standalone.read_tables(
        str(source), columns={"types": {**TYPES, "tags": "bytes_list"}}, output=str(folder / "t")
    )
    standalone.build_examples(
        str(folder / "t"), str(folder), kind=kind, schema="generic", carries=ALL
    )
    standalone.transform(
        str(folder / "examples"),
        str(folder / "schema" / "schema.pbtxt"),
        str(folder / "graph"),
        {"text": []},
    )
    return folder


def load(folder, model=Told, task=None):
    names = ("train", "valid", "test", "items", "users")
    splits = {name: str(folder / "examples" / f"Split-{name}" / "*") for name in names}
    schema = str(folder / "schema" / "schema.pbtxt")
    return (task or RetrieveTask()).load(model, str(folder / "graph"), schema, splits)


@pytest.fixture(scope="module")
def served(built):
    data = load(built)
    model = Told(Ranking(filter_seen=False), data)
    return SimpleNamespace(data=data, model=model, retriever=Retriever(model, data))


def names(entities, index):
    return [entities.ids[one - 2].decode() for one in index]


def test_events_have_their_type_dwell_and_context(either):
    """The train events are u's first three, v's first two and w's none but one (c)."""
    data = load(either)
    log = data.events
    rows = {}
    for number in range(len(log)):
        (user,), (item,) = (
            names(data.users, log.user[[number]]),
            names(data.items, log.item[[number]]),
        )
        kind = log.event_type[number]
        device, hour = (log.context[name][number] for name in ("device", "hour"))
        rows[user, item] = (
            data.event_types[kind - 2].decode() if kind > 1 else int(kind),
            float(log.dwell[number]),
            int(log.timestamp[number]),
            data.context[0].tokens[device - 2].decode() if device > 1 else int(device),
            int(hour) > 1,
        )
    assert rows == {
        ("u", "a"): ("view", 1.0, 100, "phone", True),
        ("u", "b"): ("buy", 2.0, 200, "phone", True),
        ("u", "c"): (0, 3.0, 300, "desk", True),
        ("v", "b"): ("view", 6.0, 150, "desk", True),
        ("v", "d"): ("buy", 0.0, 250, 0, True),
        ("w", "c"): ("view", 10.0, 460, "desk", True),
    }


def test_events_know_what_was_on_display(built):
    """In order of position; `rare` is not of the catalogue."""
    data = load(built)
    log = data.events
    assert "shown" not in {feature.name for feature in data.features}
    found = {}
    for number, shown in enumerate(log.shown.to_list()):
        user = names(data.users, log.user[[number]])[0]
        item = names(data.items, log.item[[number]])[0]
        known = ["?" if one == 1 else data.items.ids[one - 2].decode() for one in shown]
        found[user + item] = "".join(known)
    assert found == {"ua": "cab", "ub": "", "uc": "?c", "vb": "b", "vd": "", "wc": "ad"}


def test_lists_carry_the_features_of_their_items(either):
    """Counted once an event: red a and d, blue twice b; c has no colour. The kinds agree."""
    data = load(either)
    found = data.items.features
    index = data.item_table.lookup(tf.constant([*"abcd"]))
    tokens = [None, None, *data.items.tokens["item_color"]]
    color = [tokens[one] for one in tf.gather(found["item_color"], index).numpy()]
    assert color == [b"red", b"blue", None, b"red"]
    assert sorted(data.items.tokens["item_tags"]) == [b"x", b"y"]
    kinds = {feature.name: feature.kind for feature in data.features}
    assert kinds["item_color"] == "categorical" and kinds["item_tags"] == "multivalued"
    schema = read_schema(str(either / "schema" / "schema.pbtxt"))
    tagged = {c.name for c in schema.feature if features.CONTEXT in c.annotation.tag}
    assert tagged == {"device", "hour"}


def test_features_that_a_request_tells_are_indexed_as_those_of_the_tables(served):
    """Red is a with x and y, blue b with y, c has none; green and z are in no table."""
    data = served.data
    assert [field.name for field in data.item_fields] == ["item_color", "item_tags"]
    told = data.item_index(
        {
            "item_color": tf.constant(["red", "blue", "", "green"]),
            "item_tags": tf.constant([["x", "y"], ["y", ""], ["", ""], ["", "z"]]),
        }
    )
    tables = {
        name: tf.gather(values, data.item_table.lookup(tf.constant([*"abc"])))
        for name, values in data.items.features.items()
    }
    np.testing.assert_array_equal(told["item_color"], [*tables["item_color"].numpy(), 1])
    assert told["item_tags"].to_list() == [*tables["item_tags"].to_list(), [1]]


def test_an_unknown_item_takes_what_is_beside_it_along(served):
    """`rare` is in validation alone: stored histories have neither it nor its 4 seconds."""
    history = served.data.user_histories
    row = served.data.user_table.lookup(tf.constant("u")).numpy()
    assert names(served.data.items, history.items[row].numpy()) == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(history.dwell[row], [1, 2, 3, 5])
    np.testing.assert_array_equal(history.timestamps[row], [100, 200, 300, 500])
    view, buy = (served.data.event_types.index(name) + 2 for name in (b"view", b"buy"))
    np.testing.assert_array_equal(history.event_types[row], [view, buy, 0, view])


def expected(data, told, device):
    """{item: score} by the rule of `Told`; told: item -> (type, dwell, time)."""
    types = {name.decode(): number + 2 for number, name in enumerate(data.event_types)} | {"": 0}
    tokens = [token.decode() for token in data.context[0].tokens]
    base = 100_000 * (0 if not device else tokens.index(device) + 2 if device in tokens else 1)
    return {
        item: base
        + sum(1000 * types.get(kind, 1) + dwell + time / 1000 for kind, dwell, time in all_)
        for item, all_ in told.items()
    }


def answers(answer, row):
    pairs = zip(answer["item_id"][row].numpy(), answer["score"][row].numpy(), strict=True)
    return {item.decode(): float(score) for item, score in pairs if item}


STORED = {
    "a": [("view", 1, 100)],
    "b": [("buy", 2, 200)],
    "c": [("", 3, 300)],
    "d": [("view", 5, 500)],
}


def test_a_request_tells_what_stands_beside_its_history(served, tmp_path):
    """The two signatures agree, what is told is added to what is stored, and ids alone still do."""
    retriever = served.retriever
    asked = {
        "user_id": tf.constant(["u", "nobody"]),
        "history": strings([["b", "no such", "a"], ["c"]]),
        "exclude": strings([[], []]),
        "k": tf.constant([4, 4]),
    }
    beside = {
        "event_types": tf.constant([["buy", "view", "wish"], ["view", "", ""]]),
        "dwell": tf.constant([[20.0, 99.0, 30.0], [7.0, 0, 0]]),
        "timestamps": tf.constant([[1000, 99, 2000], [3000, 0, 0]], tf.int64),
        "device": tf.constant(["desk", "fridge"]),
        "hour": tf.constant([9.0, float("nan")]),
    }
    retriever.export(str(tmp_path / "1"), rules=False)
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    _, signature = signatures["recommend_events"].structured_input_signature
    assert set(signature) == {*asked, *beside}
    answer = signatures["recommend_events"](**asked, **beside)
    with_request = {
        **STORED,
        "b": [*STORED["b"], ("buy", 20, 1000)],
        "a": [*STORED["a"], ("wish", 30, 2000)],
    }
    of_u = answers(answer, 0)
    assert of_u == pytest.approx(expected(served.data, with_request, "desk"))
    unknown_device = {"a": [], "b": [], "c": [("view", 7, 3000)], "d": []}
    of_nobody = answers(answer, 1)
    assert of_nobody == pytest.approx(expected(served.data, unknown_device, "fridge"))

    first = dict(
        user_id=["u"],
        history=["b", "no such", "a"],
        event_types=["buy", "view", "wish"],
        dwell=[20.0, 99.0, 30.0],
        timestamps=[1000, 99, 2000],
        device=["desk"],
        hour=[9],
        k=[4],
    )
    # The second request tells its dwell alone.
    second = dict(user_id=["nobody"], history=["c", "a"], dwell=[7.0, 8.0], k=[4])
    examples = tf.constant([example(**first), example(**second)])
    of_examples = signatures["recommend_examples"](examples=examples)
    assert answers(of_examples, 0) == of_u
    assert answers(of_examples, 1) == pytest.approx(
        expected(served.data, {"a": [("", 8, 0)], "b": [], "c": [("", 7, 0)], "d": []}, "")
    )
    recalled = signatures["recall_examples"](examples=examples, count=tf.constant(2))
    assert recalled["item_id"].shape == (2, 2)
    # Ids alone stay a request.
    plain = signatures["recommend"](**asked)
    assert answers(plain, 1) == pytest.approx(
        expected(served.data, {"a": [], "b": [], "c": [("", 0, 0)], "d": []}, "")
    )
    broken = dict(first, dwell=[20.0, 99.0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="dwell: required: as many values"):
        signatures["recommend_examples"](examples=tf.constant([example(**broken)]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="dwell: required: the shape"):
        signatures["recommend_events"](**asked, **{**beside, "dwell": tf.zeros([2, 2])})


def test_queries_know_what_was_told_before_them_and_nothing_of_their_target(served):
    """The query of u has a, b, c of train and `rare` of validation; its moment is d's: a phone."""
    data, retriever = served.data, served.retriever
    parsed = retriever.reader.parse_queries(tf.constant(data.queries("test"), tf.string))
    users = names(data.users, parsed["query"].user.numpy())
    row = users.index("u")
    query = parsed["query"]
    assert names(data.items, query.history[row].numpy()) == ["a", "b", "c"]
    np.testing.assert_array_equal(query.dwell[row], [1, 2, 3])
    device = query.context["device"].numpy()
    tokens = [token.decode() for token in data.context[0].tokens]
    assert tokens[device[row] - 2] == "phone"
    # The tablet of v's target is in no train event.
    assert device[users.index("v")] == 1


def test_the_first_items_are_ordered_anew_in_evaluation_as_in_serving(served, built, tmp_path):
    """Of the first three the best is left out, and the other two change places."""
    data = load(built, Reranking)
    retriever = Retriever(Reranking(Ranking(filter_seen=False), data), data)
    ask = dict(
        user_id=tf.constant(["u"]),
        history=strings([[]]),
        exclude=strings([[]]),
        k=tf.constant([4]),
    )
    before = [*answers(served.retriever.recommend(**ask), 0)]
    after = answers(retriever.recommend(**ask), 0)
    assert [*after] == [before[2], before[1], before[3]]
    assert [*after.values()] == sorted(after.values(), reverse=True)
    queries = data.queries("test")
    model = Reranking(Ranking(filter_seen=False), data)
    values = Evaluation(data, queries).of(model)()
    parsed = retriever.reader.parse_queries(tf.constant(queries, tf.string))
    ranks = []
    scores, _, answered = retriever.ranker.scores(parsed["query"], ())
    reranked = retriever.ranker.reranked(parsed["query"], scores, answered)
    for order, target in zip(np.argsort(-reranked, kind="stable"), parsed["targets"], strict=True):
        ranks.append(order.tolist().index(int(target[0])) + 1)
    assert values["mrr_10"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    retriever.export(str(tmp_path / "1"), rules=False)
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    assert signatures["count_items"]()["items"] == len(data.items)


def test_context_must_be_a_column_of_events_with_one_value(built, tmp_path):
    for named, said in (("color", "lacks the column 'color'"), ("dwell", "received 'dwell'")):
        with pytest.raises(DataError, match=said):
            standalone.build_examples(
                str(built / "t"), str(tmp_path), carries={"context": [named]}, schema="generic"
            )


class ByTheMoment(ScoreModel[Epochs]):
    """Orders by the item where a device is told, else turns the order of the first stage round."""

    reads_quantiles = True

    def score_rows(self, inputs, training=False):
        # Within train's labels, 8 to 17, to which answers are clipped.
        by_item = 0.4 * tf.cast(inputs["device"] * inputs["item_id"], tf.float32)
        return 9.0 + by_item - 0.3 * inputs["recall_score_quantile"]


@pytest.mark.thorough
def test_the_second_stage_is_told_the_moment_and_what_the_first_one_thought(
    served, built, tmp_path
):
    """The recall's scores are those of `Told`, 1 to some 100,000; the ranker knows that range."""
    source = tmp_path / "source"
    source.mkdir()
    header, *lines = EVENTS.split()
    rows = [f"{line},{n * 40_000}" for n, line in enumerate(lines)]
    (source / "events.csv").write_text("\n".join([f"{header},recall_score", *rows]) + "\n")
    types = {"types": {**TYPES, "recall_score": "float"}}
    standalone.read_tables(str(source), columns=types, output=str(tmp_path / "t"))
    label = Label(column="hour")
    standalone.build_examples(
        str(tmp_path / "t"),
        str(tmp_path),
        "score",
        label=label.model_dump(),
        schema="generic",
        split={"name": "leave_one_out"},
    )
    standalone.transform(
        str(tmp_path / "examples"),
        str(tmp_path / "schema" / "schema.pbtxt"),
        str(tmp_path / "graph"),
        {"text": [], "quantiles": True},
    )
    data = load(tmp_path, ByTheMoment, ScoreTask(label))
    ScoreTask(label).exporter(ByTheMoment(Epochs(), data), data).export(str(tmp_path / "rank"))
    served.retriever.export(str(tmp_path / "recall"), rules=False)
    bundle = TwoStage(str(tmp_path / "recall"), str(tmp_path / "rank"), "told", candidates=4)
    bundle.export(str(tmp_path / "both"))
    signatures = tf.saved_model.load(str(tmp_path / "both")).signatures
    ids = {
        "user_id": tf.constant(["u", "u"]),
        "history": strings([[], []]),
        "exclude": strings([[], []]),
        "k": tf.constant([4, 4]),
    }
    beside = {
        "event_types": strings([[], []]),
        "dwell": tf.zeros([2, 0]),
        "timestamps": tf.zeros([2, 0], tf.int64),
        "device": tf.constant(["phone", ""]),
        "hour": tf.constant([float("nan")] * 2),
    }
    answer = signatures["recommend_events"](**ids, **beside)
    told, untold = ([*answers(answer, row)] for row in (0, 1))
    by_index = sorted("abcd", key=lambda item: data.item_table.lookup(tf.constant(item)).numpy())
    assert told == by_index[::-1]
    recall = expected(served.data, STORED, "")
    assert untold == sorted("abcd", key=recall.get)
    examples = tf.constant([example(user_id=["u"], device=["phone"]), example(user_id=["u"])])
    of_examples = signatures["recommend_examples"](examples=examples)
    assert [[*answers(of_examples, row)][:4] for row in (0, 1)] == [told, untold]
    # Ids alone stay a request: no moment, and the first stage's scores are not told either.
    assert answers(signatures["recommend"](**ids), 0).keys() == {*"abcd"}
