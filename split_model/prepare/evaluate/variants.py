"""The variants of releasing one cut that `evaluate` compares; each counts its right answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from split_model.answers.measures import Figures, measure_of
from split_model.answers.reader import AnswerReader
from split_model.arrays import Array
from split_model.bundle import Bundle, Cut
from split_model.bundle.evaluation import Figure, Mean, Mechanism, Row
from split_model.errors import BackendError, BadBundleError, BadInputError
from split_model.features.preprocess import to_real, to_stored
from split_model.interpreter import Interpreter, open_interpreter
from split_model.prepare.evaluate.agreement import Note, measure_for
from split_model.prepare.evaluate.intervals import bootstrap, lower_bound, wilson
from split_model.prepare.outputs import Floats, Spread, real_outputs, squared_errors
from split_model.privacy import (
    CodebookPlan,
    CodebookRelease,
    CodebookSpec,
    NoisePlan,
    NoiseRelease,
    NoiseSpec,
    recover,
    recover_codebook,
)
from split_model.privacy.codebook_file import Decoder, Encoder, read_decoder, read_encoder
from split_model.privacy.randomised_response import MAX_EPSILON

Entropy = Callable[[int], bytes]


class Known:
    """One sample's label and unprotected outputs, to compare every release with."""

    def __init__(
        self,
        outputs: Sequence[Floats],
        answer: int | None,
        label: int | None,
        reader: AnswerReader | None = None,
    ) -> None:
        self.outputs = outputs
        self.reader = reader
        self.found = None if reader is None else reader.read(outputs)
        self.answer = answer
        self.label = label
        self.best = None if answer is None else int(outputs[answer].argmax())

    def check_label(self, name: str) -> bool:
        """Whether the unprotected answer is right; `BadInputError` for a label that is not a class of the model."""
        if self.answer is None:
            raise BadInputError(
                f"{name}: has a label, but this model's answer is not a class", remedy="give data without labels"
            )
        classes = self.outputs[self.answer].size
        if self.label is None or self.label >= classes:
            raise BadInputError(
                f"{name}: label {self.label}, the model has classes 0 to {classes - 1}",
                remedy="label the data by class index",
            )
        return self.best == self.label


class Halves:
    """Head and tails of one cut; the head runs once per sample for all variants."""

    def __init__(self, bundle: Bundle, cut: Cut, backend: str | None) -> None:
        self.bundle = bundle
        self.cut = cut
        self.measure = measure_for(bundle)
        self.head = None if cut.head is None else open_interpreter(bundle.path(cut.head), backend=backend)
        self.tail: Interpreter = open_interpreter(bundle.path(cut.tail), backend=backend)
        self.noise_tails = {
            noisy.epsilon: open_interpreter(bundle.path(noisy.tail), backend=backend) for noisy in cut.noise_tails
        }
        self._inputs: Sequence[Array] = ()
        self._features: Sequence[Array] = ()

    def features(self, inputs: Sequence[Array]) -> Sequence[Array]:
        if inputs is not self._inputs:
            self._features = inputs if self.head is None else self.head.run(inputs)
            self._inputs = inputs
        return self._features


