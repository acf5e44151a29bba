"""What holds for every test."""

import signal

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("project", deadline=None, print_blob=True)
settings.load_profile("project")

# Under nohup the programs leave SIGHUP alone, as they should; those that the tests start are to reload at it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests in one of the processes that `make test` starts: they share what is costly to make.

    Two Ray clusters on one machine get into each other's way, so that whole folder goes to one process.
    """
    for item in items:
        ray = item.path.parent.name == "engines"
        item.add_marker(pytest.mark.xdist_group(str(item.path.parent if ray else item.path)))
