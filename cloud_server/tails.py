"""The hosted tails: offers to devices, checks of requests, and recovery of features from payloads."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cloud_server.decoder_cache import DecoderCache
from cloud_server.plan_cache import PlanCache
from split_model.arrays import Array
from split_model.bundle import Bundle, Cut, FileRef
from split_model.errors import BadBundleError, ConfigError, MissingInputError, ProtocolError, SplitModelError
from split_model.interpreter import Interpreter, open_interpreter
from split_model.privacy import (
    CodebookPlan,
    CodebookSpec,
    NoiseRecovery,
    NoiseSpec,
    PlanMaker,
    recover_codebook,
)
from split_model.privacy.codebook import codeword_bytes
from split_model.privacy.codebook_file import Decoder, read_decoder
from split_model.privacy.packing import packed_bytes
from split_model.protocol import messages as wire

#: (bundle identity, op index of the cut, and of a noise-aware tail the per-value epsilon it is for)
TailId = tuple[str, int, float | None]
Reason = tuple[wire.RefusalCode, str]
Spec = NoiseSpec | CodebookSpec
#: Undoes a release: the plan of a codebook, or the recovery of a noise plan.
Undo = NoiseRecovery | CodebookPlan

#: Maximum number of noise plans in memory.
PLANS = 64
_DECODERS_BYTES = 128 << 20


class UnknownReleaseError(ProtocolError):
    """The release cannot be undone here, or was made under a different plan."""


@dataclass(frozen=True)
class Tail:
    """One tail: its cut and its file; ``epsilon`` is set for a tail trained on noise of that epsilon."""

    bundle: Bundle
    cut: Cut
    epsilon: float | None = None

    @cached_property
    def id(self) -> TailId:
        """The id of this tail."""
        return self.bundle.identity, self.cut.index, self.epsilon

    @cached_property
    def file(self) -> FileRef:
        """The tail's ``.tflite``, by the manifest."""
        return next((noisy.tail for noisy in self.cut.noise_tails if noisy.epsilon == self.epsilon), self.cut.tail)

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.bundle.path(self.file)

    def read(self) -> bytes:
        """Read the file; `BadBundleError` if it no longer matches the manifest."""
        return self.bundle.read(self.file)

    def load(self, content: bytes, *, threads: int, batch: int = 1) -> Interpreter:
        """Make an interpreter of the bytes of `read`, for ``batch`` frames; several may share the bytes.

        It uses bytes, not the file: a mapped file that is rewritten in place ends the process (SIGBUS).

        Raises:
            BadBundleError: Its tensors are not those of the manifest.

        """
        interpreter = open_interpreter(content, source=str(self.path), threads=threads, batch=batch)
        wanted = [
            ((batch, *tensor.shape[1:]) if batch > 1 else tensor.shape, tensor.dtype) for tensor in self.cut.tensors
        ]
        if [(tensor.shape, tensor.dtype) for tensor in interpreter.inputs] != wanted:
            raise BadBundleError(
                f"{self.path}: its inputs are not the live tensors of cut {self.cut.index}",
                remedy="prepare the bundle again",
            )
        return interpreter


