"""Does what leaves keep the release's ε? Checks on the user's own bundle, through the wire.

Every value of a noise release has noise of its own, so one payload is thousands of trials. Frames are made in the
features' space, and the release that a device uses puts them on the wire:

- *noise of each channel*: all values of channel c at one place of the grid, or d steps above it. The release lets
  the ratio of probabilities be e^(ε_c·d/L_c) at most; two events whose probabilities are exactly that far apart
  were chosen before any payload was seen, and Clopper-Pearson bounds on their counts say what the trials prove.
- *clipping*: values far outside the clip range, against values at its rim. They are the same to the release, so
  anything that tells them apart is a bug: the claim is 0.
- *length*: dark, bright and mixed frames have payloads of one length.
- *fresh randomness*: devices that start anew send the same frame in other bytes.

For codebooks: the codewords that arrive for two frames, against ε of a group. A proof above the claim is wrong with
a chance of 10^-6 at most, all channels of a check together; a bound below the claim proves nothing. For each check
the text says how much could have been proven with these trials.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.audit.bounds import at_least, at_most
from split_model.audit.cut_under_attack import FeatureReader
from split_model.audit.pictures import Floats, PictureSpace
from split_model.audit.results import WireCheck
from split_model.audit.settings import Wishes, describe
from split_model.audit.wire import Wire, connected
from split_model.audit.wire_channels import Channels, Places
from split_model.bundle import Bundle, Cut
from split_model.privacy import (
    CodebookPlan,
    CodebookRelease,
    CodebookSpec,
    NoisePlan,
    NoiseRelease,
    NoiseSpec,
    settle,
)
from split_model.privacy.codebook import codeword_bytes
from split_model.privacy.codebook_file import read_encoder
from split_model.privacy.packing import unpack
from split_model.privacy.plan import default_bits

#: Features of one frame to what the device sends. Each call of the maker is a device that starts.
Release = Callable[[Sequence[Array]], "NDArray[np.uint8] | memoryview"]
Releases = Callable[[Bundle, Cut, "NoiseSpec | CodebookSpec"], Release]
Progress = Callable[[str, int, int], None]

_ERROR = 1e-6
#: Trials of a channel that has few values, with and without --quick; and payload bytes that this may take.
_TRIALS = {True: 1200, False: 20_000}
_MOST_BYTES = {True: 40e6, False: 400e6}
_LEAST_FRAMES, _MOST_FRAMES = 4, 20_000
_FAR = 50.0  # clip widths beyond the clip range
#: Stands for infinity, which JSON does not have.
_NO_BOUND = 1e9
#: The ε of a group that codewords are checked at where the configured one is larger: at 8 these trials cannot tell
#: a codeword that is kept too often.
_TELLING_EPSILON = 2.0
#: Releases of each of two frames: enough to see the rarest codeword often.
_A_CODEWORD = {True: 60, False: 1000}
_CODEWORD_FRAMES = {True: (1000, 4000), False: (10_000, 60_000)}


def device_releases(bundle: Bundle, cut: Cut, spec: NoiseSpec | CodebookSpec) -> Release:
    """The release as a device makes it at its start, from the operating system's entropy."""
    if isinstance(spec, CodebookSpec):
        plan = CodebookPlan.make(spec, cut)
        encoder = read_encoder(bundle.path(plan.book.file), plan.book, cut.tensors)
        return CodebookRelease(plan, encoder, entropy=os.urandom)
    return NoiseRelease(NoisePlan.make(spec, cut.tensors, cut.calibration or ()), entropy=os.urandom)


def check_wire(
    bundle: Bundle,
    cuts: Sequence[Cut],
    wishes: Wishes,
    public: Floats,
    *,
    quick: bool,
    progress: Progress,
    releases: Releases = device_releases,
) -> list[WireCheck]:
    """Check every release of these cuts.

    Args:
        bundle: What is audited.
        cuts: Of it.
        wishes: Which releases.
        public: Pictures whose codewords differ [n, ...].
        quick: With few trials.
        progress: Told of every release.
        releases: Makes a device's release; another one, to see what the checks find.

    Returns:
        The checks, by cut and release.

    """
    specs: list[tuple[Cut, NoiseSpec | CodebookSpec]] = []
    for cut in cuts:
        if cut.calibration is not None:
            for epsilon in wishes.epsilons:
                bits = default_bits(epsilon) if wishes.bits is None else wishes.bits
                for allocation in wishes.allocations:
                    shared = settle(allocation, cut, epsilon)
                    specs.append((cut, NoiseSpec(epsilon=epsilon, bits=bits, allocation=shared)))
        for book in cut.codebooks:
            specs += [
                (cut, CodebookSpec(epsilon=epsilon, codewords=book.codewords, groups=book.groups))
                for epsilon in wishes.codebook_epsilons
            ]
    found = []
    with connected(bundle) as line:
        for done, (cut, spec) in enumerate(dict.fromkeys(specs)):
            progress("wire", done, len(specs))
            checked = _Checked(bundle, cut, spec, line, releases, quick)
            found += checked.of_noise() if isinstance(spec, NoiseSpec) else checked.of_codewords(public)
    if specs:
        progress("wire", len(specs), len(specs))
    return found


