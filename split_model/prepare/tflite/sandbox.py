"""Runs a foreign model in a child process, as backends can crash on a damaged one.

Our reader refuses the damage that it finds. A file may still be valid in form and crash a backend's native code;
then only the child dies, and the user gets one line. The child is this module, run as a program. It also reports
the real shape of every tensor, which a file may lack.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from split_model.errors import BackendError, BadModelError, SplitModelError

if TYPE_CHECKING:
    from split_model.arrays import Array
    from split_model.interpreter import Interpreter

#: Address space of the child: enough for any model of a board, and a bound for invalid ones.
MAX_CHILD_BYTES = 16 << 30
#: Number of random input sets besides zeros, to find sizes that depend on the data.
_RANDOM_SETS = 2

#: The observed shapes of each tensor, one or several, by its index.
Seen = Mapping[int, tuple[tuple[int, ...], ...]]


def check_runs(model: Path, *, backend: str | None = None, timeout_s: float = 120.0) -> Seen:
    """Run the model on zeros and on random inputs in a child process; returns the observed shapes.

    Raises `BadModelError` if that kills the child, takes longer than ``timeout_s``, or the model is not valid;
    `BackendError` if the backend refuses it, with the backend's reason.
    """
    command = [sys.executable, "-m", "split_model.prepare.tflite.sandbox", str(model), backend or ""]
    timed_out = False
    try:
        done = subprocess.run(  # noqa: S603  # our own module, and a path that is an argument
            command, capture_output=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL
        )
        output, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        output, code, timed_out = error.stdout or b"", -signal.SIGKILL, True
    lines = output.decode(errors="replace").splitlines()
    if code in (os.EX_DATAERR, os.EX_UNAVAILABLE) and lines:
        raise (BadModelError if code == os.EX_DATAERR else BackendError)(lines[-1])
    seen = [line for line in lines if line.startswith("{")]
    if seen and (code == 0 or code < 0):  # it died after the model had run in its normal mode
        return {int(index): tuple(map(tuple, shapes)) for index, shapes in json.loads(seen[-1]).items()}
    if timed_out:
        raise BadModelError(
            f"{model}: one inference took longer than {timeout_s:.0f} s: the file is damaged or too large",
            remedy="get it again, or take a smaller model",
        )
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    raise BadModelError(f"{model}: crashes the TFLite backend ({how})", remedy="get the file again; it is damaged")


def _shapes_in(interpreter: Interpreter, sets: list[list[Array]]) -> dict[int, list[tuple[int, ...]]]:
    """The shapes of all tensors, by index; the first set must work, the others may be indices out of range."""
    interpreter.run(sets[0])
    seen = {index: {shape} for index, shape in interpreter.tensor_shapes().items()}
    for one in sets[1:]:
        with contextlib.suppress(BackendError):
            interpreter.run(one)
            for index, shape in interpreter.tensor_shapes().items():
                seen[index].add(shape)
    return {index: sorted(shapes) for index, shapes in seen.items()}


def main(arguments: list[str]) -> int:
    """The child: arguments are the model's path and the backend's name or an empty string."""
    import numpy as np

    from split_model.interpreter import open_interpreter
    from split_model.prepare.random_inputs import random_inputs

    resource.setrlimit(resource.RLIMIT_AS, (MAX_CHILD_BYTES, MAX_CHILD_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    path, backend = arguments
    try:
        interpreter = open_interpreter(Path(path), backend=backend or None)
        generator = np.random.default_rng(0)
        sets = [[np.zeros(spec.shape, spec.dtype) for spec in interpreter.inputs]]
        sets += [random_inputs(interpreter.inputs, generator) for _ in range(_RANDOM_SETS)]
        for one in sets[1:]:
            with contextlib.suppress(BackendError):  # as for indices that the model does not have
                interpreter.run(one)
        interpreter.run(sets[0])
        print("{}", flush=True)  # it runs in its normal mode; the rest is only for shapes
        print(json.dumps(_shapes_in(interpreter, sets)), flush=True)
        # Each op by itself shows the tensors that the fast kernels hide. What is used later are the fast kernels: a
        # custom op that only they know, or a crash without them, leaves the shapes seen with them. tflite-runtime
        # crashes when it is asked for the tensors of a model with sparse weights: then the file is believed.
        with contextlib.suppress(BackendError):
            plain = open_interpreter(Path(path), backend=backend or None, fused=False)
            print(json.dumps(_shapes_in(plain, sets)), flush=True)
    except SplitModelError as error:
        print(error)
        return error.exit_code
    except MemoryError:
        print(f"{path}: needs more than {MAX_CHILD_BYTES >> 30} GiB to run; the file is damaged or too large")
        return os.EX_DATAERR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
