"""The greeting of TFLite stays out of the error output, and nothing else does: real processes, and their output."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

FASHION = Path(__file__).resolve().parents[3] / "models/fashion/fashion_f32.tflite"
OPEN = f"""
from pathlib import Path
from split_model.interpreter import open_interpreter
open_interpreter(Path({str(FASHION)!r}))
"""
#: Another backend, whose library says something at its first interpreter, as ``fprintf(stderr, ...)`` does.
TALKING = """
import ctypes, os, subprocess, sys
from split_model.interpreter import quiet_start

libc = ctypes.CDLL(None)

def say(text):
    libc.fputs(text, ctypes.c_void_p.in_dll(libc, "stderr"))

class Interpreter:
    def __init__(self, **options):
        say(b"ERROR: out of luck\\n")
        say(b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\\n")
        say(b"WARNING: still here\\n")
        os.write(2, b"by number\\n")
        print("by Python", file=sys.stderr, flush=True)
        subprocess.run(["sh", "-c", "echo a child >&2"], check=True)
        INSIDE

    def allocate_tensors(self):
        pass

quiet_start.start("talking", Interpreter)
quiet_start.start("talking", Interpreter)
say(b"afterwards\\n")
"""


def said(code: str) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr.splitlines()


def test_a_model_is_opened_without_a_word() -> None:
    assert said(OPEN) == (0, [])


def test_whatever_is_not_the_greeting_is_passed_on() -> None:
    code, lines = said(TALKING.replace("INSIDE", "pass"))
    assert code == 0
    assert lines == [
        "by number", "by Python", "a child", "ERROR: out of luck", "WARNING: still here", "afterwards",
    ]  # fmt: skip


def test_an_interpreter_that_raises_gives_the_output_back() -> None:
    code, lines = said(TALKING.replace("INSIDE", "raise RuntimeError"))
    assert (code, lines[-3:]) == (0, ["ERROR: out of luck", "WARNING: still here", "afterwards"])


def test_a_crash_leaves_its_trace() -> None:
    code, lines = said("import faulthandler; faulthandler.enable(2)\n" + TALKING.replace("INSIDE", "os.abort()"))
    assert code == -signal.SIGABRT
    assert any("Fatal Python error: Aborted" in line for line in lines)
