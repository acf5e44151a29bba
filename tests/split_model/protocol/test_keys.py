"""Key pairs that people can pass on: on a command line, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from split_model.protocol.keys import make_pair, read_pair


def test_a_public_key_never_looks_like_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = zmq.curve_keypair()
    while good[0].startswith(b"-"):
        good = zmq.curve_keypair()
    made = iter([(b"-" + good[0][1:], good[1]), good])
    monkeypatch.setattr(zmq, "curve_keypair", lambda: next(made))
    assert make_pair(tmp_path, "device").public == good[0]
    assert read_pair(tmp_path / "device.key").public == good[0]
