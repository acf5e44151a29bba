"""Measures the link with the daemon's own link thread, and the server's time for each tail.

It sends the daemon's content-free probes and releases of random numbers. They contain nothing of any frame, so the
privacy budget is not charged.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edge_runtime.bench.figures import LinkFigures
from edge_runtime.link.frame_link import FrameLink
from edge_runtime.link.link_view import LinkView
from edge_runtime.link.tcp_info import ends_at_server
from split_model.protocol import messages as wire

_CONNECT_S = 6.0
_PROBED_S = 4.0
_ANSWER_S = 8.0
_EACH_TAIL = 3
_STEP_S = 0.1


@dataclass(frozen=True)
class Sample:
    """One release of random numbers to send."""

    payload: memoryview
    descriptor: wire.Release


@dataclass(frozen=True)
class LinkBench:
    """Measures with a started link thread."""

    link: FrameLink
    address: str
    identity: str
    boot_id: str
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def measure(self, samples: Mapping[int, Sample]) -> tuple[LinkFigures, dict[int, float]]:
        """The link, and ``tail_s`` of every cut that the server answered; requests go out one at a time."""
        view = self._connected()
        if not view.up:
            trouble = view.trouble_line
            return LinkFigures(address=self.address, reachable=False, trouble=trouble), {}
        hosted = any(offer.identity == self.identity for offer in view.offers)
        rates, round_trips, spreads = self._watch()
        tails = self._tails(samples) if hosted else {}
        view = self.link.view()
        estimate = view.estimate
        if estimate.uplink_bytes_s is not None and tails:
            # Timings of whole requests count for more than those of the probes before them.
            rates, spreads = [estimate.uplink_bytes_s], [estimate.rate_spread]
        round_trip_s = statistics.median(round_trips) if round_trips else None
        tcp = view.tcp
        return LinkFigures(
            address=self.address,
            reachable=True,
            trouble="" if hosted else "the server does not host this bundle; tails were not timed",
            round_trip_s=round_trip_s,
            uplink_mbit_s=statistics.median(rates) * 8e-6 if rates else None,
            uplink_spread=statistics.median(spreads) if spreads else None,
            queue_s=view.queue_s,
            hosted=hosted,
            kernel_round_trip_s=None if tcp is None else tcp.min_rtt_s,
            proxied=None if tcp is None or tcp.min_rtt_s is None else not ends_at_server(tcp, round_trip_s),
        ), tails

    def _connected(self) -> LinkView:
        """Wait until the server accepts the connection or the time is up; returns the link's view."""
        until_s = self.now() + _CONNECT_S
        while not (view := self.link.view()).up and self.now() < until_s:
            self.sleep(_STEP_S)
        return view

    def _watch(self) -> tuple[list[float], list[float], list[float]]:
        """Collect estimates while only probes are sent: rates in bytes/s, round trips, spreads."""
        rates, round_trips, spreads = [], [], []
        until_s = self.now() + _PROBED_S
        while self.now() < until_s:
            self.sleep(_STEP_S)
            estimate = self.link.view().estimate
            if estimate.uplink_bytes_s is not None:
                rates.append(estimate.uplink_bytes_s)
                spreads.append(estimate.rate_spread)
            if estimate.rtt_s is not None:
                round_trips.append(estimate.rtt_s)
        return rates, round_trips, spreads

    def _tails(self, samples: Mapping[int, Sample]) -> dict[int, float]:
        tails: dict[int, float] = {}
        request_id = 0
        for split, sample in samples.items():
            times_s = []
            for _ in range(_EACH_TAIL):
                request_id += 1
                tail_s = self._ask(request_id, split, sample)
                if tail_s is None:
                    break
                times_s.append(tail_s)
            if times_s:
                tails[split] = statistics.median(times_s)
        return tails

    def _ask(self, request_id: int, split: int, sample: Sample) -> float | None:
        """Send one request; returns its ``tail_s``, or None if it is refused or the link is too slow for it."""
        due_at_s = self.now() + _ANSWER_S
        request = wire.Request(
            request_id=request_id,
            boot_id=self.boot_id,
            version=wire.VERSIONS[0],
            bundle=self.identity,
            cut=split,
            release=sample.descriptor,
            total_bytes=len(sample.payload),
            due_in_s=_ANSWER_S,
        )
        reservation = self.link.reserve(offloaded=True)
        reservation.send(request, sample.payload, due_at_s=due_at_s)
        outcome = reservation.wait(until_s=due_at_s)
        reservation.release()
        return None if outcome is None or outcome.answered is None else outcome.answered.answer.tail_s
