"""Connections without sockets: ids that only their own connection gets, budgets, and who must end when."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cloud_server import budgets
from cloud_server import connections as subject
from cloud_server.budgets import Bucket, Budgets
from cloud_server.connections import Connections

ANNA, BERT = "A" * 40, "B" * 40
MIB = 1 << 20


def counting_ids():
    numbers = itertools.count()
    return lambda: b"id %d" % next(numbers)


@pytest.fixture
def table():
    return Connections(counting_ids())


def met(table, *, fd=7, key=ANNA, now_s=0.0):
    """A connection after its first message."""
    table.opened(fd, ("host", fd), now_s)
    routing_id = table.admit(key, now_s)
    found = table.meet(routing_id, key, fd, now_s)
    assert found is not None
    return found


def overdue(table, now_s, *, greeted=lambda routing_id: True, received=lambda connection: None):
    return [
        (connection.fd, reason)
        for connection, reason in table.sweep(now_s, greeted=greeted, received_bytes=received)
    ]


# --- routing ids -----------------------------------------------------------------------------------------------


class Descriptors(RuleBasedStateMachine):
    """Connections open, send and close in any order; the monitor's events come before or after their messages.

    The model knows which connection each id was made for. No message may be taken for another's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = Connections(counting_ids(), Budgets())
        self.open: dict[int, tuple[str, bytes]] = {}  # fd -> key, routing id
        self.gone: list[tuple[int, str, bytes]] = []

    @rule(fd=st.integers(1, 4), key=st.sampled_from([ANNA, BERT]))
    def connect(self, fd, key):
        if fd in self.open:
            self.gone.append((fd, *self.open.pop(fd)))  # its end is not told: the number is simply used again
        self.table.opened(fd, ("host", fd), 0.0)
        self.open[fd] = (key, self.table.issue(key))

    @rule(fd=st.integers(1, 4))
    def close(self, fd):
        self.table.closed(fd)
        if fd in self.open:
            self.gone.append((fd, *self.open.pop(fd)))

    @rule(fd=st.integers(1, 4))
    def send(self, fd):
        if fd in self.open:
            key, routing_id = self.open[fd]
            found = self.table.find(routing_id) or self.table.meet(routing_id, key, fd, 0.0)
            assert found is not None
            assert (found.fd, found.key, found.routing_id) == (fd, key, routing_id)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def send_from_one_that_is_gone(self, data):
        fd, key, routing_id = data.draw(st.sampled_from(self.gone))
        assert self.table.find(routing_id) is None
        assert self.table.meet(routing_id, key, fd, 0.0) is None

    @precondition(lambda self: self.open)
    @rule(data=st.data(), other=st.sampled_from([ANNA, BERT]))
    def send_by_an_id_that_is_not_from_us(self, data, other):
        fd, (key, _) = data.draw(st.sampled_from(sorted(self.open.items())))
        chosen = data.draw(st.sampled_from([b"", b"\0kkkk"]))
        assert self.table.find(chosen) is None
        assert self.table.meet(chosen, key if other == ANNA else other, fd, 0.0) is None

    @invariant()
    def every_connection_is_found_by_its_own_id_only(self):
        for key in (ANNA, BERT):
            for connection in self.table.of_key(key):
                assert self.open[connection.fd] == (key, connection.routing_id)


TestDescriptors = Descriptors.TestCase


def test_an_id_made_for_one_key_is_of_no_use_to_another(table):
    table.opened(7, "host", 0.0)
    routing_id = table.admit(ANNA, 0.0)
    assert table.meet(routing_id, BERT, 7, 0.0) is None


def test_ids_of_handshakes_that_never_end_are_forgotten(table):
    first = table.issue(ANNA)
    for _ in range(5000):
        table.issue(ANNA)
    assert not table.issued_to(first, ANNA)


