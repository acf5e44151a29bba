"""The metrics of ``/metrics``, made at each request from the server's present state.

Label values come from the operator, never from a device: names of the allow-list, hosted bundles and their cuts,
codes of the protocol. So the number of series is bounded. Devices beyond `MOST_DEVICES` are only counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cloud_server.fleet.answer_times import BOUNDS_S, PARTS
from cloud_server.fleet.overview import Overview
from cloud_server.fleet.rows import Row
from cloud_server.status import Status

__all__ = ["CONTENT_TYPE_LATEST", "MOST_DEVICES", "Metrics"]

#: Maximum number of devices with their own series.
MOST_DEVICES = 1000
_CONDITIONS = ("up", "silent", "never")
#: The metrics of each device: name, field of its row, and help.
_GAUGES = (
    ("uplink_mbit_per_second", "uplink_mbit_s", "The uplink as the device estimates it."),
    ("round_trip_seconds", "rtt_s", "The round trip as the device estimates it."),
    ("load_factor", "load", "How much longer work takes than on an idle board."),
    ("temperature_celsius", "temperature_c", "The processor's temperature, in steps of 5."),
    ("expected_seconds", "expected_s", "Predicted time of a frame at the current split."),
    ("offload_median_seconds", "offload_s", "Median time from a request to its answer, on the device."),
    ("agreement_ratio", "agreement", "Expected agreement with the unsplit model at the current split."),
    ("whole_input_epsilon", "whole_input_epsilon", "Whole-input epsilon spent in the device's life."),
    ("whole_input_epsilon_left", "whole_input_epsilon_left", "Remaining lifetime budget."),
    ("per_value_epsilon_max", "per_value_epsilon_max", "Largest per-value epsilon since the device's start."),
    ("split_cut", "split", "The current split point, an operation's index."),
    ("split_local", "local", "1 while everything runs on the board."),
    ("report_age_seconds", "report_ago_s", "Time since the last report."),
)


class Metrics:
    """A `Collector` for prometheus-client that renders the metrics."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """Render in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield all present metrics."""
        status = self._overview.status
        if status is not None:
            yield from _server(status)
        yield from self._times()
        rows = self._overview.rows()
        yield from _devices(rows)
        fleet = self._overview.fleet
        yield _counter("reports", "Status reports of devices.", fleet.reports)
        yield _counter("reports_dropped", "Reports that came too soon after another.", fleet.dropped)

    def _times(self) -> Iterator[Metric]:
        tails = self._overview.times.tails()
        texts = {
            "total": "From a request's first chunk to its answer, at the server.",
            "queue": "Waiting for a worker.",
            "tail": "Running the tail.",
        }
        for part in PARTS:
            family = HistogramMetricFamily(
                f"cloud_server_answer_{part}_seconds", texts[part], labels=("bundle", "cut")
            )
            for (bundle, cut), tail in tails.items():
                seen, buckets = 0, []
                for bound_s, count in zip((*BOUNDS_S, float("inf")), tail.parts[part].counts, strict=True):
                    seen += count
                    buckets.append(("+Inf" if bound_s == float("inf") else repr(bound_s), float(seen)))
                family.add_metric((bundle, str(cut)), buckets, sum_value=tail.parts[part].sum_s)
            yield family
        for name, text in (("received", "Features of answered requests."), ("sent", "Outputs of answers.")):
            counter = CounterMetricFamily(f"cloud_server_{name}_bytes", text, labels=("bundle", "cut"))
            for (bundle, cut), tail in tails.items():
                counter.add_metric((bundle, str(cut)), getattr(tail, f"{name}_bytes"))
            yield counter


def _server(status: Status) -> Iterator[Metric]:
    counters = status.counters
    info = GaugeMetricFamily("cloud_server_info", "Version; always 1.", labels=("software",))
    info.add_metric((status.software,), 1.0)
    yield info
    yield _gauge("uptime_seconds", "Time since the start.", status.uptime_s)
    yield _gauge("queued_requests", "Requests that wait for a worker.", status.queued)
    yield _gauge("running_requests", "Requests that are being run.", status.running)
    yield _gauge("held_bytes", "Payloads held for all requests.", status.held_bytes)
    yield _gauge("connections", "Connections that have a session.", status.peers)
    yield _gauge("bundles", "Hosted bundles.", len(status.bundles))
    for name, text in (
        ("requests", "Admitted requests."),
        ("answered", "Requests that were answered."),
        ("failed", "Requests that were refused after their admission."),
        ("cancelled", "Requests that their devices gave up."),
        ("dropped", "Requests of devices that went away."),
        ("late", "Results of requests that were given up."),
        ("asks", "Questions of devices before they send."),
        ("congested", "Replies that a device did not read."),
        ("unroutable", "Replies to a device that was gone."),
    ):
        yield _counter(name, text, getattr(counters, name))
    yield _counters("refusals", "Refusals by reason.", "reason", counters.refused)
    yield _counters("ended_connections", "Connections that the server ended, by reason.", "reason", counters.ended)


def _devices(rows: Sequence[Row]) -> Iterator[Metric]:
    conditions = GaugeMetricFamily("cloud_server_devices", "Allowed devices by condition.", labels=("condition",))
    for condition in _CONDITIONS:
        conditions.add_metric((condition,), float(sum(row.condition == condition for row in rows)))
    yield conditions
    yield from _of_each(rows)


def _of_each(rows: Sequence[Row]) -> Iterator[Metric]:
    """The series of each device; unknown values are left out."""
    told = _with_own_names(rows[:MOST_DEVICES])
    yield _gauge("devices_left_out", "Devices without series of their own.", len(rows) - len(told))
    up = GaugeMetricFamily("cloud_server_device_up", "1 while the device was heard just now.", labels=("device",))
    for row in told:
        if row.condition != "never":
            up.add_metric((row.name,), float(row.condition == "up"))
    yield up
    fresh = [row for row in told if row.report_ago_s is not None]
    for metric, field, text in _GAUGES:
        family = GaugeMetricFamily(f"cloud_server_device_{metric}", text, labels=("device",))
        for row in fresh:
            if (value := getattr(row, field)) is not None:
                family.add_metric((row.name,), float(value))
        yield family
    frames = CounterMetricFamily(
        "cloud_server_device_frames",
        "Frames since the device's start, answered there or here; 'here' is rounded down unless reported exactly.",
        labels=("device", "answered"),
    )
    for row in fresh:
        frames.add_metric((row.name, "there"), float(row.there or 0))
        frames.add_metric((row.name, "here"), float(row.here or 0))
    yield frames
    alerts = GaugeMetricFamily(
        "cloud_server_device_alert", "1 while something needs attention.", labels=("device", "alert")
    )
    for row in fresh:
        for alert in row.alerts:
            alerts.add_metric((row.name, alert), 1.0)
    yield alerts
    stale = GaugeMetricFamily("cloud_server_device_stale", "1 while reports are missing.", labels=("device",))
    for row in fresh:
        stale.add_metric((row.name,), float(row.stale))
    yield stale


def _with_own_names(rows: Sequence[Row]) -> list[Row]:
    """Rows with unique names: the allow-list may have one name for two keys."""
    often = Counter(row.name for row in rows)
    return [row if often[row.name] == 1 else replace(row, name=f"{row.name} {row.public_key[:8]}") for row in rows]


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"cloud_server_{name}", text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"cloud_server_{name}", text, value=float(value))


def _counters(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"cloud_server_{name}", text, labels=(label,))
    for key, value in sorted(dict(values).items()):
        family.add_metric((key,), float(value))
    return family
