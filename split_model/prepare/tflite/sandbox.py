"""Run a foreign model once in a process of its own: backends can crash on a damaged one.

Our reader refuses the damage that it can see. A file may still be valid in form and send a backend's
native code astray; then only the child dies, and the user reads one line. The child is this module,
run as a program.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from split_model.errors import BackendError, BadModelError, SplitModelError

#: Address space of the child: enough for any model a board runs, and a bound for those that are none.
MAX_CHILD_BYTES = 16 << 30


def check_runs(model: Path, *, backend: str | None = None, timeout_s: float = 120.0) -> None:
    """Load the model and run it once on zeros, in a child process.

    Raises `BadModelError` where that kills the child, takes longer than ``timeout_s`` or where the
    model is not valid; `BackendError` where the backend refuses it, with the backend's reason.
    """
    command = [sys.executable, "-m", "split_model.prepare.tflite.sandbox", str(model), backend or ""]
    try:
        done = subprocess.run(  # noqa: S603  # our own module, and a path that is an argument
            command, capture_output=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise BadModelError(
            f"{model}: one inference took longer than {timeout_s:.0f} s: the file is damaged or too large",
            remedy="get it again, or take a smaller model",
        ) from None
    if done.returncode == 0:
        return
    lines = done.stdout.decode(errors="replace").splitlines()
    if done.returncode in (os.EX_DATAERR, os.EX_UNAVAILABLE) and lines:
        raise (BadModelError if done.returncode == os.EX_DATAERR else BackendError)(lines[-1])
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    raise BadModelError(f"{model}: crashes the TFLite backend ({how})", remedy="get the file again; it is damaged")


def main(arguments: list[str]) -> int:
    """The child: arguments are the model's path and the backend's name or an empty string."""
    import numpy as np

    from split_model.interpreter import open_interpreter

    resource.setrlimit(resource.RLIMIT_AS, (MAX_CHILD_BYTES, MAX_CHILD_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    path, backend = arguments
    try:
        interpreter = open_interpreter(Path(path), backend=backend or None)
        interpreter.run([np.zeros(spec.shape, spec.dtype) for spec in interpreter.inputs])
    except SplitModelError as error:
        print(error)
        return error.exit_code
    except MemoryError:
        print(f"{path}: needs more than {MAX_CHILD_BYTES >> 30} GiB to run; the file is damaged or too large")
        return os.EX_DATAERR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
