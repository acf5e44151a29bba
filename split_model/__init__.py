"""What both programs agree on: bundles, interpreter, features, privacy and protocol.

``split_model.prepare`` and ``split_model.report`` are the workstation's half;
neither the device program nor the server program imports them.
"""

__version__ = "0.1.0"
