"""The server's cost for the reports of 200 devices, for a viewer of the page, and for the scrapes of Prometheus.

All devices are connected and ping every two seconds in each phase, as idle devices do. Phases follow each other in
turn: nothing else; reports every 10 s; those, a live page that is also loaded every 10 s, and a scrape every 15 s.
The cost is the server's CPU time over that of the first phase, as a share of one core.
"""

from __future__ import annotations

import http.client
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import zmq

from benchmarks.demo.prepared import BUNDLE
from benchmarks.server.claims import Details, Part, claim
from benchmarks.server.process import cpu_s
from benchmarks.server.served import DEVICES, Served, served
from cloud_server.web import password
from split_model.bundle import Bundle
from split_model.protocol import messages as wire
from split_model.protocol import reports
from split_model.protocol.device import DeviceSession

_SECONDS, _ROUNDS = 20.0, 3
_PING_EVERY_S, _REPORT_EVERY_S, _LOAD_EVERY_S, _SCRAPE_EVERY_S = 2.0, 10.0, 10.0, 15.0
_MOST = 0.05
_PASSWORD, _TOKEN = "a benchmark", "a-benchmark"  # of a server that lives for two minutes
_TURN_S = 0.05
_UP_WITHIN_S = 60.0


class Fleet:
    """Connected devices that do no work; one thread drives all of them."""

    def __init__(self, server: Served) -> None:
        self._bundle = Bundle.open(BUNDLE).identity
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._links: dict[zmq.Socket[bytes], DeviceSession] = {}
        for number, pair in enumerate(server.keys):
            link = self._context.socket(zmq.DEALER)
            link.linger = 0
            link.curve_serverkey = server.public_key.encode()
            link.curve_publickey, link.curve_secretkey = pair.public, pair.secret
            link.connect(server.endpoint)
            session = DeviceSession(boot_id=f"boot-{number}", software="benchmark")
            session.connected()
            self._links[link] = session
            self._poller.register(link, zmq.POLLIN)
        self._began_s = time.monotonic()

    def turn(self) -> None:
        """Send waiting messages, and receive those that have arrived."""
        for link, session in self._links.items():
            while (frames := session.next_message(time.monotonic())) is not None:
                link.send_multipart([part for part in frames if part is not None])
        for link, _ in self._poller.poll(int(_TURN_S * 1e3)):
            while link.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                parts = [memoryview(part) for part in link.recv_multipart()]
                self._links[link].receive(parts, time.monotonic())

    def wait_until_up(self) -> None:
        """Wait until the server has welcomed every device."""
        deadline_s = time.monotonic() + _UP_WITHIN_S
        while any(session.welcome is None for session in self._links.values()):
            if time.monotonic() > deadline_s:
                raise TimeoutError("not every device was welcomed")
            self.turn()

    def run(self, seconds: float, *, reporting: bool, also: Callable[[float], None]) -> None:
        """Ping and report for a time; ``also`` is called at every turn with the seconds since the start."""
        began_s = time.monotonic()
        share = 1.0 / len(self._links)
        pinged = [_PING_EVERY_S * share * number for number in range(len(self._links))]
        told = [_REPORT_EVERY_S * share * number for number in range(len(self._links))]
        while (at_s := time.monotonic() - began_s) < seconds:
            for number, session in enumerate(self._links.values()):
                if at_s >= pinged[number]:
                    pinged[number] += _PING_EVERY_S
                    session.probe(0)
                if reporting and at_s >= told[number]:
                    told[number] += _REPORT_EVERY_S
                    session.report(self._report(number))
            also(at_s)
            self.turn()

    def close(self) -> None:
        """Close all sockets."""
        for link in self._links:
            link.close()
        self._context.term()

    def _report(self, number: int) -> wire.Report:
        """Return a report that differs from the last one in every figure."""
        age_s = time.monotonic() - self._began_s
        count = int(10 * age_s)
        return wire.Report(
            period_s=_REPORT_EVERY_S,
            uptime_s=age_s,
            software="edge-runtime 0.1.0",
            python="3.11.7",
            backend="ai-edge-litert",
            bundle=self._bundle,
            bundle_name="efficientnet_lite0_f32",
            split=20,
            local=62,
            moved=reports.Moved(ago_s=3.0, split_from=62, split_to=20, why="saves 120 ms of 400 ms"),
            frames=reports.FrameCounts(
                exact=False,
                frames_in=count,
                offloaded=count,
                local=64,
                fallback=12,
                failed=0,
                dropped=0,
                late=0,
                moves=count // 50,
            ),
            link=reports.LinkReport(uplink_mbit_s=1.0 + age_s % 7, rtt_s=0.03, queue_s=0.0, reconnects=0),
            expected_s=0.1 + age_s % 3 / 100,
            offload=reports.OffloadReport(frames=128, median_s=0.1 + age_s % 5 / 100, p95_s=0.3),
            board=reports.BoardReport(load=1.0 + number % 4 / 10, temperature_c=60, throttled=False),
            agreement=0.95,
            agreement_bound=0.91,
            ledger=reports.LedgerReport(
                whole_input_epsilon=float(4000 * count),
                per_value_epsilon_max=16.0,
                releases=count,
                unprotected_releases=0,
                budget=1e9,
                left=1e9 - 4000 * count,
                spent_in_s=1e6,
            ),
            alerts=("throttled",) if number % 50 == 0 else (),
        )


