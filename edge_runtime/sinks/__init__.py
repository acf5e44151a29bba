"""Sinks of answers: one module for each kind, registered in ``setup.cfg`` under ``edge_runtime.sinks``."""

from edge_runtime.sinks.jsonl import JsonLines
from edge_runtime.sinks.sink import Sink, SinkTable
from edge_runtime.sinks.sinks import Sinks

__all__ = ["JsonLines", "Sink", "SinkTable", "Sinks"]
