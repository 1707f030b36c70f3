"""TFRecord: written and read without TensorFlow, as TensorFlow writes and reads it."""

from __future__ import annotations

import gzip
import io
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from serving.server.metrics import Metrics
from serving.server.warmup import FILE, warm_up
from serving.wire.errors import ServingError
from serving.wire.records import DamagedRecords, frame, read_records, write_records

RECORDS = [b"first", b"", b"x" * (3 << 20), *(b"%d" % number for number in range(1000))]
# Frames of 16 bytes and a record of 5 or 6: the second begins at byte 21, the file has 43 bytes.
TWO = [b"first", b"second"]


def plain(records: list[bytes], packed: bool = False) -> bytes:
    file = io.BytesIO()
    assert write_records(records, file, packed) == len(records)
    return file.getvalue()


def test_a_frame_by_hand():
    # The CRC-32C of "123456789" is e3069283 (its check value in RFC 3720's family of CRCs). Rotated
    # right by 15 bits it is 2507c60d; plus a282ead8, modulo 2^32, c78ab0e5. Little-endian.
    framed = frame(b"123456789")
    assert framed[:8] == b"\x09\0\0\0\0\0\0\0"
    assert framed[12:] == b"123456789" + bytes.fromhex("e5b08ac7")


@pytest.mark.parametrize("packed", [False, True])
def test_tensorflow_reads_and_writes_the_same(tmp_path, packed):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    compression = "GZIP" if packed else ""
    with open(ours, "wb") as file:
        assert write_records(iter(RECORDS), file, packed) == 1003
    found = tf.data.TFRecordDataset(str(ours), compression).as_numpy_iterator()
    assert list(found) == RECORDS
    with tf.io.TFRecordWriter(str(theirs), compression) as writer:
        for record in RECORDS:
            writer.write(record)
    # Unbuffered, a file gives what it likes.
    with open(theirs, "rb", buffering=0) as file:
        assert list(read_records(file, packed)) == RECORDS


def test_no_record_is_a_file_too():
    assert plain([]) == b"" and list(read_records(io.BytesIO(b""))) == []
    assert list(read_records(io.BytesIO(plain([], packed=True)), packed=True)) == []


@pytest.mark.parametrize(
    "damage, good, truncated, text",
    [
        (lambda data: data[:-3], 1, True, "ends in the middle of a record at byte 21"),
        (lambda data: data[:25], 1, True, "ends in the middle of a record at byte 21"),
        (lambda data: data + b"xy", 2, True, "ends in the middle of a record at byte 43"),
        (
            lambda data: data[:-6] + bytes([data[-6] ^ 1]) + data[-5:],
            1,
            False,
            "the record at byte 21 has a wrong checksum",
        ),
        # A length of 2^62 and more.
        (lambda data: data[:28] + b"\x40" + data[29:], 1, False, "no record begins at byte 21"),
        (lambda data: b"this is a text and no log", 0, False, "no record begins at byte 0"),
    ],
    ids=["record", "header", "more", "checksum", "length", "text"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damage_is_told_after_the_good_records(damage, good, truncated, text, packed):
    data, found = damage(plain(TWO)), []
    file = io.BytesIO(gzip.compress(data) if packed else data)
    with pytest.raises(DamagedRecords, match=text) as raised:
        found.extend(read_records(file, packed))
    assert found == TWO[:good] and raised.value.truncated == truncated
    assert raised.value.offset == (0, 21, 43)[good]


def test_what_gzip_notices_is_damage():
    # Random bytes: gzip stores them as they are, a piece of the file for a piece of the records.
    random = np.random.default_rng(1)
    records = [random.bytes(99) for _ in range(2000)]
    data = plain(records, packed=True)
    for damaged, text, least in (
        (data[: len(data) // 2], "ends in the middle", 500),  # what came before the cut is there
        (data[:-4] + b"\0\0\0\0", "gzip stream is damaged", 2000),  # the length at its end
        (b"PK" + data, "gzip stream is damaged before byte 0", 0),
    ):
        found = []
        with pytest.raises(DamagedRecords, match=text):
            found.extend(read_records(io.BytesIO(damaged), packed=True))
        assert found == records[: len(found)] and len(found) >= least


def test_checksums_of_records_may_be_left_to_gzip():
    data = plain(TWO)
    wrong = data[:-5] + b"t" + data[-4:]
    assert list(read_records(io.BytesIO(wrong), check=False)) == [b"first", b"secont"]


def test_a_damaged_file_of_warm_up_requests_refuses_the_version(tmp_path):
    path = tmp_path / FILE
    path.parent.mkdir(parents=True)
    servable = SimpleNamespace(path=str(tmp_path))
    for data, text in (
        (b"this is a text and no record", "DATA_LOSS: corrupted record at 0: "),
        (plain([b""])[:-1], "DATA_LOSS: truncated record at 0: "),
    ):
        path.write_bytes(data)
        with pytest.raises(ServingError, match=text + ".*verify your warmup data is in TFRecord"):
            warm_up(servable, 1, Metrics())


class Full(io.RawIOBase):
    """A disk without room."""

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        raise OSError("no space left")


@pytest.mark.parametrize("count", [1, 40], ids=["at the end", "between pieces"])
def test_what_could_not_be_packed_and_written_is_told(count):
    random = np.random.RandomState(0).bytes(1 << 20)
    with pytest.raises(OSError, match="no space left"):
        write_records((random for _ in range(count)), Full(), packed=True)