@dataclass
class _Checked:
    """The checks of one release."""

    bundle: Bundle
    cut: Cut
    spec: NoiseSpec | CodebookSpec
    line: Wire
    releases: Releases
    quick: bool

    def of_noise(self) -> list[WireCheck]:
        """All four."""
        assert isinstance(self.spec, NoiseSpec)
        plan = NoisePlan.make(self.spec, self.cut.tensors, self.cut.calibration or ())
        channels = Channels.of(plan)
        frames = self._frames(plan, channels)
        release = self.releases(self.bundle, self.cut, self.spec)
        low, high = channels.pair()
        found = [self._length([channels.real(place) for place in (low * 0, channels.steps, low)], release)]
        found.append(self._fresh(channels.real(low)))
        if not found[0].holds:  # payloads of other lengths cannot be read
            return found
        sent = [self._values(plan, channels.real(place), release, frames) for place in (low, high)]
        found.append(self._noise(channels, low, high, *sent))
        rims = [
            (channels.real(channels.steps), channels.beyond(_FAR), "above"),
            (channels.real(channels.steps * 0), channels.beyond(-_FAR), "below"),
        ]
        for rim, beyond, where in rims:
            seen = [self._values(plan, one, release, frames) for one in (rim, beyond)]
            found.append(self._clipping(channels, where, *seen))
        return found

    def of_codewords(self, public: Floats) -> list[WireCheck]:
        """Randomised response, length and fresh randomness of a codebook."""
        assert isinstance(self.spec, CodebookSpec)
        plan = CodebookPlan.make(self.spec, self.cut)
        encoder = read_encoder(self.bundle.path(plan.book.file), plan.book, self.cut.tensors)
        each = min(self.spec.group_epsilon, _TELLING_EPSILON)
        checked = msgspec.structs.replace(self.spec, epsilon=each * self.spec.groups)
        read = FeatureReader(self.bundle, self.cut, PictureSpace.of(self.bundle))
        features = read(public[:64])
        words = np.array([encoder(one) for one in features])
        first = 0
        differ = (words != words[first]).sum(1)
        second = int(differ.argmax())
        release = self.releases(self.bundle, self.cut, checked)
        found = [self._length([features[first], features[second]], release)]
        if not found[0].holds or not differ[second]:
            return found
        frames = int(np.clip(_A_CODEWORD[self.quick] * self.spec.codewords, *_CODEWORD_FRAMES[self.quick]))
        dtype = np.dtype(f"<u{codeword_bytes(self.spec.codewords)}")
        sent = [
            np.stack([np.frombuffer(self._send(release, one), dtype) for _ in range(frames)])
            for one in (features[first], features[second])
        ]
        group = int((words[first] != words[second]).argmax())
        own = [words[first, group], words[second, group]]
        tests = [(sent[at][:, group] == own[at], sent[1 - at][:, group] == own[at]) for at in (0, 1)]
        proven = max(_proven(often, rare, _ERROR / 2) for often, rare in tests)
        most = _provable(frames, _ERROR / 2)
        text = (
            f"codewords of two frames at {each:g} a group, {frames} releases each; more than {most:.1f} could not "
            "have been proven"
        )
        return [*found, self._check("randomised response", each, proven, 2 * frames, text)]

    def _frames(self, plan: NoisePlan, channels: Channels) -> int:
        """Payloads of each kind of frame: enough for the channel with the fewest values."""
        wanted = math.ceil(_TRIALS[self.quick] / channels.fewest)
        affordable = int(_MOST_BYTES[self.quick] / 4 / plan.payload_bytes)
        return max(_LEAST_FRAMES, min(wanted, affordable, _MOST_FRAMES))

    def _send(self, release: Release, features: Sequence[Array]) -> bytes:
        payload = np.ascontiguousarray(release([one.copy() for one in features]))
        return self.line.send(self.cut.index, payload.view(np.uint8).reshape(-1).data)

    def _values(
        self, plan: NoisePlan, features: Sequence[Array], release: Release, frames: int
    ) -> NDArray[np.uint8]:
        """The integers of some releases of one frame: [frames, values]."""
        return np.stack(
            [
                unpack(np.frombuffer(self._send(release, features), np.uint8), plan.values, plan.spec.bits)
                for _ in range(frames)
            ]
        )

    def _length(self, frames: Sequence[Sequence[Array]], release: Release) -> WireCheck:
        lengths = sorted({len(self._send(release, features)) for features in frames})
        text = f"payloads of {lengths} bytes for {len(frames)} kinds of frames"
        same = len(lengths) == 1
        return self._check("length", 0.0, 0.0 if same else math.inf, len(frames), text)

    def _fresh(self, features: Sequence[Array]) -> WireCheck:
        """Two starts, one frame. Equal payloads of independent noise have a chance that is told."""
        sent = [self._send(self.releases(self.bundle, self.cut, self.spec), features) for _ in range(2)]
        same = sent[0] == sent[1]
        text = "two starts of a device send the same frame in " + ("the same bytes" if same else "other bytes")
        return self._check("fresh randomness", 0.0, math.inf if same else 0.0, 2, text)

    def _noise(
        self, channels: Channels, low: Places, high: Places, at_low: NDArray[np.uint8], at_high: NDArray[np.uint8]
    ) -> WireCheck:
        """Each channel by the two events that tell its pair best: from the higher place up, from the lower down."""
        error = _ERROR / (2 * channels.count)
        worst = (-math.inf, 0.0, 0.0, 0, 0)
        for channel, columns in enumerate(channels.columns):
            claim = channels.epsilon[channel] * (high[channel] - low[channel]) / channels.steps[channel]
            if high[channel] <= low[channel]:
                continue
            tail = channels.tail[channel]
            one, other = at_low[:, columns].reshape(-1), at_high[:, columns].reshape(-1)
            proven = max(
                _proven(other >= high[channel] + tail, one >= high[channel] + tail, error),
                _proven(one <= low[channel] + tail, other <= low[channel] + tail, error),
            )
            worst = max(worst, (proven - claim, proven, claim, channel, one.size))
        _, proven, claim, channel, trials = worst
        most = _provable(trials, error)
        text = (
            f"worst of {channels.count} channels: {channel}, {trials} values of each of two frames; more than "
            f"{most:.1f} could not have been proven"
        )
        return self._check("noise of each channel", claim, proven, 2 * trials, text)

    def _clipping(
        self, channels: Channels, where: str, at_rim: NDArray[np.uint8], outside: NDArray[np.uint8]
    ) -> WireCheck:
        """All channels of one grid together, by every threshold: a proof of any ratio is one of a bug."""
        error = _ERROR / (4 * (1 << 8) * len(channels.grids()))
        most = 0.0
        for members in channels.grids():
            columns = np.concatenate([channels.columns[channel] for channel in members])
            one, other = at_rim[:, columns].reshape(-1), outside[:, columns].reshape(-1)
            for threshold in np.unique(np.concatenate([one, other])):
                for left, right in ((one, other), (other, one)):
                    most = max(most, _proven(left >= threshold, right >= threshold, error))
                    most = max(most, _proven(left < threshold, right < threshold, error))
        text = f"values {_FAR:g} clip widths {where} the clip range, against values at its rim"
        return self._check(f"clipping {where}", 0.0, most, 2 * at_rim.size, text)

    def _check(self, name: str, claim: float, proven: float, trials: int, text: str) -> WireCheck:
        return WireCheck(
            cut=self.cut.index,
            setting=describe(self.spec),
            name=name,
            claim=float(claim),
            proven=min(float(proven), _NO_BOUND),
            trials=int(trials),
            holds=bool(proven <= claim),
            text=text,
        )


def _proven(often: NDArray[np.bool_], rare: NDArray[np.bool_], error: float) -> float:
    """The log ratio of an event's probabilities that the counts prove; 0 where they prove none."""
    least = at_least(int(often.sum()), often.size, error)
    return max(0.0, math.log(least / at_most(int(rare.sum()), rare.size, error))) if least > 0 else 0.0


def _provable(trials: int, error: float) -> float:
    """The most that this many trials could prove: always against never."""
    return math.log(at_least(trials, trials, error) / at_most(0, trials, error))
