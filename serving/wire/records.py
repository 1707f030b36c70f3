"""TFRecord, TensorFlow's file format: byte strings one after the other, each with its checksums.

    length     uint64, little-endian
    checksum   of the eight bytes of the length
    record     as many bytes as the length says
    checksum   of the record

A checksum is a CRC-32C as uint32, "masked": rotated right by 15 bits, and a constant added. A file
holds nothing else; it is plain, or packed by gzip as a whole. No TensorFlow is needed here.
"""

from __future__ import annotations

import functools
import gzip
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, cast

import google_crc32c

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER = struct.Struct("<QI")
_BUFFER = 1 << 20  # bytes read, or written to a plain file, at a time
_PACKED = 1 << 24  # bytes given to gzip at a time; fewer are made before it has the lock


class DamagedRecords(Exception):
    """A file of records that ends in the middle of one, or holds what was never written.

    Attributes:
        offset: where the damaged record begins, in bytes of the unpacked file.
        truncated: the file ends too early; else its bytes are wrong.
    """

    def __init__(self, message: str, offset: int, truncated: bool):
        super().__init__(message)
        self.offset = offset
        self.truncated = truncated


def frame(record: bytes) -> bytes:
    """One record as it stands in a plain file."""
    return b"".join((_header(len(record)), record, _CHECKSUM.pack(_masked(record))))


@functools.lru_cache(1 << 12)
def _header(size: int) -> bytes:
    """What stands before a record of so many bytes; the records of a file are of few sizes."""
    length = _LENGTH.pack(size)
    return length + _CHECKSUM.pack(_masked(length))


def write_records(records: Iterable[bytes], file: BinaryIO, packed: bool = False) -> int:
    """Writes records to an open file.

    Args:
        records: serialized messages.
        file: written from where it stands, and not closed.
        packed: as one gzip stream. Equal records give equal bytes: no time and no name is inside.

    Returns:
        How many records there were.
    """
    if packed:
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=3, mtime=0) as inner:
            with _Beside(inner) as beside:
                return _write(records, beside.write, _PACKED)
    return _write(records, file.write, _BUFFER)


def _write(records: Iterable[bytes], write: Callable[[bytearray], object], at_once: int) -> int:
    count, buffer = 0, bytearray()
    for record in records:
        buffer += frame(record)
        count += 1
        if len(buffer) > at_once:
            write(buffer)
            buffer = bytearray()
    write(buffer)
    return count


class _Beside:
    """A file that is written in a thread of its own, a piece at a time.

    gzip lets go of the interpreter's lock, so records are made while those before are packed.
    """

    def __init__(self, file: gzip.GzipFile):
        self._file = file
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[int] | None = None

    def __enter__(self) -> _Beside:
        return self

    def write(self, data: bytearray) -> None:
        """Has bytes written, once those before are; raises what came of those."""
        if self._written:
            self._written.result()
        self._written = self._thread.submit(self._file.write, data)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if self._written and kind is None:
            self._written.result()


def read_records(file: BinaryIO, packed: bool = False, check: bool = True) -> Iterator[bytes]:
    """Yields the records of an open file, one by one.

    Args:
        file: read from where it stands, and not closed.
        packed: the file is a gzip stream.
        check: compare the checksum of each record. Where it is left out, gzip's own, at the end of
            the stream, tells damage. Lengths are compared with their checksums always: a wrong one
            could ask for any amount of memory.

    Raises:
        DamagedRecords: after the last good record before the damage.
    """
    if packed:
        file = cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))
    # A piece at a time: two calls of a gzip file for each record cost more than all the rest. Of a
    # damaged stream `read1` gives what is good, where `read` would raise without it.
    read = getattr(file, "read1", file.read)
    buffer, begin, offset = b"", 0, 0
    try:
        while True:
            payload = begin + _HEADER.size
            if len(buffer) < payload:
                buffer, begin, payload = _more(read, buffer[begin:], _HEADER.size), 0, _HEADER.size
                if not buffer:
                    return
            length, checksum = _HEADER.unpack_from(buffer, begin)
            if _masked(buffer[begin : begin + _LENGTH.size]) != checksum:
                raise DamagedRecords(f"no record begins at byte {offset}", offset, False)
            end = payload + length
            if len(buffer) < end + _CHECKSUM.size:
                size = _HEADER.size + length + _CHECKSUM.size
                buffer, begin = _more(read, buffer[begin:], size), 0
                payload, end = _HEADER.size, _HEADER.size + length
            record = buffer[payload:end]
            if check and _masked(record) != _CHECKSUM.unpack_from(buffer, end)[0]:
                raise DamagedRecords(
                    f"the record at byte {offset} has a wrong checksum", offset, False
                )
            yield record
            offset += end + _CHECKSUM.size - begin
            begin = end + _CHECKSUM.size
    except EOFError:
        raise DamagedRecords(
            f"it ends in the middle of a record at byte {offset}", offset, True
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DamagedRecords(
            f"its gzip stream is damaged before byte {offset}: {error}", offset, False
        ) from error


def _more(read: Callable[[int], bytes], rest: bytes, needed: int) -> bytes:
    """The rest of a piece and what follows it in the file.

    Returns:
        At least `needed` bytes; none where both the rest and the file are at their end.

    Raises:
        EOFError: the file ends before that.
    """
    pieces, size = [rest], len(rest)
    while size < needed:
        piece = read(_BUFFER)
        if not piece:
            if size:
                raise EOFError
            return b""
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _masked(data: bytes) -> int:
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
