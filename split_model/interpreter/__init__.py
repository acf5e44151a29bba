"""Runs a ``.tflite`` file on either TFLite backend."""

from split_model.interpreter.backend import (
    BACKENDS,
    Interpreter,
    available_backends,
    choose_backend,
    open_interpreter,
)

__all__ = ["BACKENDS", "Interpreter", "available_backends", "choose_backend", "open_interpreter"]
