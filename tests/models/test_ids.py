"""Many ids: held as one text, looked up by their keys, and read from a run as few are."""

import numpy as np
import pytest
import tensorflow as tf

from models.inputs import ids as ids_module
from models.inputs.ids import IdIndex, Ids, held, index_of, lines, pieces

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


def test_a_look_up_of_many_finds_what_that_of_few_finds(monkeypatch):
    names = [b"%d" % number for number in range(500)]
    few = index_of(names)
    monkeypatch.setattr(ids_module, "MANY", 100)
    many = index_of(Ids.of([names[:200], names[200:]]))
    assert isinstance(many, IdIndex) and not isinstance(few, IdIndex)
    asked = tf.constant([[b"0", b"499"], [b"500", b""], [b"77", b"77"]])
    assert many.lookup(asked).numpy().tolist() == [[2, 501], [1, 1], [79, 79]]
    ragged = tf.ragged.constant([[b"3"], [], [b"x", b"4"]])
    assert many.lookup(ragged).to_list() == few.lookup(ragged).to_list() == [[5], [], [1, 6]]


def test_ids_of_which_two_have_one_key_are_looked_up_in_a_table(monkeypatch):
    monkeypatch.setattr(ids_module, "MANY", 1)
    monkeypatch.setattr(ids_module, "_KEYS", 2)  # three ids cannot have keys of their own
    table = index_of([b"a", b"b", b"c"])
    assert table.lookup(tf.constant([b"c", b"d"])).numpy().tolist() == [4, 1]
