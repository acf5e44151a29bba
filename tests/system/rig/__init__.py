"""A board and a server as real machines, for the tests marked ``system``.

A machine is a Debian root file system under an overlay, booted with a real systemd by systemd-nspawn inside a
network namespace, and reached with OpenSSH. `Network` lays the link between board and server, which tests cut and
shape. Everything a run leaves on this machine is below ``build/system``; the root file systems there are kept.
"""

from tests.system.rig.machine import Machine
from tests.system.rig.needs import why_not
from tests.system.rig.network import Network, Wire

__all__ = ["Machine", "Network", "Wire", "why_not"]
