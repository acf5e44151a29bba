"""A job, which is one tail to run, and its outcome."""

from __future__ import annotations

import re

import msgspec

from cloud_server.tails import Tail, TailId
from split_model.protocol import messages as wire

#: Matches the folders of an absolute path in a text.
_FOLDERS = re.compile(r"(?<![\w.~-])/(?:[^\s/:;,'\"()]+/)+")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One tail to run. ``due_s``: when its answer is due, on the engine's clock.

    ``device``: the key of its device. Keys share the workers, the queue and the caches by their weights.
    """

    job_id: int
    device: str
    tail: Tail
    release: wire.Release
    payload: bytearray
    queued_s: float
    due_s: float

    @property
    def tail_id(self) -> TailId:
        """The id of the job's tail."""
        return self.tail.id


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The outputs of a job, concatenated in ``payload``, with its seconds of waiting and running."""

    job_id: int
    tensors: tuple[wire.AnswerTensor, ...]
    payload: bytes
    queue_s: float
    tail_s: float


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """A job without outputs, with the reason."""

    job_id: int
    code: wire.RefusalCode
    text: str


Outcome = Done | Failed


def expired(job: Job) -> Failed:
    """The outcome of a job that waited for too long."""
    return Failed(job_id=job.job_id, code="expired", text="no worker was free early enough to answer in time")


def failed(job: Job, text: str, *, code: wire.RefusalCode = "failed") -> Failed:
    """Make the device's error text: the problem, without paths of this machine."""
    told = text.replace(f"{job.tail.bundle.root}/", "")
    return Failed(job_id=job.job_id, code=code, text=" ".join(_FOLDERS.sub("", told).split())[:1000])
