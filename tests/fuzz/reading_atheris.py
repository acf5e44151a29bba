"""Coverage-guided fuzzing of the reader and the slicer with atheris; not part of ``make test``.

usage: pip install 'atheris>=3,<4'
       python -m tests.fuzz.reading_atheris CORPUS [-max_total_time=600] [-timeout=5] [-rss_limit_mb=2048]

CORPUS is a folder; it is filled with the small seeds where it is empty. Options are libFuzzer's. What
libFuzzer writes as crash-…, timeout-… or oom-… is a bug. atheris instruments only what is imported
inside `instrument_imports`, so what the product imports when first needed is imported there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["split_model", "ai_edge_litert.schema_py_generated", "flatbuffers"]):
    import flatbuffers.builder  # noqa: F401

    from split_model.prepare.tflite.tables import load_schema
    from tests.fuzz import exercise as fuzz

    load_schema()


def one_input(data: bytes) -> None:
    """What atheris calls."""
    fuzz.exercise(data)


def main() -> None:
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    if folders:
        folders[0].mkdir(parents=True, exist_ok=True)
        if not any(folders[0].iterdir()):
            for number, seed in enumerate(fuzz.seeds()):
                (folders[0] / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
