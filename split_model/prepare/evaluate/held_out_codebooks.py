"""Measures every codebook's agreement with the unsplit model over a ladder of epsilons, for `prepare`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from split_model.arrays import Array
from split_model.bundle import Bundle, Codebook, Cut
from split_model.bundle.evaluation import Row
from split_model.interpreter import open_interpreter
from split_model.prepare.codebook.codebooks import LearnedCodebooks
from split_model.prepare.evaluate.judging import FigureOptions, Truth, as_row, judge
from split_model.prepare.outputs import Floats, real_outputs
from split_model.privacy import CodebookPlan, CodebookRelease, CodebookSpec, recover_codebook
from split_model.privacy.codebook_file import read_decoder, read_encoder
from split_model.privacy.randomised_response import MAX_EPSILON

#: Maximum number of held-out samples.
_MOST_SAMPLES = 500


def codebook_rows(bundle: Bundle, books: LearnedCodebooks, options: FigureOptions) -> Iterator[Row]:
    """Measure every codebook on the held-out samples of its cut; a picture and its crops are one unit."""
    if books.data is None:
        return
    whole = open_interpreter(bundle.path(bundle.manifest.model))
    for cut in bundle.manifest.cuts:
        if not cut.codebooks:
            continue
        chosen = sorted(books.held_out.get(cut.index, ()))[:_MOST_SAMPLES]
        samples = [sample for at, sample in enumerate(books.data) if at in set(chosen)]
        pictures: dict[str, list[int]] = {}
        for at, sample in enumerate(samples):
            pictures.setdefault(sample.name, []).append(at)
        truth = Truth(bundle, [real_outputs(whole, sample.tensors) for sample in samples])
        head = None if cut.head is None else open_interpreter(bundle.path(cut.head))
        features = [
            list(sample.tensors) if head is None else [np.array(made) for made in head.run(sample.tensors)]
            for sample in samples
        ]
        for book in cut.codebooks:
            yield from _Held(bundle, cut, list(pictures.values()), features, truth, options).rows(book)


@dataclass(frozen=True)
class _Held:
    """The held-out samples at one cut. ``pictures``: the samples of each; ``features``: of each sample."""

    bundle: Bundle
    cut: Cut
    pictures: Sequence[Sequence[int]]
    features: Sequence[Sequence[Array]]
    truth: Truth
    options: FigureOptions

    def rows(self, book: Codebook) -> Iterator[Row]:
        """Measure one codebook at every epsilon; the tail runs once for each of the few different payloads."""
        bundle, cut, options = self.bundle, self.cut, self.options
        path = bundle.path(book.file)
        encoder, decoder = read_encoder(path, book, cut.tensors), read_decoder(path, book, cut.tensors)
        tail = open_interpreter(bundle.path(cut.tail))
        answers: dict[bytes, list[Floats]] = {}
        for number, epsilon in enumerate(options.group_epsilons):
            whole_input = min(epsilon, MAX_EPSILON) * book.groups
            plan = CodebookPlan.make(
                CodebookSpec(epsilon=whole_input, codewords=book.codewords, groups=book.groups), cut
            )
            generator = np.random.default_rng((options.seed, cut.index, book.codewords, book.groups, number))
            release = CodebookRelease(plan, encoder, entropy=generator.bytes)

            def once(
                picture: int, plan: CodebookPlan = plan, release: CodebookRelease = release
            ) -> tuple[float, float]:
                judged = []
                for sample in self.pictures[picture]:
                    payload = bytes(release(self.features[sample]))
                    if payload not in answers:
                        answers[payload] = real_outputs(tail, recover_codebook(plan, decoder, payload))
                    judged.append(self.truth.judge(sample, answers[payload]))
                agreement, error = np.mean(judged, axis=0).tolist()
                return agreement, error

            yield as_row(cut, plan, judge(range(len(self.pictures)), once, options))
