"""``split-model audit``: what a server could make of the releases of one bundle, with the user's own pictures."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from split_model.bundle import Bundle, Cut
from split_model.bundle.exposure import path_of
from split_model.errors import BackendError, UsageError
from split_model.service.atomic_file import write_atomically
from split_model.service.terminal_text import columns

if TYPE_CHECKING:
    from split_model.audit.wire_audit import Releases

_NEEDED = {"torch": "torch", "skimage": "scikit-image"}
_MOST_PUBLIC = 5000


def audit(
    args: argparse.Namespace, progress: Callable[[str, int, int], None], *, releases: Releases | None = None
) -> int:
    """Run it, write ``REPORT.html`` and ``REPORT.json``, and print the verdicts.

    Args:
        args: The command line.
        progress: Told of every step.
        releases: Makes what a device releases with; the product's unless given. The wire's checks look at it.

    Returns:
        ``os.EX_OK``; ``os.EX_DATAERR`` where a check of what leaves does not hold.

    Raises:
        BackendError: The extra ``audit`` is not installed.
        UsageError: A cut that the bundle does not have.
        BadInputError: Too few pictures.

    """
    missing = [name for module, name in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise BackendError(f"the audit needs {' and '.join(missing)}", remedy="pip install 'split-runtime[audit]'")
    from split_model.audit.identity import People
    from split_model.audit.pictures import PictureSpace, read_pictures
    from split_model.audit.report import render
    from split_model.audit.run import QUICK, Auditor, Effort
    from split_model.audit.settings import Wishes
    from split_model.audit.storing import store
    from split_model.audit.task import TaskMeasure
    from split_model.audit.text import text
    from split_model.audit.wire_audit import check_wire, device_releases
    from split_model.features.data import open_data

    bundle = Bundle.open(args.bundle)
    space = PictureSpace.of(bundle)
    manifest = bundle.manifest
    effort = QUICK if args.quick else Effort()
    if args.victims is not None:
        effort = replace(effort, victims=args.victims)
    if args.network_seconds is not None:
        effort = replace(effort, network_s=args.network_seconds, prior_s=args.network_seconds / 2)
    if args.steps is not None:
        effort = replace(effort, steps=args.steps)
    data = open_data(args.data, manifest.inputs, manifest.preprocess)
    pictures = read_pictures(data, space, most=effort.victims + _MOST_PUBLIC)
    victims, public = pictures[: effort.victims], pictures[effort.victims :]
    if args.public is not None:
        others = open_data(args.public, manifest.inputs, manifest.preprocess)
        public = read_pictures(others, space, most=_MOST_PUBLIC)
    people = None
    if args.people is not None:
        people = People.of(open_data(args.people, manifest.inputs, manifest.preprocess, _names(args.people)), space)
    folder = args.output.with_suffix(".work")
    folder.mkdir(parents=True, exist_ok=True)
    wishes = Wishes(
        epsilons=args.epsilon, allocations=args.allocation, bits=args.bits, codebook_epsilons=args.codebook_epsilon
    )
    cuts = _cuts(bundle, args.cuts)
    auditor = Auditor(bundle, victims, public, effort, folder, progress, people)
    found = auditor.run(cuts, wishes)
    found = msgspec.structs.replace(
        found,
        results=TaskMeasure(data, cuts, wishes, progress)(bundle, found.results),
        wire=check_wire(
            bundle, cuts, wishes, public, quick=args.quick, progress=progress, releases=releases or device_releases
        ),
    )
    as_json = msgspec.json.encode(found)
    write_atomically(args.output.with_suffix(".html"), render(found, victims, folder).encode())
    write_atomically(args.output.with_suffix(".json"), as_json)
    print(as_json.decode() if args.json else text(found, columns(sys.stdout)))
    if not all(check.holds for check in found.wire):
        if args.store:
            print("nothing is stored: what leaves does not keep its ε", file=sys.stderr)
        return os.EX_DATAERR
    if args.store:
        kept = store(bundle, found, folder)
        print(f"{path_of(bundle)}: {len(kept.rows)} verdicts", file=sys.stderr)
    return os.EX_OK


def _names(folder: Path) -> list[str] | None:
    """The names of sub-folders, in order; None where they are numbers, or there is no folder."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    return None if all(name.isdigit() for name in names) else names


def _cuts(bundle: Bundle, wanted: list[int] | None) -> list[Cut]:
    offered = {cut.index: cut for cut in bundle.manifest.cuts}
    if wanted is None:
        return list(offered.values())
    unknown = [index for index in wanted if index not in offered]
    if unknown:
        raise UsageError(f"--cuts {unknown[0]}: no such cut", remedy=f"the bundle offers {list(offered)}")
    return [offered[index] for index in wanted]
