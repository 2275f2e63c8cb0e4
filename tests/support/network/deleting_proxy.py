"""Deletes records before a broker that does not: answers that one request itself, and hides what
was deleted from those that read.

    request   length i32 | api i16 | version i16 | correlation i32 | client string | …
    response  length i32 | correlation i32 | …

Brokers are told to speak the last versions without compact fields, in which answers can be changed
in place.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.network.brokers import NAMED_BROKER, broker
from tests.support.network.ports import free_port

_FETCH, _LIST_OFFSETS, _API_VERSIONS, _DELETE_RECORDS = 1, 2, 18, 21
_VERSION_MAX_BY_API = {_FETCH: 11, _LIST_OFFSETS: 5, _DELETE_RECORDS: 1}
_OUT_OF_RANGE = 1
_EARLIEST = -2

LowOffsets = dict[tuple[str, int], int]


class _Fields:
    """Reads fields one after another, and can write over the one that comes next."""

    def __init__(self, data: bytes | bytearray, offset: int = 0) -> None:
        self.data, self.offset = data, offset

    def take(self, format_: str) -> int:
        (value,) = struct.unpack_from(f">{format_}", self.data, self.offset)
        self.offset += struct.calcsize(f">{format_}")
        return value

    def put(self, format_: str, value: int) -> None:
        struct.pack_into(f">{format_}", self.data, self.offset, value)  # type: ignore[arg-type]

    def text(self) -> str:
        length = self.take("h")
        self.offset += max(0, length)
        return bytes(self.data[self.offset - max(0, length) : self.offset]).decode()

    def skip(self, count: int) -> None:
        self.offset += count


@contextmanager
def deleting_broker(folder: Path) -> Iterator[str]:
    """The address of a broker that deletes records: one that is named does by itself."""
    if NAMED_BROKER:
        yield NAMED_BROKER
        return
    listener = socket.create_server(("127.0.0.1", free_port()))
    port = listener.getsockname()[1]
    with broker(folder, advertised_port=port) as servers:
        loop = asyncio.new_event_loop()
        proxy = _Proxy(int(servers.rpartition(":")[2]))
        server = loop.run_until_complete(asyncio.start_server(proxy.serve, sock=listener))
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            asyncio.run_coroutine_threadsafe(_end(server), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Proxy:
    def __init__(self, target: int) -> None:
        self._target = target
        self._low_offsets: LowOffsets = {}

    async def serve(
        self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter
    ) -> None:
        # Asyncio does so where a socket names its protocol; without, the second of two answers
        # waits 40 ms for the first to be confirmed.
        client_writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self._target)
            pending: dict[int, tuple[int, int, object]] = {}
            answer_task = asyncio.ensure_future(self._answer(broker_reader, client_writer, pending))
            try:
                while True:
                    request = await _read_frame(client_reader)
                    fields = _Fields(request)
                    api, version, correlation = fields.take("h"), fields.take("h"), fields.take("i")
                    if api == _DELETE_RECORDS:
                        _send(client_writer, self._delete(fields, correlation))
                        continue
                    partitions: object = None
                    if api in (_FETCH, _LIST_OFFSETS):
                        fields.text()
                        partitions = (
                            _read_fetch_offsets(fields)
                            if api == _FETCH
                            else _read_earliest_partitions(fields, version)
                        )
                    pending[correlation] = api, version, partitions
                    _send(broker_writer, request)
            finally:
                answer_task.cancel()
                broker_writer.close()
                client_writer.close()

    async def _answer(
        self,
        broker_reader: asyncio.StreamReader,
        client_writer: asyncio.StreamWriter,
        pending: dict[int, tuple[int, int, object]],
    ) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = bytearray(await _read_frame(broker_reader))
                fields = _Fields(frame)
                api, version, partitions = pending.pop(fields.take("i"), (-1, 0, None))
                if api == _API_VERSIONS:
                    _limit_versions(fields, version)
                elif api == _LIST_OFFSETS:
                    self._raise_earliest(fields, version, partitions)
                elif api == _FETCH:
                    self._refuse_deleted(fields, partitions)
                _send(client_writer, bytes(frame))
        client_writer.close()

    def _delete(self, fields: _Fields, correlation: int) -> bytes:
        fields.text()
        response = struct.pack(">ii", correlation, 0)
        topic_count = fields.take("i")
        response += struct.pack(">i", topic_count)
        for _ in range(topic_count):
            name = fields.text()
            partition_count = fields.take("i")
            response += (
                struct.pack(">h", len(name)) + name.encode() + struct.pack(">i", partition_count)
            )
            for _ in range(partition_count):
                partition, offset = fields.take("i"), fields.take("q")
                low_offset = self._low_offsets[name, partition] = max(
                    offset, self._low_offsets.get((name, partition), 0)
                )
                response += struct.pack(">iqh", partition, low_offset, 0)
        return response

    def _raise_earliest(self, fields: _Fields, version: int, partitions: object) -> None:
        assert isinstance(partitions, set)
        if version >= 2:
            fields.skip(4)
        for _ in range(fields.take("i")):
            name = fields.text()
            for _ in range(fields.take("i")):
                partition = fields.take("i")
                fields.skip(2 + 8)
                low_offset = self._low_offsets.get((name, partition), 0)
                if (name, partition) in partitions and _Fields(fields.data, fields.offset).take(
                    "q"
                ) < low_offset:
                    fields.put("q", low_offset)
                fields.skip(8 + (4 if version >= 4 else 0))

    def _refuse_deleted(self, fields: _Fields, partitions: object) -> None:
        assert isinstance(partitions, dict)
        fields.skip(4 + 2 + 4)
        for _ in range(fields.take("i")):
            name = fields.text()
            for _ in range(fields.take("i")):
                partition = fields.take("i")
                if partitions.get((name, partition), 1 << 60) < self._low_offsets.get(
                    (name, partition), 0
                ):
                    fields.put("h", _OUT_OF_RANGE)
                fields.skip(2 + 8 + 8 + 8)
                fields.skip(16 * max(0, fields.take("i")) + 4)
                fields.skip(max(0, fields.take("i")))


def _read_fetch_offsets(fields: _Fields) -> dict[tuple[str, int], int]:
    """From which offset each partition is read."""
    fields.skip(4 * 4 + 1 + 8)
    offsets: dict[tuple[str, int], int] = {}
    for _ in range(fields.take("i")):
        name = fields.text()
        for _ in range(fields.take("i")):
            partition = fields.take("i")
            fields.skip(4)
            offsets[name, partition] = fields.take("q")
            fields.skip(8 + 4)
    return offsets


def _read_earliest_partitions(fields: _Fields, version: int) -> set[tuple[str, int]]:
    """Of which partitions the beginning is asked for."""
    fields.skip(4 + (1 if version >= 2 else 0))
    partitions: set[tuple[str, int]] = set()
    for _ in range(fields.take("i")):
        name = fields.text()
        for _ in range(fields.take("i")):
            partition = fields.take("i")
            fields.skip(4 if version >= 4 else 0)
            if fields.take("q") == _EARLIEST:
                partitions.add((name, partition))
    return partitions


def _limit_versions(fields: _Fields, version: int) -> None:
    """Let the client choose versions that are read here; of a compact array each entry is followed
    by a byte for tags.
    """
    if fields.take("h"):
        return
    is_compact = version >= 3
    count = fields.take("b") - 1 if is_compact else fields.take("i")
    if is_compact and count < -1:  # a length of two bytes
        count = (count + 1 & 0x7F | fields.take("b") << 7) - 1
    for _ in range(count):
        api = fields.take("h")
        fields.skip(2)
        if api in _VERSION_MAX_BY_API:
            fields.put(
                "h", min(_VERSION_MAX_BY_API[api], _Fields(fields.data, fields.offset).take("h"))
            )
        fields.skip(2 + is_compact)


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    (length,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(length)


def _send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(struct.pack(">i", len(frame)) + frame)
