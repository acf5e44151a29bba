"""Every attacker on one setting: what each makes of the same releases, kept so that an audit can go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from split_model.arrays import Array
from split_model.audit.attackers.decoder import Decoder
from split_model.audit.attackers.inverse_network import InverseNetwork
from split_model.audit.attackers.learned_prior import LearnedPrior
from split_model.audit.attackers.white_box import Noise, WhiteBox, total_variation
from split_model.audit.cut_under_attack import OfCut
from split_model.audit.effort import Randomness
from split_model.audit.pictures import Floats
from split_model.audit.settings import Setting
from split_model.service.atomic_file import write_atomically

_TUNED_ON = 4
_LEARNED, _SUBSTITUTE = "learned prior", "substitute head"
#: The weight of total variation for who cannot try it on the real head.
_USUAL_PRIOR = 1e-1
#: A feature loss is worth its time where the head is small.
_FEATURE_LOSS_MACS = 60e6


@dataclass
class Suite:
    """Attacks one setting.

    Attributes:
        of_cut: The cut.
        setting: The release.
        key: Names the setting and all that its results follow from.
        folder: Where finished pieces are kept.
        randomness: What the setting's releases draw from.
        prior: Makes the learned prior when it is first needed.
        thorough: Also try the attackers that a quick audit leaves out.

    """

    of_cut: OfCut
    setting: Setting
    key: str
    folder: Path
    randomness: Randomness
    prior: Callable[[], LearnedPrior]
    thorough: bool = True
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def network_file(self) -> str:
        """The trained network, in the folder."""
        return f"{self.key}-network.npz"

    def __call__(self) -> dict[str, Floats]:
        """What each attacker drew [victims, ...], by its name; a name ends in ``releases`` where it had several."""
        of_cut, setting = self.of_cut, self.setting
        network = self._network()
        arrived = self._arrive("victims", of_cut.of_victims)
        drawn = self._kept("inverse network", lambda: network(arrived))
        seen = {"inverse network": drawn}
        if setting.mechanism == "codebook":
            of_cut.skipped.append("white box on codebooks: a codeword has no gradient; see the likelihood test")
            return seen
        several = f"{of_cut.effort.averaged} releases"
        means = self._means() if setting.mechanism == "noise" else []
        if means:
            seen[f"inverse network, {several}"] = self._kept(f"inverse network, {several}", lambda: network(means))
        if self.thorough and of_cut.tail is not None:
            seen[_SUBSTITUTE] = self._kept(_SUBSTITUTE, partial(self._without_head, arrived))
        if of_cut.gradient is None:
            return seen
        for name in ("white box", _LEARNED):
            seen[name] = self._kept(name, partial(self._follow, name, network, arrived, drawn))
        if means:
            name = f"white box, {several}"
            start = seen[f"inverse network, {several}"]
            seen[name] = self._kept(name, partial(self._follow, name, network, means, start))
        return seen

    def _follow(self, name: str, network: Decoder, arrived: Sequence[Sequence[Floats]], start: Floats) -> Floats:
        """The white box, its prior's weight chosen on public pictures."""
        of_cut = self.of_cut
        assert of_cut.gradient is not None
        penalty = self.prior() if name == _LEARNED else total_variation
        steps = of_cut.effort.steps
        noise = Noise(self.setting.spread, self.setting.limits)
        box = WhiteBox(of_cut.gradient, of_cut.space, noise, steps=steps, penalty=penalty)
        few, features = of_cut.public[:_TUNED_ON], of_cut.read(of_cut.public[:_TUNED_ON])
        count = of_cut.effort.averaged if name.endswith("releases") else 1
        self.randomness.restart(f"{self.key} tuning {name}")
        tried = [_mean([self.setting.arrive(one) for _ in range(count)]) for one in features]
        box.tune(few, tried, network(tried))
        self.notes[name] = f"weight of the prior {box.prior:g}" if box.helps else "no better than where it begins"
        return box(arrived, start)

    def _without_head(self, arrived: Sequence[Sequence[Floats]]) -> Floats:
        """The white box through the substitute; the weight of the prior is the usual one, as he cannot tune it."""
        of_cut = self.of_cut
        noise = Noise(self.setting.spread, self.setting.limits)
        box = WhiteBox(of_cut.substitute, of_cut.space, noise, steps=of_cut.effort.steps)
        box.prior = _USUAL_PRIOR
        self.notes[_SUBSTITUTE] = f"without the head; the tail's answers differ by {of_cut.substitute.error:.2g}"
        return box(arrived, np.broadcast_to(of_cut.public.mean(axis=0), of_cut.victims.shape))

    def _network(self) -> Decoder:
        """The inverse network, trained or taken up. The stored weights are the used ones, with their rounding."""
        path = self.folder / self.network_file
        if not path.is_file():
            pictures, features = self.of_cut.pool
            macs = self.of_cut.cut.head_macs
            loss = None
            if self.of_cut.gradient is not None and macs <= _FEATURE_LOSS_MACS:
                head, space = self.of_cut.gradient, self.of_cut.space
                loss = lambda shown: head([space.torch_inputs(shown)])  # noqa: E731
            self.randomness.restart(f"{self.key} training")
            trained = InverseNetwork(
                lambda chosen: [self.setting.arrive(features[number]) for number in chosen],
                pictures,
                budget_s=self.of_cut.effort.network_s,
                features=loss,
                features_macs=macs,
            )
            write_atomically(path, trained.decoder.to_bytes())
        return Decoder.from_bytes(path.read_bytes(), str(path))

    def _arrive(self, label: str, features: Sequence[Sequence[Array]]) -> list[list[Floats]]:
        self.randomness.restart(f"{self.key} {label}")
        return [self.setting.arrive(one) for one in features]

    def _means(self) -> list[list[Floats]]:
        """The mean of several releases of each victim."""
        self.randomness.restart(f"{self.key} several")
        count = self.of_cut.effort.averaged
        return [_mean([self.setting.arrive(one) for _ in range(count)]) for one in self.of_cut.of_victims]

    def _kept(self, name: str, make: Callable[[], Floats]) -> Floats:
        path = self.folder / f"{self.key}-{name.replace(' ', '-').replace(',', '')}.npz"
        if not path.is_file():
            pictures = make()
            with path.with_suffix(".part").open("wb") as file:
                np.savez(file, pictures=pictures.astype(np.float16), note=self.notes.get(name, ""))
            path.with_suffix(".part").replace(path)
        with np.load(path) as kept:
            self.notes[name] = str(kept["note"])
            found: Floats = kept["pictures"].astype(np.float32)
        return found


def _mean(releases: Sequence[Sequence[Floats]]) -> list[Floats]:
    return [np.mean(parts, axis=0, dtype=np.float32) for parts in zip(*releases, strict=True)]
