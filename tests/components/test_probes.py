"""The canary's probe of a `score` model.

Real rows over both protocols of a real server, and a model that cannot answer. And what it makes of
the answers of small catalogues.
"""

import contextlib
import dataclasses
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
import tensorflow as tf

from components import servers, standalone
from components.canary import probes
from models.contract import tasks
from models.names import registry
from models.names.label import Label
from serving.client.client import Recommendations
from serving.client.messages import Reasons

CLICK = Label(column="rating", threshold=4.0)


@pytest.fixture(scope="module")
def untrained(toy_data, tmp_path_factory):
    """Toy rows and an FM on them, exported as it was made."""
    folder = tmp_path_factory.mktemp("probes")
    data = toy_data("event", 0.0, CLICK)
    loaded, module = data.load("fm"), registry.load("fm")
    model = module.Model(module.HyperParameters(), loaded)
    tasks.of("fm", CLICK).exporter(model, loaded).export(str(folder / "model"))
    return data, loaded, str(folder / "model")


def test_real_rows_are_asked_for_and_answered(untrained):
    data, _, model = untrained
    # 20 real rows, one of strangers and one in which everything is missing.
    assert probes.try_model(model, str(data.folder / "examples")) == 22


def test_a_server_ends_with_the_process_that_started_it(untrained, tmp_path):
    """However that one ends: it has no time to stop what it has started."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "1").symlink_to(untrained[2])
    starts = (
        "import os, signal; from serving.server.process import ServerProcess; "
        f"ready = ServerProcess('fm', {str(tmp_path / 'model')!r}).__enter__(); "
        "print(ready['pid'], flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", starts], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL
    server = psutil.Process(int(ended.stdout))
    with contextlib.suppress(psutil.NoSuchProcess):
        server.wait(30)
    assert not server.is_running()


def test_a_server_is_started_ahead_and_asked_once(untrained, monkeypatch):
    data, _, model = untrained
    examples, started = str(data.folder / "examples"), []

    class Watched(servers.ServerProcess):
        def start(self):
            super().start()
            started.append(self._process)

    monkeypatch.setattr(servers, "ServerProcess", Watched)
    servers.begin(model)  # the Canary would be another process
    assert not started
    with servers.servers_ahead():
        servers.begin(model)
        assert len(started) == 1 and started[0].poll() is None
        assert probes.try_model(model, examples) == 22
        assert len(started) == 1 and started[0].poll() is not None
        servers.begin(model)
        assert started[1].poll() is None
    assert len(started) == 2 and started[1].poll() is not None
    servers.begin(model)
    assert len(started) == 2


def test_the_rows_have_the_form_that_the_signature_wants(untrained):
    data, loaded, _ = untrained
    signature = {
        name: {
            "dtype": "DT_STRING" if spec.dtype == tf.string else "DT_FLOAT",
            "tensor_shape": {"dim": [{}] * len(spec.shape)},
        }
        for name, spec in loaded.raw_signature().items()
    }
    rows = probes.sample_rows(str(data.folder / "examples"), signature, 5)
    assert rows["user_id"][5:] == ["nobody ☃", ""] and rows["user_id"][0].startswith(b"user ")
    assert {*map(type, rows["user_age"])} == {float} and np.isnan(rows["user_age"][5:]).all()
    assert len({len(genres) for genres in rows["item_genres"]}) == 1 and rows["item_genres"][6] == [
        ""
    ] * len(rows["item_genres"][0])
    assert set(rows) == set(signature) and all(len(values) == 7 for values in rows.values())


def test_a_model_that_answers_no_number_is_not_pushed(untrained, tmp_path):
    data, loaded, _ = untrained
    module = registry.load("fm")
    model = module.Model(module.HyperParameters(), loaded)
    exporter = tasks.of("fm", CLICK).exporter(model, loaded)
    exporter.score(
        tf.nest.map_structure(
            lambda spec: tf.fill([1] * len(spec.shape), "" if spec.dtype == tf.string else 0.0),
            loaded.raw_signature(),
        )
    )
    model.bias.assign(float("nan"))
    exporter.export(str(tmp_path / "model"))
    with pytest.raises(
        probes.CanaryFailure, match="row 0: the score is nan over rest; required: a finite number"
    ):
        probes.try_model(str(tmp_path / "model"), str(data.folder / "examples"))


class Shop:
    """Answers as a client of a small shop's server does."""

    def __init__(self, catalogue, had, silent=()):
        self.catalogue, self.had, self.silent = catalogue, had, silent

    def metadata(self):
        """Of a model that recommends and no more."""
        return {"metadata": {"signature_def": {"signature_def": {"recommend": {}}}}}

    def recommend_many(self, queries, k):
        return [self.recommend(query, k) for query in queries]

    def recommend(self, query, k):
        user, told = (probes._text(query.user_id), map(probes._text, query.history))
        gone = {*self.had.get(user, ()), *told, *map(probes._text, query.exclude)}
        left = [] if user in self.silent else [one for one in self.catalogue if one not in gone]
        return Recommendations([(item, 1.0) for item in left[:k]], "model")


