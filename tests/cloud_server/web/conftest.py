"""A server with its page, and a browser's requests without a browser."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pytest

from cloud_server.web import password
from split_model.protocol import messages as wire
from split_model.protocol import reports

PASSWORD = "correct horse"
TOKEN = "a-token-for-prometheus"


@dataclass
class Page:
    """The page of one server."""

    server: object
    host: str
    port: int
    cookie: str = ""

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"

    def ask(
        self, path: str, *, method: str = "GET", body: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], str]:
        """Status, headers and body of one request, with the cookie if there is one."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        sent = {"Cookie": self.cookie} if self.cookie else {}
        if body:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            connection.request(method, path, body=body or None, headers=sent | (headers or {}))
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            connection.close()

    def log_in(self, text: str = PASSWORD, **headers: str) -> tuple[int, dict[str, str], str]:
        """Send the login's form; keeps the cookie."""
        found = self.ask("/login", method="POST", body=urlencode({"password": text}), headers=headers)
        self.cookie = found[1].get("set-cookie", "").partition(";")[0]
        return found

    def events(self, path: str, *, count: int) -> list[dict[str, str]]:
        """The data of the first ``count`` events of a stream."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            connection.request("GET", path, headers={"Cookie": self.cookie})
            answer = connection.getresponse()
            found: list[dict[str, str]] = []
            while len(found) < count:
                line = answer.readline().decode()
                assert line, "the stream ended"
                if line.startswith("data: "):
                    found.append(json.loads(line[6:]))
            return found
        finally:
            connection.close()


@pytest.fixture
def page(tmp_path: Path, start: Callable[..., object]) -> Page:
    """A server with a page, a password and a token."""
    password.write(tmp_path / "web.password", PASSWORD)
    password.write_for_service(tmp_path / "web.token", TOKEN.encode())
    server = start(web_listen="127.0.0.1:0", web_password="web.password", web_metrics_token="web.token")
    address = server.wait(lambda status: status.web).web
    host, _, port = address.removeprefix("http://").rpartition(":")
    return Page(server, host, int(port))


def make_report(bundle: str, **changes: object) -> wire.Report:
    """A report of a device that works."""
    report = wire.Report(
        period_s=1.0,
        uptime_s=100.0,
        software="edge-runtime 0.1.0",
        python="3.11.7",
        backend="ai-edge-litert",
        bundle=bundle,
        bundle_name="two-layers",
        split=1,
        local=2,
        moved=reports.Moved(ago_s=3.0, split_from=2, split_to=1, why="saves 12 ms of 95 ms"),
        frames=reports.FrameCounts(
            exact=False, frames_in=96, offloaded=71, local=16, fallback=6, failed=0, dropped=0, late=0, moves=1
        ),
        link=reports.LinkReport(uplink_mbit_s=4.5, rtt_s=0.03, queue_s=0.0, reconnects=0),
        expected_s=0.18,
        offload=reports.OffloadReport(frames=71, median_s=0.12, p95_s=0.3),
        board=reports.BoardReport(load=1.25, temperature_c=65, throttled=False),
        agreement=0.95,
        agreement_bound=0.91,
        ledger=reports.LedgerReport(
            whole_input_epsilon=4096.0, per_value_epsilon_max=16.0, releases=80, unprotected_releases=0, budget=1e6,
            left=995904.0, spent_in_s=None,
        ),
        alerts=(),
    )  # fmt: skip
    return msgspec.structs.replace(report, **changes)


@pytest.fixture(scope="session")
def a_report() -> Callable[..., wire.Report]:
    return make_report


@pytest.fixture
def until() -> Iterator[Callable[[Callable[[], object]], object]]:
    """Wait until something holds, and return it."""

    def wait(holds: Callable[[], object]) -> object:
        deadline_s = time.monotonic() + 20.0
        while not (value := holds()):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        return value

    return wait