# --- budgets ---------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 50)), max_size=50))
def test_no_more_is_spent_than_burst_and_rate_allow(steps):
    bucket, now_s, spent = Bucket(10.0, 20.0, 0.0), 0.0, 0.0
    for wait_s, amount in steps:
        now_s += wait_s
        spent += amount if bucket.try_spend(amount, now_s) else 0.0
        assert spent <= 20.0 + 10.0 * now_s + 1e-6


@given(st.lists(st.floats(0, 50), min_size=1, max_size=50))
def test_who_waits_as_told_keeps_the_rate(amounts):
    bucket, now_s = Bucket(10.0, 20.0, 0.0), 0.0
    for amount in amounts:
        now_s += bucket.spend(amount, now_s)
    assert sum(amounts) <= 20.0 + 10.0 * now_s + 1e-6
    assert now_s <= sum(amounts) / 10.0 + 1e-6  # ... and waits for nothing else


def test_a_full_gigabit_of_features_is_within_the_budget(table):
    connection = met(table)
    for chunk in range(60 * 7600):  # a minute of 125 MB/s in chunks of 16 KiB
        assert table.spend(connection, [60, 16 << 10], chunk / 7600) == 0.0


def test_the_budget_is_one_for_all_connections_of_a_key_and_touches_no_other(table):
    anna, also_anna, bert = met(table), met(table, fd=8), met(table, fd=9, key=BERT)
    table.spend(anna, [256 * MIB], 0.0)
    assert table.spend(also_anna, [MIB], 0.0) > 0.0
    assert table.spend(bert, [MIB], 0.0) == 0.0


def test_who_is_deep_in_debt_is_told_so_and_waits_before_the_next_handshake(table):
    connection = met(table)
    assert table.spend(connection, [600 * MIB], 0.0) is None
    assert table.admit(ANNA, 1.0) is None
    assert table.admit(BERT, 1.0) is not None
    assert table.admit(ANNA, 4.0) is not None


def test_the_gateways_time_is_charged_only_while_others_send_too(table):
    anna, bert = met(table), met(table, fd=8, key=BERT)
    for _ in range(10):
        table.spend_gateway(anna, 1.0, 0.0)
    assert table.spend(anna, [1], 0.0) == 0.0
    table.spend_gateway(bert, 0.001, 0.0)
    table.spend_gateway(anna, 1.0, 0.0)
    assert table.spend(bert, [1], 0.0) == 0.0
    assert table.spend(anna, [1], 0.0) is None
    assert table.admit(ANNA, 0.0) is None


def test_answers_wait_for_a_key_in_debt_so_that_who_waits_for_them_is_never_cut_off():
    """Eight requests at a time, each of which takes the gateway ten times what the share allows."""
    table = Connections(counting_ids(), Budgets(gateway_share=0.1))
    anna, bert = met(table), met(table, fd=8, key=BERT)
    now_s, cost_s, used_s = 0.0, 0.005, 0.0
    while now_s < 60.0:
        table.spend_gateway(bert, 0.0, now_s)
        for _ in range(8):
            assert table.spend(anna, [1], now_s) is not None
            table.spend_gateway(anna, cost_s, now_s)
            used_s += cost_s
        now_s += table.delay_s(anna.routing_id, now_s) + 8 * cost_s
    assert used_s <= 0.1 * (now_s + budgets.GATEWAY_BURST_S) + 8 * cost_s


def test_other_budgets_are_in_force_for_the_keys_that_are_here(table):
    connection = met(table)
    table.limit(Budgets(bytes_per_s=float(MIB)), 0.0)
    assert table.spend(connection, [3 * MIB], 0.0) == pytest.approx(1.0)


def test_handshakes_of_a_key_are_bounded_at_once_and_over_time(table):
    assert sum(table.admit(ANNA, 0.0) is not None for _ in range(100)) == budgets.HANDSHAKE_BURST
    assert table.admit(BERT, 0.0) is not None
    assert sum(table.admit(ANNA, 10.0) is not None for _ in range(100)) == 10
    assert table.delayed == 170


