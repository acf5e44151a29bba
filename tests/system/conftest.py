"""The fixtures of the system tests: a link, and machines at its two ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.rig import Machine, Network, Wire, why_not
from tests.system.rig.deployed import Deployed, deploy_once
from tests.system.rig.house import House
from tests.system.rig.machine import clear_left_over
from tests.system.rig.product import product_layer
from tests.system.rig.rootfs import base
from tests.system.rig.workstation import Workstation

CACHE = Path(__file__).resolve().parents[2] / "build" / "system"
#: Building the root file system counts as part of the first test.
TIMEOUT_S = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.system)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def rig_ready() -> None:
    """Skips with the reason where this machine cannot boot machines."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    clear_left_over(CACHE / "machines")


@pytest.fixture(scope="session")
def rootfs(rig_ready: None) -> Path:
    """A Debian root file system with systemd, sshd and Python, nothing of ours. Only to be read."""
    return base(CACHE)


@pytest.fixture(scope="session")
def product(rootfs: Path) -> Path:
    """A layer with both programs installed, to give to ``make_machine`` as ``layers=(product,)``."""
    return product_layer(CACHE, rootfs)


@pytest.fixture
def network(rig_ready: None) -> Iterator[Network]:
    """The cloud's namespace; boards join it."""
    with Network() as made:
        yield made


@pytest.fixture
def wire(network: Network) -> Wire:
    """The first board's link: the board is 10.77.0.1, the cloud 10.77.0.2."""
    return network.join()


@pytest.fixture
def make_machine(network: Network, rootfs: Path) -> Iterator[Callable[..., Machine]]:
    """Makes and boots machines, and takes them away after the test.

    ``make_machine("porch", wire)`` stands at the board's end of a link, ``make_machine("hall", wire, cloud=True)``
    in the cloud's namespace. ``layers`` are laid over the root file system; ``boot=False`` leaves it switched off.
    """
    made: list[Machine] = []

    def make(
        name: str, wire: Wire, *, cloud: bool = False, layers: tuple[Path, ...] = (), boot: bool = True
    ) -> Machine:
        machine = Machine(
            name,
            layers=(*layers, rootfs),
            folder=CACHE / "machines",
            namespace=wire.cloud if cloud else wire.edge,
            address=wire.cloud_address if cloud else wire.board_address,
            proxy=" ".join(network.in_cloud(["socat", "-", "TCP:%h:%p"])),
        )
        made.append(machine)
        machine.make()
        return machine.boot() if boot else machine

    yield make
    for machine in reversed(made):
        machine.close()


@pytest.fixture
def board(make_machine: Callable[..., Machine], wire: Wire) -> Machine:
    """A booted board with nothing of ours on it; ``board.ssh("...")`` is user ``pi``, who may use sudo."""
    return make_machine("board", wire)


@pytest.fixture
def make_workstation(tmp_path: Path) -> Callable[..., Workstation]:
    """``make_workstation(machine, ...)``: this checkout, with an ssh that knows these machines."""
    return lambda *machines: Workstation(tmp_path / "workstation", machines)


@pytest.fixture(scope="session")
def deployed(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """What ``deploy-server.sh`` and then ``deploy.sh`` have made of two fresh machines, as layers."""
    return deploy_once(CACHE, rootfs, tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def house(
    deployed: Deployed,
    make_machine: Callable[..., Machine],
    make_workstation: Callable[..., Workstation],
    wire: Wire,
) -> House:
    """A board and its server with our programs deployed and running, and a workstation."""
    hall = make_machine("hall", wire, cloud=True, layers=(deployed.server,))
    board = make_machine("board", wire, layers=(deployed.board,))
    made = House(board, hall, make_workstation(board, hall), wire, deployed.bundle)
    made.running()
    return made
