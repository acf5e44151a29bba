"""Packets on a line that loses, adds and turns over bytes: every intact one is read, and nothing else."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.sources.serial_packets import DTYPES, Decoder, read_packet, stuff, unstuff, write_packet

DOCS = Path(__file__).resolve().parents[3] / "docs" / "serial-protocol.md"
tensors = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(
        np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6), fill=st.nothing()
    )
)


def decoder(max_packet_bytes: int = 1 << 16) -> Decoder:
    return Decoder(max_packet_bytes=max_packet_bytes)


def same(found: Any, sent: np.ndarray) -> bool:
    return (found.dtype, found.shape) == (sent.dtype, sent.shape) and found.tobytes() == sent.tobytes()


@given(st.binary(max_size=2000) | st.integers(0, 1100).map(lambda n: b"\1" * n) | st.integers(0, 600).map(bytes))
@example(b"\1" * 254)
@example(b"\1" * 254 + b"\0")
@example(b"\0" + b"\1" * 508 + b"\0\0")
def test_cobs_there_and_back(data: bytes) -> None:
    stuffed = stuff(data)
    assert 0 not in stuffed
    assert len(stuffed) <= len(data) + len(data) // 254 + 1
    assert unstuff(bytearray(stuffed)) == data


def test_cobs_as_its_paper_has_it() -> None:
    """Cheshire and Baker's own examples."""
    assert stuff(b"\0") == b"\1\1"
    assert stuff(b"\0\0") == b"\1\1\1"
    assert stuff(b"\x11\x22\0\x33") == b"\x03\x11\x22\x02\x33"
    assert stuff(bytes(range(1, 255)))[:2] == b"\xff\1"
    assert unstuff(bytearray(b"\xff" + bytes(range(1, 255)))) == bytes(range(1, 255))  # without the last distance


@given(st.lists(tensors, max_size=5), st.integers(0, 2**32 - 1), st.data())
def test_any_cutting_gives_the_same_packets(sent: list[np.ndarray], first: int, data: Any) -> None:
    line = b"".join(write_packet(tensor, first + number) for number, tensor in enumerate(sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(line)), max_size=20)))
    reader = decoder()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(line)], strict=True):
        found += reader.feed(line[start:end])
    assert [packet.sequence for packet in found] == [(first + n) % 2**32 for n in range(len(sent))]
    assert all(same(packet.tensor, tensor) for packet, tensor in zip(found, sent, strict=True))
    assert (reader.packets, reader.damaged, reader.missing, reader.restarts) == (len(sent), 0, 0, 0)


FATES = st.sampled_from(["whole", "flip", "drop", "add", "cut"])


@given(st.lists(st.tuples(tensors, FATES), max_size=8), st.data())
def test_noise_spoils_what_it_touches_and_nothing_else(sent: list[Any], data: Any) -> None:
    reader = decoder()
    line, whole = b"", []
    for number, (tensor, fate) in enumerate(sent):
        packet = bytearray(write_packet(tensor, number))
        at = data.draw(st.integers(2, len(packet) - 2))  # inside: noise beside its zeros does not touch it
        if fate == "flip":
            packet[at] ^= data.draw(st.integers(1, 255))
        elif fate == "drop":
            del packet[at]
        elif fate == "add":
            packet[at:at] = data.draw(st.binary(min_size=1, max_size=5))
        elif fate == "cut":
            del packet[at:-1]
        else:
            whole.append(number)
        line += data.draw(st.binary(max_size=10)) + bytes(packet)
    found = reader.feed(line)
    assert [packet.sequence for packet in found] == whole
    assert all(same(packet.tensor, sent[packet.sequence][0]) for packet in found)


@given(st.lists(st.binary(max_size=300)))
def test_garbage_is_never_a_packet_and_never_kept(reads: list[bytes]) -> None:
    reader = decoder(max_packet_bytes=64)
    for read in reads:
        assert reader.feed(read) == []
        assert len(reader._piece) <= 64 + 3
    good = reader.feed(write_packet(np.arange(4, dtype=np.int16), 7))
    assert [packet.sequence for packet in good] == [7]


