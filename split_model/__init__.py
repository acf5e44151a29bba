"""The code shared by both programs: bundles, interpreter, features, privacy and protocol.

``split_model.prepare`` and ``split_model.report`` are for the workstation; neither the device program nor the
server program imports them.
"""

__version__ = "0.1.0"
