"""The doctor on the program: whether it runs, and what troubles it."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.service import status as states
from split_model.errors import SplitModelError
from split_model.service import status_file
from split_model.service.findings import Finding, good, warning
from split_model.service.status_file import condition_now


def of_program(config: Path, path: Path | None) -> Finding:
    """How the program is. ``path``: its status file, if that is known."""
    if path is None:
        return good("program", "not looked at")
    try:
        found = status_file.read(path, states.Status, key=states.KEY)
    except SplitModelError as error:
        return warning("program", error.problem, error.remedy)
    condition = "stopped" if found is None else condition_now(found)
    if found is None or condition in ("dead", "hanging", "stopped"):
        return _not_running(condition, config)
    for problem, remedy in (
        (
            found.reload_error and f"the changed config was refused: {found.reload_error}",
            "mend it, then systemctl reload edge-runtime",
        ),
        (
            found.ledger_trouble and f"{condition}, but nothing leaves this board: {found.ledger_trouble}",
            "mend that, then systemctl reload edge-runtime",
        ),
        *(
            (f"{what} {name}: {trouble}", "repair it; the program retries it automatically")
            for what, troubles in (("source", found.source_trouble), ("sink", found.sink_trouble))
            for name, trouble in troubles.items()
        ),
        (found.overdue and f"stuck: {', '.join(found.overdue)}", "the watchdog will restart it"),
    ):
        if problem:
            return warning("program", str(problem), remedy)
    return good("program", f"{condition}, {states.headline(found)}")


def _not_running(condition: str, config: Path) -> Finding:
    installed = status_file.is_installed("edge-runtime")
    if condition == "stopped" and not installed:  # a workstation, where nothing has to run all the time
        return good("program", f"not running; '{status_file.start_command(config, 'edge-runtime')}' starts it")
    if condition == "stopped":
        return warning("program", f"stopped: nothing runs with {config}", "sudo systemctl start edge-runtime")
    log = "systemctl status edge-runtime; journalctl -u edge-runtime" if installed else "see its log"
    return warning("program", condition, log)
