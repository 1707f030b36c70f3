"""`rank`, the second of two stages, against `score`: equal for whatever the tables describe."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from models.autoencoder.autorec import AutoRec
from models.contract.score import ScoreModel
from models.contract.score_task import ScoreTask
from models.contract.scorer import Scorer
from models.feature_interaction.fm import FactorizationMachine
from models.names.features import DOCUMENTS, TEXT, Feature
from models.names.label import Label

NEW_ITEM = {"item_id": "new item", "item_title": "The red one", "item_genres": "Drama Film"}
NEW_USER = {"user_id": "new user", "user_gender": "M", "user_occupation": "job 1"}


@pytest.fixture(scope="module")
def scorer(toy_data, tmp_path_factory):
    """A machine of random factors; the tables describe an item and a user that train has not."""
    toy = toy_data("event", 0.0, Label(column="rating"))
    splits = dict(toy.splits)
    for name, row in (("items", NEW_ITEM), ("users", NEW_USER)):
        folder = tmp_path_factory.mktemp(name)
        for path in tf.io.gfile.glob(splits[name]):
            shutil.copy(path, folder)
        with tf.io.TFRecordWriter(str(folder / "new"), "GZIP") as file:
            file.write(example(row))
        splits[name] = str(folder / "*")
    data = ScoreTask(Label(column="rating")).load(
        FactorizationMachine, toy.graph, toy.schema, splits
    )
    tf.keras.utils.set_random_seed(1)
    model = FactorizationMachine(FactorizationMachine.HyperParameters(stddev=1.0), data)
    model.label_range = (-1e9, 1e9)
    return Scorer(model, data)


def example(row):
    def feature(name, value):
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        words = value.split() if name == "item_genres" else [value]
        return tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[word.encode() for word in words])
        )

    features = {name: feature(name, value) for name, value in row.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def test_features_are_read_and_documents_are_not_unasked():
    assert not any(ScoreModel.reads(document) for document in DOCUMENTS)
    assert ScoreModel.reads(Feature("item_plot", "item", TEXT))
    assert not AutoRec.reads(Feature("item_plot", "item", TEXT))


def test_cold_items_and_users_rank_by_their_features(scorer):
    known_user = {
        "user_id": "user 1",
        "user_age": 21,
        "user_gender": "M",
        "user_occupation": "job 1",
    }
    known_item = {
        "item_id": "item 1 é",
        "item_title": "The blue one",
        "item_year": 1981,
        "item_genres": "Comedy Film",
    }
    nothing = {"item_id": "no such item"}
    users, items = [known_user, NEW_USER, {"user_id": "nobody"}], [known_item, NEW_ITEM, nothing]
    rank = scorer.rank(
        tf.constant([user["user_id"] for user in users]),
        tf.constant([[item["item_id"] for item in items]] * 3),
    )
    rows = [example({**user, **item}) for user in users for item in items]
    score = scorer.score_examples(tf.constant(rows))["score"].numpy().reshape(3, 3)
    np.testing.assert_allclose(rank["score"], score, rtol=1e-5)
    assert len(np.unique(score.round(4))) == 9
    assert rank["known"].numpy().tolist() == [True, False, False]
