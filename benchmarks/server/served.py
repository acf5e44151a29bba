"""A real ``cloud-server`` with the keys of a fleet on its allow-list."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import zmq

from benchmarks.demo.prepared import BUNDLE
from benchmarks.demo.rig import Rig
from benchmarks.server import process
from split_model.protocol.keys import KeyPair

#: Devices on the allow-list of every server that the benchmark starts.
DEVICES = 200
#: Keys of the config that most scenes change; the rest are the product's defaults.
_LIMITS = {"peers": 4096, "queue": 1024}


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server that runs: where, by which key, for which devices, and its processes.

    ``counter``: the file with the CPU time of its tails, where that is counted (`in_place`).
    """

    endpoint: str
    public_key: str
    keys: tuple[KeyPair, ...]
    pids: tuple[int, ...]
    config: Path
    counter: Path | None = None

    def pss_mb(self) -> float:
        """Memory of all its processes."""
        return process.pss_mb(self.pids)


@contextlib.contextmanager
def served(
    *,
    devices: int = DEVICES,
    threads: int = 2,
    limits: Mapping[str, int] | None = None,
    weights: Mapping[int, int] | None = None,
    server_keys: str = "",
    counted: bool = False,
    core: int | None = None,
) -> Iterator[Served]:
    """Start a server for ``devices`` devices and stop it at the end.

    Args:
        devices: Number of keys on the allow-list.
        threads: Worker threads.
        limits: Keys of ``[limits]``, in place of the benchmark's own.
        weights: The weight of some devices, by their number.
        server_keys: More lines for ``[server]``.
        counted: Whether the CPU time of its tails is counted where they run.
        core: The only core that it may use; None for all.

    """
    keys = tuple(KeyPair(*zmq.curve_keypair()) for _ in range(devices))
    with tempfile.TemporaryDirectory(prefix="server-") as folder, Rig(Path(folder)) as rig:
        lines = [f"device-{number} {pair.public.decode()}" for number, pair in enumerate(keys)]
        for number, weight in (weights or {}).items():
            lines[number] += f" weight={weight}"
        (rig.folder / "devices").write_text("\n".join(lines) + "\n")
        config = rig.folder / "server.toml"
        config.write_text(
            '[server]\nlisten = "tcp://127.0.0.1:0"\nkey = "server.key"\ndevices = "devices"\n'
            f"bundles = [{json.dumps(str(BUNDLE))}]\nthreads = {threads}\npreload = true\n{server_keys}[limits]\n"
            + "".join(f"{key} = {value}\n" for key, value in {**_LIMITS, **(limits or {})}.items())
        )
        rig.run("cloud-server keys", "-m", "cloud_server", "keys", "make", "-c", str(config))
        counter = rig.folder / "tails" if counted else None
        port = rig.serve(
            config,
            by=() if counter is None else ("benchmarks.server.in_place", str(counter)),
            prefix=() if core is None else ("taskset", "--cpu-list", str(core)),
        )
        public_key = (config.parent / "server.pub").read_text().strip()
        pids = tuple(program.process.pid for program in rig.programs)
        yield Served(
            endpoint=f"tcp://127.0.0.1:{port}",
            public_key=public_key,
            keys=keys,
            pids=pids,
            config=config,
            counter=counter,
        )
