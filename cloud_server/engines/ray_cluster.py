"""The connection to a Ray cluster: its nodes, and replicas as actors. No other module uses Ray."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from cloud_server.engines import ray_access
from cloud_server.engines.replica_messages import Settings, encode
from cloud_server.engines.tables import RayTable
from cloud_server.errors import EngineError
from split_model.errors import ConfigError

#: Time limit of the test of the cluster's access control, in seconds.
_STRANGER_S = 30
#: Ray's folder. A session's sockets are below it, so the path has to be short.
_FOLDER = "cloud-server-ray-"


@dataclass(frozen=True)
class Node:
    """A live node: its address, and the cores that Ray may use there."""

    host: str
    cpus: float


@dataclass(frozen=True)
class Lost:
    """A call without an answer: the replica's process or node ended. ``gone``: Ray does not restart it."""

    text: str
    gone: bool = False


@dataclass(frozen=True)
class Raised:
    """A call that raised an error in the replica."""

    text: str


Reply = bytes | Lost | Raised


class RayCluster:
    """A connection to Ray, one per process. Thread-safe.

    Args:
        table: The config.
        settings: The settings of each replica.
        cpus: Cores of a Ray that is started here.

    Raises:
        ConfigError: The cluster is open to strangers.
        EngineError: There is no cluster, or Ray is not installed.

    """

    def __init__(self, table: RayTable, settings: Settings, *, cpus: int) -> None:
        ray_access.check(table)
        ray_access.check_files(table, is_readable=lambda path: os.access(path, os.R_OK))
        self._settings = encode(settings)
        self._tail_threads = settings.tail_threads
        self._actors: dict[str, Any] = {}
        self._folder: Path | None = None
        self._closed = False
        token = secrets.token_hex(32) if table.address == "local" else None
        os.environ.update(ray_access.environment(table, token=token))  # Ray reads them at its import
        try:
            self._ray: Any = import_module("ray")
            self._errors: Any = import_module("ray.exceptions")
            actor: Any = import_module("cloud_server.engines.ray_actor").RayReplica
        except ImportError as error:
            raise EngineError(
                f"engine.kind = 'ray': {error}", remedy="install it: pip install 'split-runtime[ray]'"
            ) from None
        try:
            before = _own_listeners()
            self._connect(table, cpus)
            self._node_id = self._ray.get_runtime_context().get_node_id()
            ray_access.check_listening(table, self._listening_on(table, before))
            if table.address != "local" and table.token is not None:
                _refuses_strangers(table.address)
        except BaseException:
            self.close()
            raise
        self._actor = self._ray.remote(actor)

    def nodes(self) -> list[Node]:
        """The live nodes.

        Raises:
            EngineError: This machine's own node is not among them, so no call of this process will run.

        """
        alive = [node for node in self._ray.nodes() if node["Alive"]]
        if self._node_id not in [node["NodeID"] for node in alive]:
            raise EngineError("engine: this machine's node of the cluster is gone")
        return [Node(node["NodeManagerAddress"], node["Resources"].get("CPU", 0.0)) for node in alive]

    def create(self, name: str) -> None:
        """Make a replica; Ray chooses a node with few of them, and restarts it when it ends."""
        self._actors[name] = self._actor.options(
            num_cpus=self._tail_threads, max_restarts=-1, max_task_retries=0, scheduling_strategy="SPREAD"
        ).remote(self._settings)

    def call(
        self, name: str, method: str, *arguments: Any, then: Callable[[Reply], None], wait: bool = False
    ) -> None:
        """Call a method of a replica.

        Args:
            name: The replica.
            method: The method's name.
            *arguments: Its arguments.
            then: Called with the result in one of Ray's threads; must return at once.
            wait: Whether to repeat the call when a lost replica is back.

        """
        actor = self._actors.get(name)
        if actor is None:
            then(Lost("it was ended", gone=True))
            return
        bound = getattr(actor, method)
        call = bound.options(max_task_retries=-1) if wait else bound
        future: Future[bytes] = call.remote(*arguments).future()
        future.add_done_callback(partial(self._done, then))

    def put(self, content: bytes) -> object:
        """Store content for replicas: sent once to each node that needs it, while the result is referenced."""
        return self._ray.put(content)

    def end(self, name: str) -> None:
        """End a replica for good."""
        actor = self._actors.pop(name, None)
        if actor is not None:
            self._ray.kill(actor)

    def restart(self, name: str) -> None:
        """End a stuck replica; Ray restarts it."""
        actor = self._actors.get(name)
        if actor is not None:
            self._ray.kill(actor, no_restart=False)

    def close(self) -> None:
        """End the replicas, disconnect, and end a Ray that was started here. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for name in list(self._actors):
            self.end(name)
        self._ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _done(self, then: Callable[[Reply], None], future: Future[bytes]) -> None:
        error = future.exception()
        if error is None:
            then(future.result())
        elif isinstance(error, self._errors.RayTaskError):
            then(Raised(" ".join(str(error.cause).split())))
        else:
            then(Lost(" ".join(str(error).split())[:200], gone=isinstance(error, self._errors.ActorDiedError)))

    def _listening_on(self, table: RayTable, before: set[tuple[str, int]]) -> list[str]:
        """The addresses of Ray: those of its nodes, and those that its ports are bound to on this machine."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        ports = {int(node[key]) for node in nodes for key in ("NodeManagerPort", "ObjectManagerPort")}
        if table.address != "local":
            ports.add(int(table.address.rpartition(":")[2]))
        bound = _own_listeners() - before
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                bound |= _listeners(process.net_connections("tcp"))
        bound |= {(host, port) for host, port in _listeners(psutil.net_connections("tcp")) if port in ports}
        return [str(node["NodeManagerAddress"]) for node in nodes] + [host for host, _ in bound]

    def _connect(self, table: RayTable, cpus: int) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if table.address == "local":
            self._folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
            options |= {
                "address": "local",
                "num_cpus": cpus,
                "include_dashboard": False,
                "object_store_memory": table.object_store_mib << 20,
                "_node_ip_address": ray_access.LOOPBACK,
                "_temp_dir": str(self._folder),
            }
        else:
            options["address"] = table.address
        try:
            self._ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            text = " ".join(str(error).split())[:300]
            raise EngineError(
                f"engine.address = {table.address!r}: {text}",
                remedy="see docs/cluster.md, and run 'ray status' on a node",
            ) from None


def _refuses_strangers(address: str) -> None:
    """Prove that the cluster demands the token: one that was started without it accepts ours unchecked.

    Raises:
        ConfigError: It admits clients without a token.
        EngineError: It does not answer.

    """
    command = [sys.executable, "-m", "cloud_server.engines.ray_stranger", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_STRANGER_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        done = subprocess.CompletedProcess(command, os.EX_UNAVAILABLE, "", f"no answer within {_STRANGER_S} s")
    if done.returncode == 0:
        raise ConfigError(
            f"engine.address: the cluster at {address} admits clients without a token",
            remedy="start every node with RAY_AUTH_MODE=token, as deploy/ray/start-node.sh does",
        )
    if done.returncode != os.EX_NOPERM:
        text = " ".join(done.stderr.split())[-300:]
        raise EngineError(f"engine.address = {address!r}: unclear result of a client without a token: {text}")


def _own_listeners() -> set[tuple[str, int]]:
    return _listeners(psutil.Process().net_connections("tcp"))


def _listeners(connections: Iterable[Any]) -> set[tuple[str, int]]:
    return {(one.laddr.ip, one.laddr.port) for one in connections if one.status == psutil.CONN_LISTEN}