class Explaining(Shop):
    """One that says besides what carried an answer: `reasons` of each item."""

    def __init__(self, *shop, reasons):
        super().__init__(*shop)
        self.reasons = reasons

    def metadata(self):
        """Of a model that explains too."""
        signatures = {"recommend": {}, "recommend_explained": {}}
        return {"metadata": {"signature_def": {"signature_def": signatures}}}

    def recommend(self, query, k):
        answer = super().recommend(query, k)
        if not query.explain:
            return answer
        return dataclasses.replace(answer, reasons=(self.reasons,) * len(answer.items))


@pytest.fixture(scope="module")
def shop_examples(tmp_path_factory):
    """u0 has had all of a, b, c and é, u1 all but é, u2 all but é and c."""
    folder = tmp_path_factory.mktemp("shop")
    rows = [f"u{user},{item}" for user in range(3) for item in "abcé"[: 4 - user]]
    rows += [f"v,{item}" for item in "cba"]
    (folder / "events.csv").write_text("user_id,item_id\n" + "\n".join(rows) + "\n", "utf-8")
    standalone.read_tables(str(folder), output=str(folder / "tables"))
    split = {"name": "ratio", "test_fraction": 0.3, "valid_fraction": 0, "seed": 1}
    standalone.build_examples(str(folder / "tables"), str(folder), schema="generic", split=split)
    return str(folder / "examples")


HAD = {"u0": "abcé", "u1": "abc", "u2": "ab", "v": "abc"}


def ask(shop, examples, monkeypatch):
    monkeypatch.setattr(probes, "_asking", lambda *_: contextlib.nullcontext(shop))
    return probes._recommend({}, examples)


def test_who_has_had_the_whole_catalogue_gets_an_empty_answer(shop_examples, monkeypatch):
    """A small catalogue could not be pushed: required: 1 to 10 items, received 0."""
    # Users of the test split, and three strangers.
    assert ask(Shop("abcé", HAD), shop_examples, monkeypatch) >= 4
    # The model knows three items, since features.min_count leaves é out.
    assert ask(Shop("abc", HAD), shop_examples, monkeypatch) >= 4


def test_a_server_is_asked_what_carried_its_answers(shop_examples, monkeypatch):
    shop = Explaining("abcé", HAD, reasons=Reasons("sum", (("a", 0.5),)))
    assert ask(shop, shop_examples, monkeypatch) >= 4
    for wrong in (Reasons("sum", (("a", float("nan")),)), Reasons("")):
        with pytest.raises(probes.CanaryFailure, match="required: a basis, and finite weights"):
            ask(Explaining("abcé", HAD, reasons=wrong), shop_examples, monkeypatch)


def test_nobody_else_does(shop_examples, monkeypatch):
    asked = [query.user_id.decode() for query in probes.sample_queries(shop_examples)[:-3]]
    silent = next(user for user in asked if user != "u0")
    with pytest.raises(
        probes.CanaryFailure, match=f"{silent}.*required: 1 to 10 items, received 0"
    ):
        ask(Shop("abcé", HAD, silent=(silent,)), shop_examples, monkeypatch)
    # A server that answers nobody with anything.
    with pytest.raises(probes.CanaryFailure, match="the model recommends nothing to anybody"):
        ask(Shop("", HAD), shop_examples, monkeypatch)