class Variant:
    """One variant of a release at one cut, and its results so far. ``facts``: the further fields of its row."""

    def __init__(
        self,
        halves: Halves,
        mechanism: Mechanism,
        through: Callable[[Sequence[Array]], Sequence[Array]],
        *,
        draws: int,
        plan: NoisePlan | CodebookPlan | None = None,
    ) -> None:
        self._halves = halves
        self._mechanism: Mechanism = mechanism
        self._through = through
        self._draws = draws
        self._plan = plan
        epsilon = plan.spec.epsilon if isinstance(plan, NoisePlan) else None
        self._noise_aware = epsilon in halves.noise_tails
        self._tail = halves.tail if epsilon is None else halves.noise_tails.get(epsilon, halves.tail)
        self._notes: list[list[Note]] = []  # by sample, of each draw
        self._correct = 0
        self._errors: list[list[float]] = []  # a sample and output, means over draws
        manifest = halves.bundle.manifest
        measure = measure_of(manifest)
        self._measure = measure
        self._figures = None if measure is None else Figures(manifest, measure)

    @property
    def cut(self) -> int:
        """The cut of the release."""
        return self._halves.cut.index

    def failure(self, inputs: Sequence[Array], known: Known) -> BackendError | None:
        """Count a sample, or return the reason of a failure, for example a tail that gets a noisy index."""
        try:
            self.count(inputs, known)
        except BackendError as error:
            return error
        return None

    def count(self, inputs: Sequence[Array], known: Known) -> None:
        features = self._halves.features(inputs)
        errors: list[list[float]] = []
        notes: list[Note] = []
        found = []
        for _ in range(self._draws):
            outputs = real_outputs(self._tail, self._through(features))
            errors.append(squared_errors(outputs, known.outputs))
            notes.append(self._halves.measure.note(outputs, known.outputs))
            if known.answer is not None:
                self._correct += int(outputs[known.answer].argmax()) == known.label
            if known.reader is not None:
                found.append(known.reader.read(outputs))
        if self._figures is not None and known.found is not None:
            self._figures.add(found, known.found)
        self._notes.append(notes)
        self._errors.append(np.mean(errors, axis=0).tolist())

    def row(self, samples: int, labelled: int, spread: Spread) -> Row:
        cut, plan = self._halves.cut, self._plan
        protected = plan if self._mechanism in ("noise", "codebook") else None
        measure = self._halves.measure
        agreed = sum(float(np.mean([measure.agreement(one, spread) for one in of_one])) for of_one in self._notes)
        agreed = min(agreed, float(samples))
        return Row(
            cut=cut.index,
            mechanism=self._mechanism,
            tensors=tuple(tensor.name for tensor in cut.tensors),
            spec=plan.spec if isinstance(plan, NoisePlan) else None,
            payload_bytes=cut.raw_bytes if plan is None else plan.payload_bytes,
            draws=self._draws,
            agreement=wilson(agreed / samples, samples),
            agreement_bound=lower_bound(agreed, samples),
            accuracy=wilson(self._correct / (labelled * self._draws), labelled) if labelled else None,
            output_error=bootstrap([spread.error(squared) for squared in self._errors]),
            per_value_epsilon_max=None if protected is None else protected.per_value_epsilon_max,
            per_value_epsilon_mean=None if protected is None else protected.per_value_epsilon_mean,
            whole_input_epsilon=None if protected is None else protected.whole_input_epsilon,
            codebook=plan.spec if isinstance(plan, CodebookPlan) else None,
            noise_aware=self._noise_aware,
            figure=self._figure(),
        )

    def _figure(self) -> Figure | None:
        if self._figures is None or self._measure is None:
            return None
        value, low, high, samples = self._figures.mean()
        return Figure(measure=self._measure, mean=Mean(value=value, low=low, high=high, samples=samples))


def clipped(features: Sequence[Array], cut: Cut) -> list[Array]:
    """Features that are only clipped to the calibrated ranges, to measure the cost of clipping."""
    if cut.calibration is None:
        raise BadBundleError(f"cut {cut.index} has no calibration", remedy="prepare the bundle with --calibration")
    return [
        to_stored(np.clip(to_real(feature, spec), np.array(known.clip_low), np.array(known.clip_high)), spec)
        for feature, spec, known in zip(features, cut.tensors, cut.calibration, strict=True)
    ]


def noise_variants(halves: Halves, specs: Sequence[NoiseSpec], draws: int, entropy: Entropy) -> list[Variant]:
    cut = halves.cut
    variants = [Variant(halves, "clip", lambda features: clipped(features, cut), draws=1)]
    for spec in specs:
        plan = NoisePlan.make(spec, cut.tensors, cut.calibration or ())
        release = NoiseRelease(plan, entropy=entropy)

        def through(
            features: Sequence[Array], plan: NoisePlan = plan, release: NoiseRelease = release
        ) -> Sequence[Array]:
            return recover(plan, release(features))

        variants.append(Variant(halves, "noise", through, draws=draws, plan=plan))
    return variants


def codebook_variants(halves: Halves, epsilons: Sequence[float], draws: int, entropy: Entropy) -> list[Variant]:
    """Variants of every codebook of the cut at every valid epsilon, and of the lookup without a response."""
    variants = []
    for book in halves.cut.codebooks if epsilons else ():
        path = halves.bundle.path(book.file)
        encoder = read_encoder(path, book, halves.cut.tensors)
        decoder = read_decoder(path, book, halves.cut.tensors)

        def look_up(
            features: Sequence[Array], encoder: Encoder = encoder, decoder: Decoder = decoder
        ) -> Sequence[Array]:
            return decoder(encoder(features))

        most = MAX_EPSILON * book.groups
        for epsilon in (None, *(epsilon for epsilon in epsilons if epsilon <= most)):
            spec = CodebookSpec(
                epsilon=most if epsilon is None else epsilon, codewords=book.codewords, groups=book.groups
            )
            plan = CodebookPlan.make(spec, halves.cut)
            if epsilon is None:
                variants.append(Variant(halves, "lookup", look_up, draws=1, plan=plan))
                continue
            release = CodebookRelease(plan, encoder, entropy=entropy)

            def through(
                features: Sequence[Array],
                plan: CodebookPlan = plan,
                release: CodebookRelease = release,
                decoder: Decoder = decoder,
            ) -> Sequence[Array]:
                return recover_codebook(plan, decoder, release(features))

            variants.append(Variant(halves, "codebook", through, draws=draws, plan=plan))
    return variants