class Viewer:
    """A live page, and a scraper."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._cookie = ""
        self._loaded_s = self._scraped_s = 0.0
        self._stream: http.client.HTTPConnection | None = None
        self.page_bytes = self.metrics_bytes = self.event_bytes = 0

    def look(self) -> None:
        """Log in, and open a live page."""
        form = urlencode({"password": _PASSWORD})
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        connection.request("POST", "/login", form, {"Content-Type": "application/x-www-form-urlencoded"})
        self._cookie = (connection.getresponse().getheader("set-cookie") or "").partition(";")[0]
        connection.close()
        self._stream = http.client.HTTPConnection("127.0.0.1", self._port)
        self._stream.request("GET", "/events?page=devices", headers={"Cookie": self._cookie})
        answer = self._stream.getresponse()
        threading.Thread(target=self._follow, args=(answer,), daemon=True).start()
        self._loaded_s = self._scraped_s = 0.0

    def tick(self, at_s: float) -> None:
        """Load the page and the metrics when it is time to."""
        if at_s >= self._loaded_s:
            self._loaded_s += _LOAD_EVERY_S
            self.page_bytes = len(self._get("/", {"Cookie": self._cookie}))
        if at_s >= self._scraped_s:
            self._scraped_s += _SCRAPE_EVERY_S
            self.metrics_bytes = len(self._get("/metrics", {"Authorization": f"Bearer {_TOKEN}"}))

    def leave(self) -> None:
        """Close the live page."""
        if self._stream is not None and self._stream.sock is not None:
            self._stream.sock.shutdown(socket.SHUT_RDWR)

    def _get(self, path: str, headers: dict[str, str]) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != http.HTTPStatus.OK:
                raise RuntimeError(f"{path}: status {answer.status}")
            return body
        finally:
            connection.close()

    def _follow(self, answer: http.client.HTTPResponse) -> None:
        while line := answer.readline():
            self.event_bytes += len(line)


def page() -> Part:
    """Run the three phases in turn; return the additional cost of each over the first."""
    used: dict[str, list[float]] = {"idle": [], "reports": [], "all": []}
    with tempfile.TemporaryDirectory(prefix="page-") as folder:
        secret, token = Path(folder) / "web.password", Path(folder) / "web.token"
        password.write(secret, _PASSWORD)
        password.write_for_service(token, _TOKEN.encode())
        port = _free_port()
        web = f'[web]\nlisten = "127.0.0.1:{port}"\npassword = "{secret}"\nmetrics_token = "{token}"\n'
        with served(devices=DEVICES, server_keys=web) as server:
            fleet, viewer = Fleet(server), Viewer(port)
            fleet.wait_until_up()
            fleet.run(_REPORT_EVERY_S, reporting=True, also=lambda _: None)  # the table is full in all phases
            for _ in range(_ROUNDS):
                for phase, found in used.items():
                    if phase == "all":
                        viewer.look()
                    before_s = cpu_s(server.pids)
                    also = viewer.tick if phase == "all" else lambda _: None
                    fleet.run(_SECONDS, reporting=phase != "idle", also=also)
                    found.append((cpu_s(server.pids) - before_s) / _SECONDS)
                    if phase == "all":
                        viewer.leave()
            fleet.close()
    share = {phase: statistics.median(found) for phase, found in used.items()}
    details: Details = {
        "devices": DEVICES,
        "idle, of a core": share["idle"],
        "with reports": share["reports"],
        "with reports, page and metrics": share["all"],
        "page, bytes": viewer.page_bytes,
        "metrics, bytes": viewer.metrics_bytes,
        "events, bytes a second": viewer.event_bytes / (_ROUNDS * _SECONDS),
    }
    text = f"reports, page and metrics of {DEVICES} devices, share of one core"
    return [claim(text, share["all"] - share["idle"], _MOST)], details


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
