"""What is read from /proc: the real one, beside psutil, and ones that tell little or nonsense."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from edge_runtime.board.kernel_counts import busy_share, cpu_seconds, memory_bytes, resident_bytes


def test_this_machine_is_as_psutil_sees_it() -> None:
    found = cpu_seconds()
    times = psutil.cpu_times()
    total_s = sum(value for name, value in times._asdict().items() if not name.startswith("guest"))
    assert found is not None
    assert found[1] == pytest.approx(total_s, rel=0.01)
    assert found[0] == pytest.approx(total_s - times.idle - times.iowait, rel=0.01)
    available, total = memory_bytes()
    assert total == psutil.virtual_memory().total
    assert available == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    assert resident_bytes() == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)


def test_guest_time_is_counted_once_and_waiting_for_a_disk_is_idle(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  100 0 100 200 300 0 0 100 90 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    found = cpu_seconds(tmp_path)
    assert found is not None
    busy_s, all_s = found
    assert busy_s / all_s == pytest.approx(300 / 800)


@pytest.mark.parametrize(
    "text", [None, "", "cpu\n", "cpu 1 2 3\n", "cpu a b c d e f g h\n", "intr 1 2 3 4 5 6 7 8\n"]
)
def test_what_the_kernel_does_not_tell_is_unknown(tmp_path: Path, text: str | None) -> None:
    for name in ("stat", "meminfo", "self/statm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if text is not None:
            (tmp_path / name).write_text(text)
    assert cpu_seconds(tmp_path) is None
    assert memory_bytes(tmp_path) == (None, None)


def test_a_share_needs_two_looks_and_time_between() -> None:
    assert busy_share((1.0, 10.0), (2.0, 14.0)) == pytest.approx(0.25)
    assert busy_share((2.0, 10.0), (1.0, 14.0)) == 0.0  # counters of a virtual machine may go back
    assert busy_share((1.0, 10.0), (1.0, 10.0)) is None
    assert busy_share(None, (1.0, 10.0)) is None
    assert busy_share((1.0, 10.0), None) is None
