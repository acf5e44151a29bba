"""What doctor says of the way to the server, address by address."""

from __future__ import annotations

import socket

from edge_runtime.service.network import connect_to_any, reach


def test_a_name_without_any_address_is_told_with_what_to_do() -> None:
    found = connect_to_any("tcp://board.example:5555", [])
    assert (found.level, found.about) == ("fail", "network")
    assert "board.example:5555 has no address" in found.text
    assert "server.address" in found.remedy


def test_the_address_that_takes_connections_counts_whatever_the_others_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as open_port, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, but nothing listens
        targets = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", place.getsockname())
            for place in (closed, open_port, closed)
        ]
        assert connect_to_any("tcp://x:1", targets).level == "ok"
        assert connect_to_any("tcp://x:1", targets[2:]).level == "fail"
        assert reach(f"tcp://127.0.0.1:{open_port.getsockname()[1]}").level == "ok"
