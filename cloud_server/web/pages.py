"""The pages for login, fleet, server and bundles, as HTML and as live figures. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloud_server.fleet.answer_times import Tail
from cloud_server.fleet.cells import COLUMNS, ago, cells, milliseconds
from cloud_server.fleet.rows import Row
from cloud_server.status import Status
from cloud_server.web.rendering import render

_MEMORY = 1 << 20


def login(why: str = "") -> str:
    """The login page, the only one without a login."""
    return render("login.html", "Log in", why=why)


def not_found() -> str:
    """The page for a device that is not on the allow-list."""
    return render("missing.html", "No such device", at="/devices")


def devices(rows: Sequence[Row]) -> str:
    """The fleet's table."""
    headings = [(column.heading, column.title) for column in COLUMNS]
    shown = [_device(one) for one in rows]
    return render(
        "devices.html",
        "Devices",
        at="/",
        live="page=devices",
        summary=_summary(rows),
        headings=headings,
        rows=shown,
    )


def devices_live(rows: Sequence[Row]) -> dict[str, str]:
    """The live figures of `devices` by key; ``class KEY`` is a row's class."""
    found = {key: value for key, _, value in _summary(rows)}
    for one in rows:
        shown = cells(one)
        found |= {_key(one, column.name): shown[column.name] for column in COLUMNS[1:]}
        found[f"class {_key(one, 'row')}"] = _class(one)
    return found


def _summary(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    up = sum(one.condition == "up" for one in rows)
    silent = sum(one.condition == "silent" for one in rows)
    counts = (len(rows), up, silent, len(rows) - up - silent, sum(one.troubled for one in rows))
    labels = ("devices", "up", "silent", "never seen", "to look at")
    return [(f"summary.{label}", label, str(count)) for label, count in zip(labels, counts, strict=True)]


def _key(one: Row, column: str) -> str:
    return f"{one.public_key} {column}"


def _class(one: Row) -> str:
    return "troubled" if one.troubled else one.condition


def _device(one: Row) -> dict[str, Any]:
    shown = cells(one)
    made = [
        {"key": _key(one, column.name), "heading": column.heading, "text": shown[column.name]}
        for column in COLUMNS[1:]
    ]
    return {"name": one.name, "key": _key(one, "row"), "condition": _class(one), "cells": made}


_TIMES = (
    ("Tail", "Bundle and cut"),
    ("Answers", "Since the server's start"),
    ("Median", "From a request's first chunk to its answer"),
    ("p95", "From a request's first chunk to its answer"),
    ("p99", "From a request's first chunk to its answer"),
    ("Queue p95", "Waiting for a worker"),
    ("Tail p95", "Running the tail"),
)


def server(status: Status | None, tails: Mapping[tuple[str, int], Tail]) -> str:
    """The server's own page: queue, refusals, memory, and answer times."""
    figures = [(key, key.partition(".")[2], value) for key, value in server_live(status).items()]
    times = [
        (
            f"{bundle}, cut {cut}",
            (
                tail.parts["total"].count,
                *(_at_most(tail.parts["total"].quantile_s(share)) for share in (0.5, 0.95, 0.99)),
                _at_most(tail.parts["queue"].quantile_s(0.95)),
                _at_most(tail.parts["tail"].quantile_s(0.95)),
            ),
        )
        for (bundle, cut), tail in sorted(tails.items())
    ]
    live = "page=server" if figures else ""
    return render("server.html", "Server", at="/server", live=live, figures=figures, times=times, headings=_TIMES)


def server_live(status: Status | None) -> dict[str, str]:
    """The live figures of `server`."""
    if status is None:
        return {}
    counters = status.counters
    reasons = ", ".join(f"{code} {count}" for code, count in sorted(dict(counters.refused).items())) or "none"
    ended = ", ".join(f"{code} {count}" for code, count in sorted(dict(counters.ended).items())) or "none"
    named = {
        "State": status.state,
        "Up": ago(status.uptime_s),
        "Software": status.software,
        "Listens at": status.listen,
        "Devices allowed": status.devices,
        "Connections": status.peers,
        "Worker threads": status.threads,
        "Tails": status.tails,
        "Requests waiting": status.queued,
        "Requests running": status.running,
        "Payloads held": f"{status.held_bytes / _MEMORY:.1f} MiB",
        "Requests let in": counters.requests,
        "Answered": counters.answered,
        "Refused later": counters.failed,
        "Cancelled by devices": counters.cancelled,
        "Dropped with devices": counters.dropped,
        "Refusals": reasons,
        "Connections ended": ended,
        "Reports of devices": status.reports,
        "Last reload": status.reload_error or "in force",
    }
    if status.statistics is not None:
        named["Codewords counted"] = f"{status.statistics.counted}, {status.statistics.lost} lost"
    for label, sink in status.sinks.items():
        named[f"Sink {label}"] = f"{sink.written} written, {sink.failed + sink.lost} lost"
    return {f"server.{name}": str(value) for name, value in named.items()}


def bundles(hosted: Mapping[str, str], rows: Sequence[Row]) -> str:
    """The page of hosted bundles and the devices that run them."""
    users: dict[str, list[str]] = {identity: [] for identity in hosted}
    for one in rows:
        if one.identity is not None:
            users.setdefault(one.identity, []).append(one.name)
    made = [
        {
            "name": hosted.get(identity, "other"),
            "identity": identity,
            "hosted": identity in hosted,
            "users": names,
        }
        for identity, names in users.items()
    ]
    made.sort(key=lambda bundle: (not bundle["hosted"], bundle["name"], bundle["identity"]))
    return render("bundles.html", "Bundles", at="/bundles", bundles=made)


def _at_most(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return "> 10 s" if seconds == float("inf") else f"≤ {milliseconds(seconds)}"
