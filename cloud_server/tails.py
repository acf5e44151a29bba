"""The tails this server hosts: the offers, the check of requests, and features from payloads."""

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
#: What undoes a release: the plan of a codebook, or the recovery of a noise plan.
Undo = NoiseRecovery | CodebookPlan

#: Noise plans in memory.
PLANS = 64
_DECODERS_BYTES = 128 << 20


class UnknownReleaseError(ProtocolError):
    """A release that this side cannot undo, or under a plan that differs."""


@dataclass(frozen=True)
class Tail:
    """One tail: the cut it belongs to and its file; ``epsilon`` is set for one trained on noise of that epsilon."""

    bundle: Bundle
    cut: Cut
    epsilon: float | None = None

    @cached_property
    def id(self) -> TailId:
        """What names this tail."""
        return self.bundle.identity, self.cut.index, self.epsilon

    @cached_property
    def file(self) -> FileRef:
        """The tail's ``.tflite``, as the manifest has it."""
        return next((noisy.tail for noisy in self.cut.noise_tails if noisy.epsilon == self.epsilon), self.cut.tail)

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.bundle.path(self.file)

    def read(self) -> bytes:
        """The file's bytes; `BadBundleError` where it is no longer the one of the manifest."""
        return self.bundle.read(self.file)

    def load(self, content: bytes, *, threads: int, batch: int = 1) -> Interpreter:
        """An interpreter of the bytes that `read` gave, for ``batch`` frames at a time; several may share them.

        Of bytes, not of the file: a file that is rewritten in place while it is mapped ends the process (SIGBUS).

        Raises:
            BadBundleError: Its tensors are not those the manifest names.

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
    """The tails of all bundles. Safe for several threads; only the caches of plans and codebooks ever change.

    ``plans``: the limit of noise plans in memory, over all devices.
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
        # Any device may ask for a plan of a new epsilon, so that must not cost much.
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
        """Plain and noise-aware ones."""
        return [*self.tails.values(), *self.noise_tails.values()]

    def tail_for(self, request: wire.Request) -> Tail:
        """The tail for an admitted request: the one trained for exactly this noise, where there is one."""
        key = (request.bundle, request.cut)
        if isinstance(request.release, wire.Noise):
            return self.noise_tails.get((*key, request.release.spec.epsilon), self.tails[key])
        return self.tails[key]

    def admit(self, request: wire.Request) -> Reason | None:
        """Check a request against the hosted tails: the refusal's code and text, or None if it fits.

        Quick, for it stands in the gateway's way: a noise plan nobody has asked for yet is left to `features`.
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
        """A payload as the arrays that the tail takes: raw bytes as they are, noise undone, codewords looked up.

        ``device``: whose it is, for its share of the plans that are kept.
        Raises `UnknownReleaseError` where device and server do not come to the same plan, `ProtocolError` for a
        codeword that the codebook does not have.
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
        """What undoes a release, or why there is nothing.

        A noise plan is made by a worker, for with thousands of channels it takes a while, and kept even where the
        device's differs: else it would be made again for each of its requests.
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
        """What makes the plans of a cut; a noise-aware tail has those of the plain one."""
        key = (tail.bundle.identity, tail.cut.index)
        maker = self._makers.get(key)
        if maker is None:
            maker = self._makers[key] = PlanMaker(tail.cut.tensors, tail.cut.calibration or ())
        return maker


def _plan_key(tail: Tail, spec: NoiseSpec) -> tuple[str, int, NoiseSpec]:
    """What a plan follows from: a noise-aware tail has that of the plain one."""
    return tail.bundle.identity, tail.cut.index, spec


def _codebook_plan(tail: Tail, spec: CodebookSpec) -> CodebookPlan | str:
    """A codebook's plan, or why there is none. It is a hash, quickly made, and not kept."""
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
    """``path`` itself where it is a bundle, else every bundle directly in it, by name."""
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
