"""`recsys export vectors`: what is written is what the pushed model multiplies."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from models.names.errors import ConfigError, RecsysError
from pipeline import batch, lineage, vectors

pytestmark = pytest.mark.usefixtures("loaded_once")


def test_vectors_and_towers_are_those_of_the_pushed_model(toy_run, tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "_AT_ONCE", 7)  # so that there are several batches
    said = []
    # Other tests may have pushed since, into the same folder of runs.
    run = next(one for one in lineage.load_runs(toy_run.copy) if one.pushed_path).run_id
    counts = vectors.run(str(tmp_path / "to"), run, str(toy_run.copy), said.append)
    model = tf.saved_model.load(batch.pushed(run, str(toy_run.copy)).pushed_path)
    found = {}
    for entity in ("item", "user"):
        table = pq.read_table(tmp_path / "to" / f"{entity}s.parquet")
        ids = np.load(tmp_path / "to" / f"{entity}_ids.npy")
        found[entity] = ids, np.load(tmp_path / "to" / f"{entity}s.npy")
        assert table[f"{entity}_id"].to_pylist() == ids.tolist()
        np.testing.assert_array_equal(np.array(table["vector"].to_pylist()), found[entity][1])
        assert len(set(ids)) == len(ids) == counts[f"{entity}s"] > 14
        assert any(f"{len(ids):,} vectors of {entity}s" in line for line in said)
    # A score of `retrieve`, which searches by what `embed` gives, is the product of the two.
    (items, of_items), (users, of_users) = found["item"], found["user"]
    asked = {"user_id": tf.constant(users[:3]), "history": tf.zeros([3, 0], tf.string)}
    embedding = model.signatures["embed"](**asked)["embedding"]
    np.testing.assert_allclose(embedding, of_users[:3], atol=1e-6)
    answer = model.signatures["retrieve"](embedding=embedding, k=tf.constant(5))
    place = {item: row for row, item in enumerate(items)}
    for row in range(3):
        best = [place[item.decode()] for item in answer["item_id"][row].numpy()]
        np.testing.assert_allclose(of_items[best] @ of_users[row], answer["score"][row], rtol=1e-4)
    # The towers answer alone, and hold no more than they read.
    towers = {
        name: tf.saved_model.load(str(tmp_path / "to" / name / "1")) for name in vectors._TOWERS
    }
    alone = towers["user_tower"].signatures["embed"](**asked)["embedding"]
    np.testing.assert_array_equal(alone, embedding)
    alone = towers["item_tower"].signatures["item_vectors"](
        item_id=tf.constant([items[2], "no such item"])
    )
    np.testing.assert_allclose(alone["embedding"][0], of_items[2], atol=1e-6)
    assert (
        alone["known"].numpy().tolist() == [True, False] and not alone["embedding"][1].numpy().any()
    )
    with pytest.raises(ConfigError, match="--to: required: a new or an empty folder"):
        vectors.run(str(tmp_path / "to"), "latest", str(toy_run.copy))


def test_a_model_without_vectors_is_refused_by_what_it_answers(toy_run, tmp_path, monkeypatch):
    class Fake:
        signatures = {"recommend": None}

    monkeypatch.setattr(vectors.servable, "load", lambda _: Fake)
    with pytest.raises(RecsysError, match="has no vectors: it answers recommend; required"):
        vectors.run(str(tmp_path / "to"), "latest", str(toy_run.copy))
