"""``edge-runtime doctor``: checks everything that a device needs; prints faults with their remedies."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import zmq
from msgspec.structs import replace

from edge_runtime.board.sensors import Readings, Sensors
from edge_runtime.config import config as configuration
from edge_runtime.config.config import Config, ServerTable
from edge_runtime.daemon.device import open_link
from edge_runtime.daemon.models import open_heads
from edge_runtime.daemon.plan import Plan
from edge_runtime.link.greeting import greet
from edge_runtime.link.trouble import Trouble
from edge_runtime.privacy.ledger import read, system_now
from edge_runtime.privacy.ledger.state import new_state
from edge_runtime.privacy.ledger.status import LedgerStatus, Prices, ledger_status
from edge_runtime.service import status as states
from edge_runtime.service.doctor_cuts import of_accuracy, of_exposure, of_privacy
from edge_runtime.service.doctor_program import of_program
from edge_runtime.service.network import reach
from split_model import __version__
from split_model.errors import MissingInputError, SplitModelError
from split_model.protocol.keys import KeyPair, UnreadableKeyError, read_pair
from split_model.service import status_file
from split_model.service.config_file import Layers
from split_model.service.findings import Finding, attempt, failed, failure, good, of_clock, of_disk, warning
from split_model.service.status_file import condition_now
from split_model.service.terminal_text import counted, in_words, milliseconds, size

_HOT_C = 80.0
_AS_ROOT = "run doctor with sudo"
_LITTLE_MEMORY_BYTES = 100 << 20


def examine(
    path: Path,
    status_path: Path | None,
    *,
    server: bool = True,
    step_down: Callable[[Config], object] = lambda _: None,
    another_user: Callable[[Config], str] = lambda _: "",
) -> Iterator[Finding]:
    """Run all checks, in the order in which their subjects are needed.

    Args:
        path: The config file.
        status_path: The status file of the running program, if it is known.
        server: Also check the link, which takes seconds.
        step_down: Called after the key is read and before any code of the bundle runs: changes from root to the
            service's
                user.
        another_user: The program's user, if this process runs as another one, who may see other files.

    """
    yield _software()
    loaded: list[tuple[Config, Layers]] = []

    old_names: list[str] = []

    def load() -> str:
        loaded.append(configuration.load_layers(path, warn=old_names.append))
        return ", ".join(map(str, loaded[0][1].files))

    finding = attempt("config", load)
    yield finding
    for text in old_names:
        problem, _, remedy = text.partition("; ")
        yield warning("config", problem, remedy)
    if not loaded:
        yield from _of_the_board()
        return
    config = loaded[0][0]
    plans: list[Plan] = []
    keys: list[KeyPair] = []
    key = _key(path, config, keys)
    step_down(config)
    user = another_user(config)

    def work_out() -> str:
        plans.append(Plan.of(config))
        bundle = plans[0].bundle
        return f"{bundle.manifest.name} ({bundle.identity[:12]}), {counted(len(plans[0].in_use), 'cut')} in use"

    yield attempt("bundle", work_out)
    if plans:
        yield of_privacy(plans[0])
        yield from of_accuracy(plans[0])
        yield from of_exposure(plans[0])
        yield attempt("backend", lambda: _run_once(plans[0]))
        for finding in _sources(plans[0], status_path):
            yield _as_the_program(finding, user)
        yield _as_the_program(attempt("sink", lambda: _sinks(plans[0])), user)
    yield key
    yield of_disk(config.device.state, key="device.state", user=user)
    yield _ledger(config, plans[0].prices if plans else None)
    yield from _of_the_board()
    yield of_program(path, status_path)
    if server:
        untried = _AS_ROOT if key.remedy == _AS_ROOT else "mend key and bundle first"
        yield from _servers(config, plans[0] if plans else None, keys[0] if keys else None, untried=untried)


def _software() -> Finding:
    text = f"edge-runtime {__version__}, Python {platform.python_version()}, {platform.machine()}, "
    return good("software", text + f"ZeroMQ {zmq.zmq_version()}, NumPy {np.__version__}")


def _run_once(plan: Plan) -> str:
    inputs = [np.zeros(spec.shape, spec.dtype) for spec in plan.bundle.manifest.inputs]
    with contextlib.ExitStack() as closing:
        whole = open_heads(plan, closing, keep_copies=False).whole
        whole.run(inputs)
        started_s = time.monotonic()
        whole.run(inputs)
        return f"{whole.backend}: the whole model takes {milliseconds(time.monotonic() - started_s)}"


def _sources(plan: Plan, status_path: Path | None) -> Iterator[Finding]:
    """What the sources are and, unless a running program has them, what each one gives."""

    def check() -> str:
        plan.check_sources()
        return ", ".join(source.label for source in plan.config.sources)

    checked = attempt("source", check)
    found = None
    with contextlib.suppress(SplitModelError):  # `_program` tells it
        found = None if status_path is None else status_file.read(status_path, states.Status, key=states.KEY)
    if checked.level != "ok" or (found is not None and condition_now(found) not in states.OVER):
        yield checked
        return
    for label, told in plan.look_at_sources().items():
        if isinstance(told, SplitModelError):
            yield failed("source", told)
        elif isinstance(told, Exception):
            yield failure("source", f"{label}: {told}", "look after it, or leave it out")
        else:
            yield good("source", f"{label}: {told}" if told else label)


def _sinks(plan: Plan) -> str:
    plan.check_sinks()
    return ", ".join(sink.label for sink in plan.config.sinks)


def _as_the_program(finding: Finding, user: str) -> Finding:
    """Mark a finding about permissions if this process runs as another user than the program."""
    if not user:
        return finding
    return warning(finding.about, f"{finding.text} (the program runs as {user}, this is another user)", _AS_ROOT)


def _key(config_path: Path, config: Config, keys: list[KeyPair]) -> Finding:
    path = config.device.key
    try:
        keys.append(read_pair(path))
    except UnreadableKeyError as error:
        return warning("key", error.problem, _AS_ROOT)
    except MissingInputError as error:
        return failed("key", error, remedy=f"edge-runtime keys make -c {config_path}")
    except SplitModelError as error:
        return failed("key", error)
    return good("key", f"{path}, public key {keys[0].public.decode()}")


def _ledger(config: Config, prices: Prices | None) -> Finding:
    try:
        ledger_state = read(config.device.state)
    except MissingInputError as error:
        return warning("ledger", error.problem, _AS_ROOT)
    except SplitModelError as error:
        return failed("ledger", error, remedy=f"{error.remedy}; until then nothing leaves this board")
    now = system_now()()
    status = ledger_status(ledger_state or new_state(now, since_unix_s=0), config.limits, now, prices)
    return _budget(status, is_new=ledger_state is None)


def _budget(status: LedgerStatus, *, is_new: bool) -> Finding:
    text = (
        f"whole-input epsilon {in_words(status.spent.whole_input_epsilon)} spent in "
        f"{counted(status.spent.releases, 'release')}"
    )
    if is_new:
        text = "none yet: the first start makes it"
    if status.lifetime is not None and status.lifetime.left == 0:
        return warning("ledger", f"{text}, nothing left of {in_words(status.lifetime.budget)}",
                       "everything runs here from now on, unless privacy.whole_input_budget is raised")  # fmt: skip
    if status.shortfalls:
        return warning(
            "ledger",
            f"{text}; no frame can be paid for: {'; '.join(status.shortfalls)}",
            "everything runs here; raise that budget, or lower the epsilon of a frame (see docs/privacy.md)",
        )
    left = "unlimited budget" if status.lifetime is None else f"{in_words(status.lifetime.left, up=False)} left"
    return good("ledger", text if is_new else f"{text}, {left}")


def _of_the_board() -> Iterator[Finding]:
    yield of_clock()
    readings = Sensors().read()
    yield from _temperature(readings)
    yield from _throttling(readings)
    available = readings.memory_available_bytes or 0
    text = f"{size(available)} of {size(readings.memory_total_bytes or 0)} available"
    if available < _LITTLE_MEMORY_BYTES:
        yield warning("memory", text, "stop other programs, or offer fewer cuts; see device.head_memory_mb")
    else:
        yield good("memory", text)


def _temperature(readings: Readings) -> Iterator[Finding]:
    """Nothing of a machine without a sensor."""
    if readings.temperature_c is None:
        return
    text = f"{readings.temperature_c:.0f} °C"
    if readings.temperature_c >= _HOT_C:
        yield warning("heat", text, "cool it: a hot board slows down, and the split moves to the server")
    else:
        yield good("heat", text)


def _throttling(readings: Readings) -> Iterator[Finding]:
    """Nothing of a machine that does not tell whether it is throttled."""
    throttling = readings.throttling
    if throttling is None:
        return
    remedy = "use the board's own power supply and a short cable" if throttling.by_power else "cool it"
    if throttling.now:
        yield warning("power", f"throttled now: {', '.join(throttling.now)}", remedy)
    elif throttling.since_boot:
        yield warning("power", f"since the boot it was throttled: {', '.join(throttling.since_boot)}", remedy)
    else:
        yield good("power", "not throttled")


def _servers(config: Config, plan: Plan | None, keys: KeyPair | None, *, untried: str) -> Iterator[Finding]:
    """Check all servers. If one of them works, faults of the other are warnings: the board can do without it."""
    if len(config.servers) == 1:
        yield from _server(config.servers[0], plan, keys, untried=untried)
        return
    examined = [list(_server(server, plan, keys, untried=untried)) for server in config.servers]
    works = any(finding.about == "server" and finding.level == "ok" for found in examined for finding in found)
    for server, findings in zip(config.servers, examined, strict=True):
        for finding in findings:
            found = finding
            if works and finding.level == "fail":
                found = warning(finding.about, f"{finding.text} (the other server works)", finding.remedy)
            named = server.address in found.text
            yield found if named else replace(found, text=f"{server.address}: {found.text}")


def _server(server: ServerTable, plan: Plan | None, keys: KeyPair | None, *, untried: str) -> Iterator[Finding]:
    """Check one server step by step; the first failure is the one to repair. ``untried``: remedy without a key."""
    address = server.address
    reached = reach(address)
    yield reached
    if reached.level != "ok":
        return
    if keys is None or plan is None:
        yield warning("server", "not checked: whether it accepts this device", untried)
        return
    bundle = plan.bundle
    with contextlib.ExitStack() as closing:
        link = open_link(plan, server, keys, closing, boot_id=os.urandom(16).hex())
        view = greet(link, server_keys=len(server.keys))
    if not view.up:
        text, remedy = view.problem, view.remedy
        if view.trouble in (Trouble.NOT_YET, Trouble.AWAY):  # although the port was open just now
            text = f"{address} accepts the connection but sends nothing"
            remedy = "check that a cloud-server listens there, and its log"
        yield failure("server", text, remedy, exit_code=view.trouble.exit_code)
        return
    trip = "" if view.estimate.rtt_s is None else f", round trip {milliseconds(view.estimate.rtt_s)}"
    yield good("server", f"accepts this device{trip}")
    if any(offer.identity == bundle.identity for offer in view.offers):
        yield good("hosted", f"it hosts {bundle.manifest.name} ({bundle.identity[:12]})")
    else:
        hosted = ", ".join(f"{offer.name} ({offer.identity[:12]})" for offer in view.offers) or "nothing"
        yield warning("hosted", f"it does not host this bundle ({bundle.identity[:12]}), but {hosted}",
                      "copy the bundle there and reload it; everything runs here until then")  # fmt: skip
