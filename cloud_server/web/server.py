"""The thread that serves the page, with its socket and TLS.

It reads copies of the gateway thread's state, and has a lower priority: viewers of the page delay no device.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

from cloud_server.config import StatisticsTable, WebTable
from cloud_server.fleet.overview import Overview
from split_model.errors import ConfigError, OutputError
from split_model.service.stoppable_thread import StoppableThread

if TYPE_CHECKING:
    pass

_log = logging.getLogger(__name__)

_LIBRARIES = ("jinja2", "prometheus_client", "starlette", "uvicorn")
_NICER = 10
_BACKLOG = 64
#: Maximum connections of browsers and scrapers at a time, those of live pages included.
_MOST_CONNECTIONS = 64
_START_WITHIN_S = 10.0


class WebServer:
    """Serves the page. ``address``: its URL for a browser on this machine.

    Raises:
        ConfigError: The libraries are not installed, or the certificate is invalid.
        OutputError: The address is unavailable.

    """

    def __init__(self, table: WebTable, overview: Overview, *, statistics: StatisticsTable | None = None) -> None:
        check_libraries()
        import uvicorn

        from cloud_server.web.app import make_app

        _check_certificate(table)
        self._socket = _listen(*table.address)
        host, port = self._socket.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{'https' if table.has_tls else 'http'}://{shown}:{port}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                make_app(table, overview, statistics=statistics, clock=time.monotonic),
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_MOST_CONNECTIONS,
                h11_max_incomplete_event_size=16 << 10,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=1,
                ssl_certfile=table.certificate,
                ssl_keyfile=table.certificate_key,
            )
        )
        self._thread = StoppableThread("web", self._run, wake=self._ask_to_exit)

    def start(self) -> None:
        """Start the thread, and wait until it serves."""
        self._thread.start()
        deadline_s = time.monotonic() + _START_WITHIN_S
        while not self._server.started and self._thread.is_alive() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        if not self._server.started:
            raise OutputError(f"the page at {self.address} does not start", remedy="see the log")

    def close(self) -> None:
        """Stop serving; streams are cut after a second."""
        self._thread.stop()
        self._socket.close()

    def _ask_to_exit(self) -> None:
        self._server.should_exit = True

    def _run(self) -> None:
        thread = threading.get_native_id()
        try:
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICER)
        except PermissionError:
            _log.warning("the page's thread may not lower its priority")
        self._server.run(sockets=[self._socket])


def check_libraries() -> None:
    """Raise `ConfigError` if a library of the page is not installed; imports nothing."""
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"[web] needs packages that are not installed: {', '.join(missing)}",
            remedy="pip install 'split-runtime[web]', or deploy-server.sh --with web, or take [web] out",
        )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise OutputError(
            f"web.listen {host}:{port}: {error.strerror}", remedy="choose another port, or stop what listens there"
        ) from None
    return listening


def _check_certificate(table: WebTable) -> None:
    if table.certificate is None or table.certificate_key is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            table.certificate, table.certificate_key
        )
    except OSError as error:  # SSLError is one
        raise ConfigError(
            f"web.certificate {table.certificate}: {error.strerror or error}",
            remedy="name a PEM certificate and its key, both readable for the service's user",
        ) from None
