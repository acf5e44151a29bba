"""Tests whether a Ray cluster refuses clients without the token; exits with 77 if it does.

The gateway runs it as a process before it uses a cluster that is open to its network: ``python -m
cloud_server.engines.ray_stranger HOST:PORT``.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any


def main() -> int:
    """Run the test: 0 if the cluster answers a stranger, 77 if it refuses, 69 if it does neither."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from ray.exceptions import AuthenticationError, RayError

    client: Any = import_module("ray._raylet").GcsClient  # `ray.init` would try again for 20 s
    try:
        client(address=sys.argv[1]).get_all_node_info(timeout=10)
    except AuthenticationError:
        return os.EX_NOPERM
    except RayError as error:
        print(" ".join(str(error).split())[:300], file=sys.stderr)
        return os.EX_UNAVAILABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
