"""Writes answers as records to all sinks, in a separate thread: a slow sink delays no device."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from cloud_server.engine import Done
from cloud_server.open_requests import OpenRequest
from cloud_server.sinks.sink import Sink, SinkTable
from split_model.answers.lines import shortened
from split_model.answers.reader import AnswerReader
from split_model.arrays import Array
from split_model.bundle import Bundle
from split_model.errors import OutputError, SplitModelError
from split_model.privacy.codebook import codeword_bytes
from split_model.protocol import messages as wire
from split_model.service.stoppable_thread import StoppableThread
from split_model.service.throttle import PER_FRAME

_log = logging.getLogger(__name__)

#: Maximum answers that wait for the thread, and their bytes; more are lost, and counted.
_MOST_WAITING = 4096
_MOST_BYTES = 64 << 20
_LOOK_AGAIN_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One answer that is sent to its device.

    Attributes:
        device: The device's name.
        bundle: The bundle of the tail.
        request: The device's request.
        codewords: The payload of a codebook release, else empty.
        tensors: Dtypes and shapes of the outputs.
        payload: The concatenated outputs.
        tail_s: How long the tail ran.
        unix_s: When it was answered.

    """

    device: str
    bundle: Bundle
    request: wire.Request
    codewords: bytes
    tensors: tuple[wire.AnswerTensor, ...]
    payload: bytes
    tail_s: float
    unix_s: float


class AnswerSinks:
    """Gives every answer to every sink.

    Attributes:
        lost: Answers that found no room while the thread was busy.
        written: Number of records taken, by sink.
        failed: Number of records that could not be taken, by sink.

    """

    def __init__(self, sinks: Mapping[str, Sink], *, wall_clock: Callable[[], float] = time.time) -> None:
        self.lost = 0
        self.written = dict.fromkeys(sinks, 0)
        self.failed = dict.fromkeys(sinks, 0)
        self._sinks = dict(sinks)
        self._wall_clock = wall_clock
        self._waiting: deque[Answered] = deque()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._index = 0
        self._readers: dict[str, AnswerReader | None] = {}
        self._encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
        self._thread = StoppableThread("answers", self._run)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def answered(self, device: str, ended: OpenRequest, outcome: Done) -> None:
        """Take an answer from the sessions; never waits."""
        request = ended.arrived.request
        self.put(
            Answered(
                device=device,
                bundle=ended.tail.bundle,
                request=request,
                codewords=bytes(ended.arrived.payload) if isinstance(request.release, wire.Codebook) else b"",
                tensors=outcome.tensors,
                payload=outcome.payload,
                tail_s=outcome.tail_s,
                unix_s=self._wall_clock(),
            )
        )

    def put(self, answered: Answered) -> None:
        """Take an answer; never waits."""
        with self._lock:
            if len(self._waiting) >= _MOST_WAITING or self._waiting_bytes > _MOST_BYTES:
                self.lost += 1
                return
            self._waiting_bytes += len(answered.payload)
            self._waiting.append(answered)

    def close(self) -> None:
        """Write the waiting answers, and close the sinks."""
        if self._thread.stop():
            self._write_all()
            for sink in self._sinks.values():
                sink.close()

    def _run(self) -> None:
        while not self._thread.stopping.wait(_LOOK_AGAIN_S):
            self._write_all()

    def _write_all(self) -> None:
        while self._waiting:
            answered = self._waiting.popleft()
            with self._lock:
                self._waiting_bytes -= len(answered.payload)
            try:
                record = self._encode(shortened(self._record(answered)))
            except Exception:  # noqa: BLE001  one answer that cannot be read must not end the sinks
                _log.exception("an answer of bundle %s cannot be decoded", answered.bundle.root, extra=PER_FRAME)
                self.failed = {label: count + 1 for label, count in self.failed.items()}
                continue
            topic = ("answer", answered.bundle.manifest.name, answered.device)
            for label, sink in self._sinks.items():
                self._write(label, sink, topic, record)

    def _write(self, label: str, sink: Sink, topic: tuple[str, ...], record: bytes) -> None:
        try:
            sink.write(topic, record)
        except OutputError as error:  # it may work again
            self.failed[label] += 1
            _log.error("sink %s: %s", label, error, extra=PER_FRAME)
        else:
            self.written[label] += 1

    def _record(self, answered: Answered) -> dict[str, Any]:
        request = answered.request
        record: dict[str, Any] = {
            "kind": "answer",
            "index": self._index,
            "unix_s": round(answered.unix_s, 3),
            "device": answered.device,
            "bundle": answered.bundle.manifest.name,
            "identity": request.bundle,
            "cut": request.cut,
            "tail_s": round(answered.tail_s, 6),
            **_release(request.release, answered.codewords),
        }
        self._index += 1
        fields = self._fields(answered)
        if isinstance(request.release, wire.Codebook) and "top" in fields:
            fields["decoded_as"] = fields.pop("top")  # the decoder's reading of a codeword
        return record | fields

    def _fields(self, answered: Answered) -> dict[str, Any]:
        """The answer's fields by the bundle; an error if they cannot be read."""
        identity = answered.request.bundle
        if identity not in self._readers:
            try:
                self._readers[identity] = AnswerReader.of(answered.bundle)
            except SplitModelError as error:
                _log.error("sinks: %s", error)
                self._readers[identity] = None
        reader = self._readers[identity]
        if reader is None:
            return {"error": "the bundle's labels or anchors cannot be read"}
        return reader.fields(_tensors(answered.tensors, answered.payload))


def _release(release: wire.Release, codewords: bytes) -> dict[str, Any]:
    """The release that protected the frame, with its ε and the unit of it."""
    if isinstance(release, wire.Noise):
        return {"release": "noise", "per_value_epsilon": release.spec.epsilon}
    if isinstance(release, wire.Codebook):
        width = codeword_bytes(release.spec.codewords)
        sent = np.frombuffer(codewords, f"<u{width}").tolist()
        return {"release": "codebook", "whole_input_epsilon": release.spec.epsilon, "codewords": sent}
    return {"release": "none"}


def _tensors(specs: Sequence[wire.AnswerTensor], payload: bytes) -> list[Array]:
    arrays, offset = [], 0
    for spec in specs:
        count = int(np.prod(spec.shape, dtype=np.int64))
        flat = np.frombuffer(payload, spec.dtype, count, offset)
        arrays.append(flat.reshape(spec.shape))
        offset += flat.nbytes
    return arrays


def open_sinks(tables: Sequence[SinkTable]) -> AnswerSinks | None:
    """Open all sinks of a config; None if it has none.

    Raises:
        SplitModelError: One cannot be opened; the opened ones are closed again.

    """
    opened: dict[str, Sink] = {}
    try:
        for table in tables:
            opened[table.label] = table.open()
    except BaseException:
        for sink in opened.values():
            sink.close()
        raise
    return AnswerSinks(opened) if opened else None