def test_a_key_that_broke_the_protocol_loses_all_connections_and_stays_out_for_a_while(table):
    first, second, other = met(table), met(table, fd=8), met(table, fd=9, key=BERT)
    assert table.shut_out(ANNA, 0.0) == [first, second]
    assert table.of_key(BERT) == [other]
    assert table.admit(ANNA, subject.SHUT_OUT_S - 1.0) is None
    assert table.admit(ANNA, subject.SHUT_OUT_S) is not None


# --- who must end ----------------------------------------------------------------------------------------------


def test_a_connection_has_its_time_for_handshake_and_hello(table):
    table.opened(7, "host", 100.0)
    met(table, fd=8, now_s=100.0)
    nobody = {"greeted": lambda routing_id: False}
    assert overdue(table, 105.0, **nobody) == []
    assert overdue(table, 105.1, **nobody) == [(8, "no_hello")]
    assert overdue(table, 110.1, **nobody) == [(7, "no_hello"), (8, "no_hello")]


def test_of_too_many_that_wait_those_of_the_host_with_the_most_end_first():
    table = Connections(counting_ids(), descriptors=40)  # so ten may wait
    met(table, fd=1)
    table.opened(2, ("newcomer", 1), 0.0)
    for fd in range(10, 19):
        table.opened(fd, ("flood", fd), 0.0)
        assert table.crowded_out() == []
    for fd in range(19, 40):
        table.opened(fd, ("flood", fd), 1.0)
        assert [one.fd for one in table.crowded_out()] == [fd - 9]
    table.closed(39)
    table.opened(40, ("flood", 40), 1.0)
    assert table.crowded_out() == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.sampled_from(("open", "close", "meet")))))
def test_never_more_wait_than_the_bound_and_who_was_met_is_never_crowded_out(steps):
    table = Connections(counting_ids(), descriptors=20)
    greeted, waiting = set(), set()
    for host, fd, step in steps:
        if step == "open":
            table.opened(fd, (host, fd), 0.0)
            waiting.add(fd)
            greeted.discard(fd)
        elif step == "close":
            table.closed(fd)
            waiting.discard(fd)
            greeted.discard(fd)
        elif fd in waiting:
            assert table.meet(table.issue(ANNA), ANNA, fd, 0.0) is not None
            waiting.discard(fd)
            greeted.add(fd)
        out = {one.fd for one in table.crowded_out()}
        assert out <= waiting
        waiting -= out
        assert len(waiting) <= 5
        for one in out:
            table.closed(one)


def test_who_is_asked_to_greet_anew_has_that_time_again(table):
    met(table)
    assert overdue(table, 100.0) == []
    assert overdue(table, 104.0, greeted=lambda routing_id: False) == []
    assert overdue(table, 106.0, greeted=lambda routing_id: False) == [(7, "no_hello")]


def test_a_revoked_connection_ends_once_the_refusal_had_time_to_leave(table):
    met(table)
    met(table, fd=8, key=BERT)
    table.revoke(lambda key: key == BERT, 100.0)
    assert overdue(table, 100.1) == []
    table.revoke(lambda key: True, 100.2)  # allowed again: it connects anew
    assert overdue(table, 100.5) == [(7, "revoked")]


def test_what_a_connection_may_have_on_the_way_is_bounded(table):
    connection = met(table)
    within = table.budgets.window_bytes + subject.BACKLOG_BYTES
    assert overdue(table, 1.0, received=lambda _: within) == []
    assert overdue(table, 1.5, received=lambda _: within + 10_000) == [(7, "backlog")]
    table.spend(connection, [within], 2.0)
    assert overdue(table, 2.0, received=lambda _: within + 10_000) == []


def test_heartbeats_of_a_year_are_no_backlog(table):
    met(table)
    received = 0
    for sweep in range(100_000):
        received += 60
        assert overdue(table, sweep / 2, received=lambda _, received=received: received) == []
