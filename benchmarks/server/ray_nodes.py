"""A Ray cluster of two nodes on this machine, in child processes; for tests and benchmarks."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import psutil

from cloud_server.engines import ray_access

_STORE_BYTES = 80 << 20
_END_S = 5.0


class TwoNodes:
    """A head and another node, one core each. Both listen on loopback.

    Set `ray_access.environment` before; Ray reads it where it is imported.
    """

    def __init__(self, *, both: bool = True) -> None:
        from ray._common.utils import get_default_ray_temp_dir
        from ray.cluster_utils import Cluster

        # `Cluster` writes the head's address there, whatever its temp_dir, and makes no folder.
        Path(get_default_ray_temp_dir()).mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.mkdtemp(prefix="ray-")
        self._common = {
            "node_ip_address": ray_access.LOOPBACK,
            "object_store_memory": _STORE_BYTES,
            "include_log_monitor": False,
            "temp_dir": self._folder,
            "num_cpus": 1,
        }
        self._cluster: Any = Cluster(
            initialize_head=True, head_node_args={**self._common, "include_dashboard": False}
        )
        self._other: Any = None
        if both:
            self.new_node()

    @property
    def address(self) -> str:
        """Address of the head."""
        return str(self._cluster.address)

    def kill_node(self) -> None:
        """Kill the node that is not the head, as if its power failed."""
        self._cluster.remove_node(self._other, allow_graceful=False)

    def new_node(self) -> None:
        """Start the node that is not the head, again if it was killed."""
        self._other = self._cluster.add_node(**self._common, wait=False)

    def replicas(self) -> list[psutil.Process]:
        """Return the processes that run tails."""
        return [
            process
            for process in psutil.Process().children(recursive=True)
            if process.name().startswith("ray::RayReplica")
        ]

    def close(self) -> None:
        """End all processes of the cluster."""
        processes = [one for one in psutil.Process().children(recursive=True) if _is_rays(one)]
        self._cluster.shutdown()
        for process in psutil.wait_procs(processes, timeout=_END_S)[1]:
            process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def _is_rays(process: psutil.Process) -> bool:
    try:
        return "ray" in " ".join(process.cmdline())
    except psutil.Error:
        return False
