"""DeepCoNN: the contract, its documents, the convolution and the factorization machine."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.cnn.deepconn import FactorizationMachine, HyperParameters
from models.cnn.layers import MaxOverTime, WordEmbedding, count_words, encode_distinct
from models.inputs.data import TrainingData
from models.inputs.documents import Documents
from models.names.errors import ConfigError, DataError
from models.training.trainer import resolve
from tests.models.score_contract import RATING, ScoreContract

TOY = {
    "epochs": 12,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "word_dimension": 16,
    "kernels": 24,
    "units": 12,
    "dropout": 0.1,
}
TOY |= {"length_quantile": 0.85, "longest": 60}


class TestDeepCoNN(ScoreContract):
    name = "deepconn"
    hyper_parameters = TOY
    label = RATING

    def test_documents_of_a_pair_lack_its_own_review(self, trained):
        data = trained.data
        log, words = (
            data.events,
            {entity: data.documents(entity, 1000) for entity in ("user", "item")},
        )
        for row in (0, 500, len(log) - 1):
            user, item = log.user[row : row + 1], log.item[row : row + 1]
            for entity, owner, partner in (("user", user, item), ("item", item, user)):
                documents = words[entity]
                kept = tf.RaggedTensor.from_tensor(
                    documents.without(owner, partner, 2000), padding=0
                )[0]
                # A toy review has 5 words, and a pair one review; all other words of the document
                # are there, in their order.
                from_pair = documents.partners[owner[0]].numpy() == partner[0]
                assert from_pair.sum() == 5
                assert (
                    kept.numpy().tolist() == documents.words[owner[0]].numpy()[~from_pair].tolist()
                )

    def test_documents_hold_the_words_of_train(self, trained):
        data, log = trained.data, trained.data.events
        for entity, index in (("user", log.user), ("item", log.item)):
            lengths = data.documents(entity, 1000).lengths
            np.testing.assert_array_equal(lengths, 5 * np.bincount(index, minlength=len(lengths)))

    def test_a_request_may_bring_a_document(self, trained):
        model, data = trained.model, trained.data
        rows = {
            name: tf.convert_to_tensor(value)
            for name, value in data.parse(tf.constant(trained.test[:8], tf.string))[0].items()
        }
        network = model.user_network
        brought = {
            **rows,
            "user_document": network.words(rows["user_document"], rows["user_id"], rows["item_id"]),
        }
        # The very words of train brought along, by the user and by one that nobody knows.
        np.testing.assert_allclose(model.score_rows(brought), model.score_rows(rows), atol=1e-5)
        stranger = {**brought, "user_id": tf.ones_like(rows["user_id"])}
        np.testing.assert_allclose(model.score_rows(stranger), model.score_rows(rows), atol=1e-5)
        other = {**rows, "user_document": tf.fill([8, 3], 2)}
        assert np.abs(model.score_rows(other) - model.score_rows(rows)).max() > 1e-3

    def test_raw_text_is_a_document(self, trained):
        answer = trained.signatures["score"]
        base = {
            name: tf.constant([b""] * 3)
            for name in ("user_id", "item_id", "user_document", "item_document")
        }
        mild, strict = (
            "mild bluish thought, poor blue! Mild bluish say, fine red!",
            "Strict bluish say, poor blue! Strict bluish say, fine red!",
        )
        raw = {
            **base,
            "user_document": tf.constant([mild, strict, ""]),
            "item_id": tf.constant(["item 2 é"] * 3),
        }
        score = answer(**raw)["score"].numpy()
        # A plain red item: the toy's mild users of the other block give 3, its strict ones 1.
        assert 1.0 < score[0] - score[1] < 3.0, score
        assert answer(**raw)["strategy"].numpy().tolist() == [b"cold"] * 3


def test_documents_without_the_reviews_of_a_pair():
    # User 2 has three reviews: of item 5 (words 7 8), of item 6 (word 9), of item 5 again (words 3
    # 1); user 3 none.
    documents = Documents(
        tf.ragged.constant([[], [], [7, 8, 9, 3, 1], []], tf.int32),
        tf.ragged.constant([[], [], [5, 5, 6, 5, 5], []], tf.int32),
    )
    words = documents.without(tf.constant([2, 2, 2, 3, 1]), tf.constant([5, 6, 4, 5, 5]), 4)
    assert words.numpy().tolist() == [[9, 0, 0, 0], [7, 8, 3, 1], [7, 8, 9, 3], [0] * 4, [0] * 4]


def test_documents_need_reviews():
    with pytest.raises(DataError, match="required: a column 'review' of the table events"):
        TrainingData.documents(SimpleNamespace(_raw_spec={}), "user", 5)


def test_ids_cannot_be_forgotten():
    with pytest.raises(ConfigError, match="deepconn has no use for 'unknown_rate'"):
        resolve("deepconn", {"unknown_rate": 0.1})


def test_maximum_over_time_by_hand():
    # One kernel over windows of 2 vectors of 1: first minus second, bias 0.5. Words 3, 1, 4:
    # windows 3 - 1 + .5 = 2.5, 1 - 4 + .5 < 0. Of one word, 4, filled up with zero: 4 - 0 + .5 =
    # 4.5. Of -1: ReLU(-.5) = 0. Of none: 0, though the bias alone would give 0.5.
    layer = MaxOverTime(
        1,
        2,
        kernel_initializer=lambda shape, dtype=None: tf.reshape([1.0, -1.0], shape),
        bias_initializer=tf.keras.initializers.Constant(0.5),
    )
    vectors = tf.constant([[3.0, 1.0, 4.0], [4.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])[
        ..., tf.newaxis
    ]
    pooled = layer(vectors, tf.constant([3, 1, 1, 0]))
    np.testing.assert_allclose(pooled[:, 0], [2.5, 4.5, 0.0, 0.0], atol=1e-6)


def test_padding_changes_nothing():
    embedding = WordEmbedding([b"a", b"b", b"c"], 4, "uniform")
    layer = MaxOverTime(6, 3, bias_initializer=tf.keras.initializers.Constant(1.0))
    words = tf.constant([[2, 3, 4, 1], [4, 0, 0, 0], [0, 0, 0, 0]])
    longer = tf.pad(words, [[0, 0], [0, 9]])
    short, long = (layer(embedding(each), count_words(each)).numpy() for each in (words, longer))
    np.testing.assert_allclose(short, long, atol=1e-6)
    assert (short[2] == 0).all() and (short[0] > 0).any()


def test_distinct_documents_are_encoded_once_and_in_place():
    seen = []

    def encode(words):
        tf.py_function(lambda rows: seen.append(rows.numpy()), [words], [])
        return tf.cast(words, tf.float32) * 2.0

    words = tf.constant(np.random.default_rng(0).integers(0, 4, [500, 3]), tf.int32)
    np.testing.assert_allclose(encode_distinct(encode, words, 3), words * 2)
    # 4^3 = 64 distinct documents at most, 64 at once.
    assert len(seen) == 1 and len(np.unique(seen[0], axis=0)) == len(seen[0]) == 64
    many = tf.reshape(tf.range(600), [200, 3])
    np.testing.assert_allclose(encode_distinct(encode, many, 3), many * 2)
    assert len(seen) == 1 + 4  # 200 documents by 64
    assert encode_distinct(encode, many[:0], 3).shape == (0, 3)


def test_golden_vector_of_the_factorization_machine():
    # The sheet's: w0 .1, w [.1, -.2, .3, .4], V [[1, 0], [.5, -.5], [2, 1], [0, 1]], z [1, 2, 0, 3]
    # -> -1.0.
    machine = FactorizationMachine(4, HyperParameters(factors=2), 0.1)
    machine.linear.assign([0.1, -0.2, 0.3, 0.4])
    machine.factors.assign([[1, 0], [0.5, -0.5], [2, 1], [0, 1]])
    np.testing.assert_allclose(machine(tf.constant([[1.0, 2.0, 0.0, 3.0]])), [-1.0], atol=1e-6)


def test_vectors_of_a_file_are_taken(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("3 2\nb 1.5 -2\nnobody 9 9\na 4 5\n")
    embedding = WordEmbedding(
        [b"a", b"b", b"c"], 2, tf.keras.initializers.Constant(7.0), str(path), scale=0.5
    )
    embedding.build(None)
    np.testing.assert_allclose(embedding.embeddings, [[0, 0], [0, 0], [2, 2.5], [0.75, -1], [7, 7]])
    for text, message in (
        ("a 1 2 3\n", "line 1: required: a word and 2 numbers; received 3"),
        ("x 1 2\n", "none of the 3 words"),
        ("a b c\n", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            WordEmbedding([b"a", b"b", b"c"], 2, "uniform", str(path))
    with pytest.raises(DataError, match="cannot be read as word vectors"):
        WordEmbedding([b"a"], 2, "uniform", str(tmp_path / "missing"))