class TailSet:
    """The tails of all bundles. Thread-safe; only the caches of plans and codebooks ever change.

    ``plans``: limit of noise plans in memory, over all devices.
    """

    def __init__(self, bundles: Iterable[Bundle], *, plans: int = PLANS) -> None:
        self.bundles = {bundle.identity: bundle for bundle in bundles}
        self.tails = {
            (identity, cut.index): Tail(bundle, cut)
            for identity, bundle in self.bundles.items()
            for cut in bundle.manifest.cuts
        }
        self.noise_tails = {
            (*key, noisy.epsilon): Tail(tail.bundle, tail.cut, noisy.epsilon)
            for key, tail in self.tails.items()
            for noisy in tail.cut.noise_tails
        }
        self.offers = tuple(
            wire.Offer(
                identity=identity,
                name=bundle.manifest.name[:1000],
                cuts=tuple(cut.index for cut in bundle.manifest.cuts),
            )
            for identity, bundle in self.bundles.items()
        )
        if len(wire.encode(self._largest_welcome())) > wire.MAX_HEADER_BYTES:
            raise ConfigError(
                f"server.bundles: the list of {len(self.bundles)} bundles is too long for a device to take",
                remedy="host fewer on one server, or give them shorter names",
            )
        self._plans = PlanCache(plans)
        # Any device may ask for a plan of a new epsilon, so a plan must be cheap.
        self._makers: dict[tuple[str, int], PlanMaker] = {}
        self._decoders = DecoderCache(_DECODERS_BYTES)
        self._lock = threading.Lock()

    def _largest_welcome(self) -> wire.Welcome:
        most = (1 << 40) - 1
        return wire.Welcome(version=1, boot_id="x" * 64, window_bytes=most, request_bytes=most, offers=self.offers)

    @classmethod
    def open(cls, paths: Sequence[Path]) -> TailSet:
        """Open bundles, and folders of bundles, and check every file's hash."""
        return cls([Bundle.open(root) for path in paths for root in find_bundles(path)])

    def every(self) -> list[Tail]:
        """All tails, plain and noise-aware."""
        return [*self.tails.values(), *self.noise_tails.values()]

    def tail_for(self, request: wire.Request) -> Tail:
        """The tail for an admitted request: the one trained for exactly this noise if there is one."""
        key = (request.bundle, request.cut)
        if isinstance(request.release, wire.Noise):
            return self.noise_tails.get((*key, request.release.spec.epsilon), self.tails[key])
        return self.tails[key]

    def admit(self, request: wire.Request) -> Reason | None:
        """Check a request against the hosted tails: the refusal's code and text, or None if it fits.

        It is quick, as it runs in the gateway's thread: a new noise plan is left to `features`.
        """
        if request.bundle not in self.bundles:
            return "unknown_bundle", f"bundle {request.bundle[:12]} is not hosted here; copy it to the server"
        tail = self.tails.get((request.bundle, request.cut))
        if tail is None:
            return "unknown_cut", f"bundle {request.bundle[:12]} has no tail at cut {request.cut} here"
        known: Undo | str | None = None
        wanted = tail.cut.raw_bytes
        if isinstance(request.release, wire.Noise):
            if tail.cut.calibration is None:
                return "unknown_release", f"cut {request.cut} has no calibration; prepare with --calibration"
            with self._lock:
                known = self._plans.get(_plan_key(tail, request.release.spec))
            wanted = packed_bytes(tail.cut.values, request.release.spec.bits)
        elif isinstance(request.release, wire.Codebook):
            known = _codebook_plan(tail, request.release.spec)
            wanted = request.release.spec.groups * codeword_bytes(request.release.spec.codewords)
        if known is not None:
            try:
                _check_plan(known, request.release)
            except UnknownReleaseError as error:
                return "unknown_release", str(error)
        if request.total_bytes != wanted:
            return (
                "size",
                f"{request.total_bytes} bytes of features, cut {request.cut} under this release has {wanted}",
            )
        return None

    def features(self, tail: Tail, release: wire.Release, payload: bytearray, *, device: str) -> list[Array]:
        """Recover the tail's input arrays from a payload: raw bytes, noise undone, or codewords looked up.

        ``device``: its key, for its share of the cached plans. Raises `UnknownReleaseError` if device and server
        have different plans, `ProtocolError` for a codeword that the codebook does not have.
        """
        if not isinstance(release, wire.NoRelease):
            undo = _check_plan(self._undo(tail, release.spec, device=device), release)
            if isinstance(undo, CodebookPlan):
                return recover_codebook(undo, self._decoder(tail, undo, device), payload)
            return undo(payload)
        arrays: list[Array] = []
        offset = 0
        for tensor in tail.cut.tensors:
            flat = np.frombuffer(payload, dtype=tensor.dtype, count=tensor.size, offset=offset)
            arrays.append(flat.reshape(tensor.shape))
            offset += tensor.nbytes
        return arrays

    def _decoder(self, tail: Tail, plan: CodebookPlan, device: str) -> Decoder:
        key = (tail.id, plan.spec.codewords, plan.spec.groups)
        path = tail.bundle.path(plan.book.file)
        return self._decoders.get(key, lambda: read_decoder(path, plan.book, plan.tensors), device=device)

    def _undo(self, tail: Tail, spec: Spec, *, device: str) -> Undo | str:
        """The recovery of a release, or the reason why there is none.

        A noise plan is made by a worker, as it is slow with thousands of channels. It is cached even if the
        device's plan differs: otherwise it would be made again for each of its requests.
        """
        if isinstance(spec, CodebookSpec):
            return _codebook_plan(tail, spec)
        key = _plan_key(tail, spec)
        with self._lock:
            known = self._plans.get(key)
            if known is not None:
                self._plans.use(key, known, device=device)
                return known
        made: NoiseRecovery | str
        try:
            made = NoiseRecovery(self._maker(tail).make(spec))
        except SplitModelError as error:
            made = str(error)
        with self._lock:
            self._plans.use(key, made, device=device)
        return made

    def _maker(self, tail: Tail) -> PlanMaker:
        """The maker of a cut's plans; a noise-aware tail uses that of the plain one."""
        key = (tail.bundle.identity, tail.cut.index)
        maker = self._makers.get(key)
        if maker is None:
            maker = self._makers[key] = PlanMaker(tail.cut.tensors, tail.cut.calibration or ())
        return maker


def _plan_key(tail: Tail, spec: NoiseSpec) -> tuple[str, int, NoiseSpec]:
    """The cache key of a plan; a noise-aware tail uses that of the plain one."""
    return tail.bundle.identity, tail.cut.index, spec


def _codebook_plan(tail: Tail, spec: CodebookSpec) -> CodebookPlan | str:
    """A codebook's plan, or the reason why there is none. It is a quick hash, and not cached."""
    try:
        return CodebookPlan.make(spec, tail.cut)
    except SplitModelError as error:
        return str(error)


def _check_plan(undo: Undo | str, release: wire.Release) -> Undo:
    if isinstance(undo, str):
        raise UnknownReleaseError(undo)
    kind, plan = ("noise", undo.plan) if isinstance(undo, NoiseRecovery) else ("codebook", undo)
    if not isinstance(release, wire.NoRelease) and plan.digest != release.digest:
        text = f"{kind} plan {release.digest} differs from {plan.digest} here; run the same version on both sides"
        raise UnknownReleaseError(text)
    return undo


def find_bundles(path: Path) -> list[Path]:
    """``path`` itself if it is a bundle, else all bundles directly in it, by name."""
    if (path / "manifest.json").is_file():
        return [path]
    try:
        found = sorted(child for child in path.iterdir() if (child / "manifest.json").is_file())
    except OSError as error:
        raise MissingInputError(
            f"{path}: {error.strerror}", remedy="name a bundle or a folder of bundles"
        ) from None
    if not found:
        raise MissingInputError(
            f"{path}: neither a bundle nor a folder of bundles", remedy="run 'split-model prepare'"
        )
    return found
