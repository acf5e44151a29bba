"""Sources of frames: one module for each kind, registered in ``setup.cfg`` as ``edge_runtime.sources``.

A kind is a `SourceTable` (its table in the config file), which opens a `Source`. Kinds of other packages are found
in the same way; docs/sources.md shows one.
"""

from edge_runtime.sources.source import Answer, Frame, Policy, Source, SourceTable, Wanted

__all__ = ["Answer", "Frame", "Policy", "Source", "SourceTable", "Wanted"]
