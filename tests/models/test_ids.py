"""Many ids: held as one text, looked up by their hashes, and read from a run as few are."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.contract import tasks
from models.inputs import ids as ids_module
from models.inputs.ids import IdIndex, Ids, bucket_order, held, index_of, lines, pieces
from models.inputs.preprocessing import hashed
from models.inputs.traced import traced
from models.names import registry
from models.names.errors import DataError
from models.training import warm_start
from models.training.loop import TrainingLoop
from tests.models.contract import assert_takes_every_weight, learn
from tests.models.toy import NEW_USER

FOUR = [b"a", b"", b"line\nbreak", b"\xff\x00"]


def test_ids_are_what_was_held():
    ids = Ids.of([FOUR[:1], [], FOUR[1:]])
    assert len(ids) == 4 and list(ids) == FOUR and ids[1] == b"" and ids[-1] == FOUR[3]
    assert np.asarray(ids).tolist() == FOUR and ids[np.array([2, 0])].tolist() == [FOUR[2], b"a"]
    part = ids[1:3]
    assert list(part) == FOUR[1:3] and list(Ids(*part.arrays)) == FOUR[1:3] and not len(ids[3:2])
    with pytest.raises(IndexError):
        ids[4]
    assert tf.nest.flatten([ids]) == [ids]  # what is saved is not searched for variables in it


def test_few_are_a_list_and_many_one_text(monkeypatch, tmp_path):
    monkeypatch.setattr(ids_module, "MANY", 3)
    monkeypatch.setattr(ids_module, "_PIECE", 4)  # in the midst of a line
    (tmp_path / "file").write_bytes(b"one\ntwo\nthree\nfour\n")
    parts = list(lines(str(tmp_path / "file")))
    assert len(parts) > 2 and sum(parts, []) == [b"one", b"two", b"three", b"four"]
    assert held(parts[:2]) == sum(parts[:2], [])
    many = held(parts)
    assert isinstance(many, Ids) and list(many) == sum(parts, [])
    assert sum(map(list, pieces(many)), []) == list(many)


def names(count, first=0):
    return [b"%d" % number for number in range(first, first + count)]


@pytest.fixture(params=["as they are", "in buckets"])
def held_ids(request):
    ids = Ids.of([names(700), names(4300, 700)])
    return ids if request.param == "as they are" else in_buckets(ids)


def in_buckets(ids):
    return ids.take(bucket_order(ids))


def saved_and_loaded(look_up, folder):
    module = tf.Module()
    module.look_up = look_up
    module.ask = traced(look_up.lookup, input_signature=[tf.TensorSpec(None, tf.string)])
    tf.saved_model.save(module, str(folder))
    return tf.saved_model.load(str(folder))


def test_a_look_up_of_many_finds_what_that_of_few_finds(held_ids, monkeypatch, tmp_path):
    few = index_of(held_ids)
    monkeypatch.setattr(ids_module, "MANY", 100)
    many = index_of(held_ids)
    assert isinstance(many, IdIndex) and not isinstance(few, IdIndex)
    everything = tf.constant(list(held_ids))
    assert many.lookup(everything).numpy().tolist() == list(range(2, 5002))
    assert not np.any(many.lookup(tf.constant(names(20_000, 5000))) != 1)
    first, last = held_ids[0], held_ids[4999]
    asked = tf.constant([[first, last], [b"x", b""], [held_ids[75], held_ids[75]]])
    assert many.lookup(asked).numpy().tolist() == [[2, 5001], [1, 1], [77, 77]]
    assert many.lookup(asked[:0]).shape == (0, 2)
    ragged = tf.ragged.constant([[held_ids[1]], [], [b"x", held_ids[2]]])
    assert many.lookup(ragged).to_list() == few.lookup(ragged).to_list() == [[3], [], [1, 4]]
    assert (many.hashes.numpy() == hashed(everything).numpy()).all()

    loaded = saved_and_loaded(many, tmp_path)
    assert (loaded.ask(everything).numpy() == np.arange(2, 5002)).all()
    assert loaded.ask(asked).numpy().tolist() == many.lookup(asked).numpy().tolist()


def test_ids_in_buckets_take_4_bytes_and_a_half_each_and_others_8(held_ids):
    lies_so = list(in_buckets(held_ids)) == list(held_ids)
    assert sorted(in_buckets(held_ids)) == sorted(held_ids)
    taken = sum(variable.numpy().nbytes for variable in IdIndex(held_ids).variables)
    assert taken == (4.5 if lies_so else 8.5) * 5000 + 4


def test_ids_are_taken_in_another_order(monkeypatch):
    monkeypatch.setattr(ids_module, "_TAKEN", 3)
    places = np.array([3, 0, 2, 1, 3, 3, 1])
    assert list(Ids.of([FOUR]).take(places)) == [FOUR[place] for place in places]
    assert list(Ids.of([[b"cut", *FOUR]])[1:].take(places)) == [FOUR[place] for place in places]
    assert not len(Ids.of([FOUR]).take(places[:0]))


def test_others_are_found_behind_those_that_were_there_first(held_ids, tmp_path):
    many = IdIndex(held_ids)
    many.append(np.array(names(50, 9000), object))
    asked = tf.constant([held_ids[7], b"9000", b"9049", b"x"])
    expected = [9, 5002, 5051, 1]
    assert many.lookup(asked).numpy().tolist() == expected
    assert saved_and_loaded(many, tmp_path).ask(asked).numpy().tolist() == expected


def test_where_two_ids_meet_another_salt_is_taken(monkeypatch):
    def of_8_bits(ids):
        return tf.cast(tf.strings.to_hash_bucket_fast(ids, 256), tf.int32)

    monkeypatch.setattr(ids_module, "hashed", of_8_bits)
    salts = set()
    for first in range(0, 1000, 50):  # 1,225 pairs, 6 * 256 hashes: every second set meets
        for ids in (Ids.of([names(50, first)]), in_buckets(Ids.of([names(50, first)]))):
            index = IdIndex(ids)
            assert index.lookup(tf.constant(list(ids))).numpy().tolist() == list(range(2, 52))
            salts.add(index._salt)
    assert len(salts) > 1


def test_an_id_that_is_there_twice_is_refused():
    with pytest.raises(DataError, match="51 ids cannot be told apart: .* none is there twice"):
        IdIndex([*names(50), b"7"])


def test_a_retriever_answers_many_as_few(toy_data, tmp_path, monkeypatch):
    """Users lie in another order, which nobody sees: by id all is what it was."""
    toy = toy_data("event", 0.0).with_newcomers()

    few = toy.load("bpr_mf")
    learnt = learn("bpr_mf", few, None, {"epochs": 1, "batch_size": 128, "factors": 8})
    users = tf.constant([*sorted(few.users.ids), b"nobody"])
    none, k = tf.zeros([len(users), 0], tf.string), tf.fill([len(users)], 7)
    expected = tasks.of("bpr_mf").exporter(learnt, few).recommend(users, none, none, k)
    warm_start.save_weights(learnt, str(tmp_path))

    monkeypatch.setattr(ids_module, "MANY", 6)
    many = toy.load("bpr_mf")
    known = many.users.train_count
    assert isinstance(many.user_table, IdIndex) and list(many.items.ids) == few.items.ids.tolist()
    assert list(many.users.ids[:known]) == list(in_buckets(many.users.ids[:known]))
    assert list(many.users.ids[:known]) != few.users.ids[:known].tolist()
    assert list(many.users.ids[known:]) == few.users.ids[known:].tolist() == [NEW_USER.encode()]
    place = many.user_table.lookup(tf.constant(few.users.ids)).numpy() - 2
    assert [many.users.ids[each] for each in place.tolist()] == few.users.ids.tolist()
    for name, table in few.users.features.items():
        assert (table[2:].numpy() == tf.gather(many.users.features[name][2:], place).numpy()).all()
    of_many = tf.gather(many.user_history[2:], place).to_list()
    assert of_many == few.user_history[2:].to_list()
    np.testing.assert_array_equal(many.item_counts, few.item_counts)
    count = np.bincount(few.events.user, minlength=few.users.index_count)[2:]
    other = np.bincount(many.events.user, minlength=few.users.index_count)[2:]
    np.testing.assert_array_equal(other[place], count)

    model = registry.load("bpr_mf").Model(learnt.hyper_parameters, many)
    TrainingLoop(model.hyper_parameters, many).build(model)
    assert warm_start.load_weights(model, str(tmp_path))["complete"]
    tasks.of("bpr_mf").exporter(model, many).export(str(tmp_path / "many"))
    served = tf.saved_model.load(str(tmp_path / "many")).signatures["recommend"]
    received = served(user_id=users, history=none, exclude=none, k=k)
    for name, values in expected.items():
        if values.dtype == tf.float32:
            np.testing.assert_allclose(received[name], values, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(received[name], values, err_msg=name)
    again = learn("bpr_mf", many, None, {"epochs": 1, "batch_size": 128, "factors": 8})
    assert_takes_every_weight(SimpleNamespace(model=again, data=many), str(tmp_path))