def test_a_packet_that_is_too_long_is_not_kept() -> None:
    reader = decoder(max_packet_bytes=100)
    assert reader.feed(write_packet(np.ones(200, np.uint8), 1)) == []
    assert reader.damaged == 1
    assert [packet.sequence for packet in reader.feed(write_packet(np.ones(80, np.uint8), 2))] == [2]


def test_a_cut_line_does_not_join_two_packets() -> None:
    reader = decoder()
    packet = write_packet(np.arange(9, dtype=np.float32), 3)
    reader.feed(packet[:20])
    reader.reset()
    assert reader.damaged == 1
    assert [found.sequence for found in reader.feed(packet)] == [3]


def test_numbers_that_never_came_are_counted() -> None:
    reader = decoder()
    for sequence in (2**32 - 2, 2**32 - 1, 0, 1, 5, 5, 0, 1):
        reader.feed(write_packet(np.zeros(1, np.int8), sequence))
    # 2, 3 and 4 are missing; the second 5 and the 0 after it go back.
    assert (reader.packets, reader.missing, reader.restarts) == (8, 3, 2)


def body(header: tuple[int, ...], rest: bytes = b"") -> bytes:
    plain = struct.pack("<BBBBI", *header) + rest
    return b"\0" + stuff(plain + struct.pack("<I", zlib.crc32(plain))) + b"\0"


@pytest.mark.parametrize(
    ("packet", "named"),
    [
        (body((2, 0, 0, 0, 9), b"abcd"), "version 2"),
        (body((1, 99, 0, 0, 9)), "dtype 99"),
        (body((1, 0, 7, 0, 9), bytes(14)), "rank 7"),
        (body((1, 0, 3, 0, 9), b"\1\0"), "rank 3"),
        (body((1, 0, 1, 0, 9), b"\3\0" + bytes(8)), "float32[3] announced, 8 bytes"),
    ],
)
def test_an_intact_packet_that_makes_no_sense_says_why(packet: bytes, named: str) -> None:
    (found,) = decoder().feed(packet)
    assert found.sequence == 9
    assert found.tensor is None
    assert named in found.error


@given(st.binary(max_size=60))
def test_anything_at_all_between_zeros(piece: bytes) -> None:
    """With a good CRC, so that it gets past that."""
    plain = piece + struct.pack("<I", zlib.crc32(piece))
    found = read_packet(bytearray(stuff(plain)))
    assert found is None or found.error or found.tensor is not None


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_documented_c_code_sends_what_is_read(tmp_path: Path) -> None:
    code = re.findall(r"```c\n(.*?)```", DOCS.read_text(), re.DOTALL)[0]
    main = """
    #include <stdio.h>
    static void out(uint8_t byte) { putchar(byte); }
    int main(void) {
        static split_line line = {.send = out};
        static float values[64][3];
        static uint8_t bytes[1000];
        const uint16_t dimensions[2] = {64, 3}, length[1] = {1000};
        for (int i = 0; i < 192; i++) values[i / 3][i % 3] = i / 7.0f;
        for (int i = 0; i < 1000; i++) bytes[i] = i > 700 ? 0 : 1 + i % 255;
        split_send(&line, 41, SPLIT_FLOAT32, 2, dimensions, values, sizeof values);
        split_send(&line, 42, SPLIT_UINT8, 1, length, bytes, sizeof bytes);
        return 0;
    }
    """
    (tmp_path / "send.c").write_text(code + main)
    subprocess.run(
        ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "send", tmp_path / "send.c"], check=True
    )
    sent = subprocess.run([tmp_path / "send"], check=True, capture_output=True).stdout
    first, second = decoder().feed(sent)
    assert (first.sequence, second.sequence) == (41, 42)
    assert same(first.tensor, (np.arange(192, dtype=np.float32) / np.float32(7)).reshape(64, 3))
    assert same(second.tensor, np.array([0 if i > 700 else 1 + i % 255 for i in range(1000)], np.uint8))
    # Byte for byte what Python would have sent, but for a last distance that COBS may leave out.
    assert sent == write_packet(first.tensor, 41) + write_packet(second.tensor, 42)
