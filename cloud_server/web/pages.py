"""The login, the fleet, the server's own page, and the bundles, as HTML and as live figures. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from cloud_server.fleet.answer_times import Tail
from cloud_server.fleet.cells import COLUMNS, ago, cells, milliseconds
from cloud_server.fleet.rows import Row
from cloud_server.status import Status
from cloud_server.web.layout import document, row, table, text

_MEMORY = 1 << 20


def login(why: str = "") -> str:
    """The only page without a login."""
    alert = f'<p role="alert" class="alert">{text(why)}</p>' if why else ""
    return document(
        "Log in",
        f'{alert}<form method="post" action="/login" class="login"><label for="password">Password</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>'
        "<button>Log in</button></form>",
    )


def not_found() -> str:
    """For a device that is not on the allow-list."""
    return document(
        "No such device", '<p>It is not on the allow-list. <a href="/">All devices</a></p>', at="/devices"
    )


def devices(rows: Sequence[Row]) -> str:
    """The fleet's table."""
    summary = "".join(
        f'<li><strong data-live="{key}">{text(value)}</strong> {label}</li>' for key, label, value in _summary(rows)
    )
    body = f'<ul class="summary">{summary}</ul>'
    if not rows:
        body += (
            "<p>No device is allowed yet. On the server: <code>sudo cloud-server devices allow NAME 'KEY'</code>, "
            "or let <code>deploy.sh</code> do it.</p>"
        )
    else:
        headings = [(column.heading, column.title) for column in COLUMNS]
        body += table("Devices", headings, (_device_row(one) for one in rows), name="devices")
    return document("Devices", body, at="/", live="page=devices")


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


def _device_row(one: Row) -> str:
    shown = cells(one)
    link = f'<a href="/devices/{quote(one.name, safe="")}">{text(one.name)}</a>'
    values = "".join(
        f'<td data-live="{text(_key(one, column.name))}" data-label="{text(column.heading)}">'
        f"{text(shown[column.name])}</td>"
        for column in COLUMNS[1:]
    )
    key = text(_key(one, "row"))
    return f'<tr class="{_class(one)}" data-class="{key}"><th scope="row">{link}</th>{values}</tr>'


def server(status: Status | None, tails: Mapping[tuple[str, int], Tail]) -> str:
    """The server's own page: queue, refusals, memory, and how long answers take."""
    if status is None:
        return document("Server", "<p>It is starting.</p>", at="/server")
    shown = server_live(status)
    rows = [row(name.partition(".")[2], value, live=(name,)) for name, value in shown.items()]
    times = [
        row(
            f"{bundle}, cut {cut}",
            tail.parts["total"].count,
            *(_at_most(tail.parts["total"].quantile_s(share)) for share in (0.5, 0.95, 0.99)),
            _at_most(tail.parts["queue"].quantile_s(0.95)),
            _at_most(tail.parts["tail"].quantile_s(0.95)),
        )
        for (bundle, cut), tail in sorted(tails.items())
    ]
    headings = [
        ("Tail", "Bundle and cut"),
        ("Answers", "Since the server's start"),
        ("Median", "From a request's first chunk to its answer"),
        ("p95", "From a request's first chunk to its answer"),
        ("p99", "From a request's first chunk to its answer"),
        ("Queue p95", "Waiting for a worker"),
        ("Tail p95", "Running the tail"),
    ]
    answers = table("Answers, since the start; times are upper ends of buckets", headings, times)
    body = table("Now", [("What", ""), ("Value", "")], rows, name="server")
    body += answers if times else "<p>No request was answered yet.</p>"
    return document("Server", body, at="/server", live="page=server")


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
    """Hosted bundles, and which devices run which."""
    made = []
    for identity, name in sorted(hosted.items(), key=lambda one: (one[1], one[0])):
        users = [one for one in rows if one.identity == identity]
        made.append(_bundle_row(name, identity, "yes", users))
    strangers: dict[str, list[Row]] = {}
    for one in rows:
        if one.identity is not None and not one.hosted:
            strangers.setdefault(one.identity, []).append(one)
    made += [_bundle_row("other", identity, "no", users) for identity, users in sorted(strangers.items())]
    headings = [
        ("Bundle", ""),
        ("Identity", "SHA-256 of its manifest"),
        ("Hosted", "Here"),
        ("Devices", "By report"),
    ]
    return document("Bundles", table("Bundles", headings, made), at="/bundles")


def _bundle_row(name: str, identity: str, hosted: str, users: Sequence[Row]) -> str:
    links = ", ".join(f'<a href="/devices/{quote(one.name, safe="")}">{text(one.name)}</a>' for one in users)
    return (
        f'<tr><th scope="row">{text(name)}</th><td><code>{text(identity[:12])}</code></td><td>{hosted}</td>'
        f"<td>{len(users)}{': ' if links else ''}{links}</td></tr>"
    )


def _at_most(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return "> 10 s" if seconds == float("inf") else f"≤ {milliseconds(seconds)}"
