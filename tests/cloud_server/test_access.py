"""Who gets in: the decision itself, and that a server whose access control is broken does not start."""

from __future__ import annotations

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from cloud_server import access
from cloud_server.allow_list import AllowList, allow
from cloud_server.errors import AccessControlError, ListenError
from cloud_server.gateway import Gateway
from cloud_server.refused_keys import RefusedKeys
from split_model.protocol.keys import KeyPair

KNOWN = "k" * 40
GOOD = [b"1.0", b"7", access.DOMAIN, b"10.0.0.1", b"", b"CURVE", z85.decode(KNOWN)]


def only_known(key):
    return b"an id of ours" if key == KNOWN else "refused"


def status(frames):
    reply, _ = access.decide(frames, only_known)
    return reply[2]


def test_a_known_key_is_admitted_under_its_own_name_and_an_id_of_ours():
    reply, refused = access.decide(GOOD, only_known)
    assert reply[:5] == [b"1.0", b"7", b"200", b"OK", KNOWN.encode()]
    assert reply[5] == b"\x08Identity\x00\x00\x00\x0dan id of ours"
    assert refused is None


def test_an_unknown_key_is_refused_and_named():
    reply, refused = access.decide(GOOD, lambda key: "refused")
    assert reply[2] == b"400"
    assert reply[4] == b""
    assert refused == KNOWN


def test_a_key_with_too_many_handshakes_is_told_nothing_so_that_it_tries_again():
    reply, refused = access.decide(GOOD, lambda key: "later")
    assert reply[2] == b"300"
    assert reply[4:] == [b"", b""]
    assert refused is None


@pytest.mark.parametrize(
    ("position", "value"),
    [(0, b"2.0"), (2, b""), (2, b"other"), (5, b"NULL"), (5, b"PLAIN"), (6, b""), (6, b"k" * 33)],
)
def test_anything_but_curve_in_our_domain_is_refused(position, value):
    frames = list(GOOD)
    frames[position] = value
    assert status(frames) == b"400"


@given(st.lists(st.binary(max_size=40), max_size=9))
def test_no_request_whatever_is_admitted_by_accident(frames):
    assert status(frames) == b"400"


@pytest.fixture
def gateway(tmp_path):
    """Make a gateway on a free port; closed at the end."""
    made = []

    def make(listen="tcp://127.0.0.1:0", **options):
        keys, allow_list = KeyPair(*zmq.curve_keypair()), AllowList(tmp_path / "d")
        made.append(Gateway(listen=listen, keys=keys, allow_list=allow_list, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_the_self_test_passes_and_leaves_nothing_behind(gateway):
    made = gateway()
    assert made.gate.test_key is None
    assert not made.gate.refused.times
    assert not made.endpoint.endswith(":0")


def test_no_start_when_everybody_is_admitted(gateway, monkeypatch):
    monkeypatch.setattr(access.Gatekeeper, "admits", lambda self, key: True)
    with pytest.raises(AccessControlError, match="was admitted, not refused"):
        gateway()


def test_no_start_when_nobody_is_admitted(gateway, monkeypatch):
    monkeypatch.setattr(access.Gatekeeper, "admits", lambda self, key: False)
    with pytest.raises(AccessControlError, match="admitted key was refused"):
        gateway()


def test_no_start_when_zap_does_not_answer(gateway, monkeypatch):
    monkeypatch.setattr(access.Gatekeeper, "answer_all", lambda self: None)
    with pytest.raises(AccessControlError, match="left without an answer"):
        gateway(self_test_s=0.2)


def test_no_start_without_a_zap_handler(gateway, monkeypatch):
    monkeypatch.setattr(access, "ZAP_ENDPOINT", "inproc://elsewhere")
    with pytest.raises(AccessControlError, match=r"(broken off|without an answer), not refused"):
        gateway(self_test_s=0.2)


def test_no_start_where_libzmq_fails_open(gateway, monkeypatch):
    """What happens when handler and enforced domain are both missing: CURVE alone admits everybody."""

    def secure(socket, keys):
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret

    monkeypatch.setattr("cloud_server.listening.secure", secure)
    monkeypatch.setattr(access, "ZAP_ENDPOINT", "inproc://elsewhere")
    with pytest.raises(AccessControlError, match="was admitted, not refused"):
        gateway()


def test_no_start_when_identities_get_mixed_up(gateway, monkeypatch):
    decide = access.decide

    def mixed(frames, admit):
        reply, refused = decide(frames, admit)
        return [*reply[:4], b"somebody else" if reply[4] else b"", reply[5]], refused

    monkeypatch.setattr(access, "decide", mixed)
    with pytest.raises(AccessControlError, match="somebody else"):
        gateway()


def test_no_start_where_a_peer_chooses_its_own_routing_id(gateway, monkeypatch):
    """What libzmq does by itself: without our id in the reply, it takes the peer's."""
    decide = access.decide

    def without_id(frames, admit):
        reply, refused = decide(frames, admit)
        return [*reply[:5], b""], refused

    monkeypatch.setattr(access, "decide", without_id)
    with pytest.raises(AccessControlError, match="let a peer choose its own routing id"):
        gateway()


def test_the_test_key_is_nobodys_afterwards(gateway, tmp_path):
    made = gateway()
    assert not made.gate.admits("")
    key = zmq.curve_keypair()[0].decode()
    assert not made.gate.admits(key)
    allow(tmp_path / "d", "porch", key)
    made.allow_list.refresh()
    assert made.gate.admits(key)


def test_an_address_in_use_or_impossible_is_one_line(gateway):
    taken = gateway().endpoint
    with pytest.raises(ListenError, match=r"Address already in use; change server\.listen"):
        gateway(taken)
    with pytest.raises(ListenError):
        gateway("tcp://no such host:1")


def test_the_keys_remembered_as_refused_are_bounded():
    refused = RefusedKeys()
    assert [refused.note(key) for key in ("again", "again")] == [True, False]
    for number in range(1000):
        refused.note(str(number))
    assert list(refused.times) == [str(number) for number in range(968, 1000)]
