"""A replica process of a cluster: loads tails from the node's files, and runs them. Independent of Ray.

Arguments and results are bytes (`replica_messages`). Calls come one at a time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np

from cloud_server.engines import replica_messages as messages
from cloud_server.engines.emulated_tails import tail_set
from cloud_server.engines.node_files import NodeFiles, default_folder
from cloud_server.engines.replica_messages import Answer, Hello, Preloaded, TailJob, TailOutcome
from cloud_server.jobs import Failed, Job
from cloud_server.tail_pool import TailPool
from cloud_server.tail_runner import Ran, TailRunner
from cloud_server.tails import Tail, TailId, TailSet
from split_model import __version__
from split_model.bundle import Bundle
from split_model.errors import SplitModelError
from split_model.interpreter import choose_backend
from split_model.protocol import messages as wire
from split_model.service.heartbeats import Heartbeats

#: Nice value of a replica relative to a gateway on the same machine.
_NICER = 5


class Replica:
    """The tails of one process.

    Args:
        settings: An encoded `replica_messages.Settings`.

    """

    def __init__(self, settings: bytes) -> None:
        os.nice(_NICER)
        chosen = messages.decode_settings(settings)
        folder = Path(chosen.node_files) if chosen.node_files else default_folder()
        self._files = NodeFiles(folder, limit_bytes=chosen.node_files_bytes)
        self._emulated_tail_s = chosen.emulated_tail_s
        self._pool = TailPool(chosen.cache_bytes, tail_threads=chosen.tail_threads, clock=time.monotonic)
        self._bundles: dict[str, Bundle] = {}
        self._tails = TailSet([])
        self._runner = TailRunner(
            self._tails,
            self._pool,
            clock=time.monotonic,
            tail_threads=chosen.tail_threads,
            beats=Heartbeats(),
        )

    def hello(self, node: str) -> bytes:
        """Describe this replica; ``node``: the node that Ray chose."""
        name = choose_backend(None)
        backend = f"{name} {metadata.version(name)}"
        return messages.encode(Hello(node=node, pid=os.getpid(), software=__version__, backend=backend))

    def host(self, identities: list[str]) -> None:
        """Drop all bundles that are not among these."""
        self._take_up({identity: bundle for identity, bundle in self._bundles.items() if identity in identities})

    def run(self, batch: bytes) -> bytes:
        """Run an encoded list of `TailJob`; returns an encoded `Answer`, which may list missing files."""
        jobs = messages.decode_jobs(batch)
        try:
            missing = self._missing((job.tail, job.release) for job in jobs)
        except SplitModelError as error:
            return messages.encode(Answer(outcomes=[_not_run(job, error) for job in jobs]))
        if missing:
            return messages.encode(Answer(missing=missing))
        self._runner.tails = self._tails
        ran = self._runner.run_all([self._job(job) for job in jobs])
        return messages.encode(Answer(outcomes=[_outcome(one) for one in ran]))

    def preload(self, tails: bytes) -> bytes:
        """Load the tails of an encoded list of `TailId`, and run each once; returns an encoded `Preloaded`."""
        wanted = messages.decode_tails(tails)
        try:
            missing = self._missing((tail, wire.NoRelease()) for tail in wanted)
            if missing:
                return messages.encode(Preloaded(missing=missing))
            for tail in wanted:
                borrowed = self._pool.borrow(self._tail(tail), device="")
                borrowed.interpreter.run([np.zeros(spec.shape, spec.dtype) for spec in borrowed.interpreter.inputs])
                self._pool.give_back(borrowed)
        except SplitModelError as error:
            return messages.encode(Preloaded(error=str(error)))
        return messages.encode(Preloaded())

    def add(self, sha256: str, fetch: Callable[[], bytes]) -> str:
        """Add a file to the node, unless another replica has. Returns the error, or an empty text."""
        try:
            self._files.add(sha256, fetch)
        except SplitModelError as error:
            return str(error)
        return ""

    def _missing(self, wanted: Iterable[tuple[TailId, wire.Release]]) -> list[str]:
        """Hashes of needed files that are missing on this node; opens the bundles that are complete."""
        return self._files.missing(dict.fromkeys(self._needed(wanted)))

    def _needed(self, wanted: Iterable[tuple[TailId, wire.Release]]) -> Iterator[str]:
        for tail_id, release in wanted:
            identity = tail_id[0]
            if identity not in self._bundles:
                if self._files.missing([identity]):
                    yield identity
                    continue
                self._take_up({**self._bundles, identity: self._files.bundle(identity)})
            tail = self._tail(tail_id)
            yield tail.file.sha256
            if isinstance(release, wire.Codebook):
                spec = release.spec
                yield from (
                    book.file.sha256
                    for book in tail.cut.codebooks
                    if (book.codewords, book.groups) == (spec.codewords, spec.groups)
                )

    def _take_up(self, bundles: dict[str, Bundle]) -> None:
        self._bundles = bundles
        self._tails = tail_set(bundles.values(), emulated_tail_s=self._emulated_tail_s)

    def _tail(self, tail_id: TailId) -> Tail:
        identity, cut, epsilon = tail_id
        if epsilon is None:
            return self._tails.tails[identity, cut]
        return self._tails.noise_tails[identity, cut, epsilon]

    def _job(self, job: TailJob) -> Job:
        now_s = time.monotonic()
        return Job(
            job_id=job.job_id,
            device=job.device,
            tail=self._tail(job.tail),
            release=job.release,
            payload=job.payload,
            queued_s=now_s,
            due_s=now_s,
        )


def _not_run(job: TailJob, error: SplitModelError) -> TailOutcome:
    return TailOutcome(job_id=job.job_id, used_s=0.0, loaded=True, code="failed", text=error.problem)


def _outcome(ran: Ran) -> TailOutcome:
    outcome = ran.outcome
    if isinstance(outcome, Failed):
        return TailOutcome(
            job_id=outcome.job_id, used_s=ran.used_s, loaded=ran.loaded, code=outcome.code, text=outcome.text
        )
    return TailOutcome(
        job_id=outcome.job_id,
        used_s=ran.used_s,
        loaded=ran.loaded,
        tail_s=outcome.tail_s,
        tensors=outcome.tensors,
        payload=outcome.payload,
    )
