"""A server with its page, and a browser's requests without a browser."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest

from cloud_server.web import password
from split_model.protocol import messages as wire
from tests.device_reports import make_report

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
