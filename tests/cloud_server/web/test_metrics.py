"""The metrics: bounded whatever devices call themselves, and of use to a real Prometheus."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cloud_server.fleet.overview import Overview
from cloud_server.web.metrics import MOST_DEVICES, Metrics

MONITORING = Path(__file__).resolve().parents[3] / "deploy" / "monitoring"
TOKEN = "a-token-for-prometheus"
PATIENCE_S = 30.0


def series(text: str) -> dict[tuple[str, ...], float]:
    """Every sample by its name and sorted labels; two of one kind are an error, as for Prometheus."""
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def overview_of(names: dict[str, str]) -> Overview:
    return Overview(names=lambda: names, status=lambda: None, clock=lambda: 0.0)


def rendered(overview: Overview) -> dict[tuple[str, ...], float]:
    return series(Metrics(overview).render().decode())


def test_whatever_devices_call_themselves_the_number_of_series_stays(a_report):
    names = {f"key {number}": f"board-{number}" for number in range(20)}
    overview = overview_of(names)
    counts = []
    for round_number in range(5):
        for number, key in enumerate(names):
            hostile = a_report(
                f"{round_number:02d}{number:02d}" * 16,
                software=f"software {round_number} {number}",
                bundle_name=f'bundle "{round_number}\n{number}',
                python=f"python {round_number}",
                alerts=("source", "stuck"),
            )
            overview.fleet.reported(key, hostile, 10.0 * round_number)
        found = rendered(overview)
        counts.append(len(found))
        assert not any('bundle "' in part or "software" in part for key in found for part in key[1:])
    assert len(set(counts)) == 1


def test_devices_beyond_the_bound_are_counted_and_not_told_one_by_one(a_report):
    names = {f"key {number}": f"board-{number:05d}" for number in range(MOST_DEVICES + 7)}
    overview = overview_of(names)
    for key in names:
        overview.fleet.reported(key, a_report("a" * 64), 0.0)
    found = rendered(overview)
    assert found[("cloud_server_devices_left_out",)] == 7
    told = {key for key in found if key[0] == "cloud_server_device_load_factor"}
    assert len(told) == MOST_DEVICES


def test_two_keys_of_one_name_have_series_of_their_own(a_report):
    overview = overview_of({"key one": "porch", "key two": "porch"})
    for key in ("key one", "key two"):
        overview.fleet.reported(key, a_report("a" * 64), 0.0)
    found = rendered(overview)
    assert len([key for key in found if key[0] == "cloud_server_device_load_factor"]) == 2


def test_the_histograms_count_each_answer_in_its_bucket():
    overview = overview_of({})
    for total_s in (0.0004, 0.004, 0.04, 0.4, 40.0):
        overview.times.answered(
            "lite", 20, total_s=total_s, queue_s=0.0, tail_s=total_s / 2, received_bytes=10, sent_bytes=3
        )
    found = rendered(overview)
    buckets = {
        key[-1]: value for key, value in found.items() if key[0] == "cloud_server_answer_total_seconds_bucket"
    }
    assert (buckets["le=0.001"], buckets["le=0.005"], buckets["le=10.0"], buckets["le=+Inf"]) == (1, 2, 4, 5)
    assert found[("cloud_server_received_bytes_total", "bundle=lite", "cut=20")] == 50


def query(port: int, text: str) -> list[dict[str, object]]:
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': text})}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found = json.load(answer)
    assert found["status"] == "success", found
    return found["data"]["result"]


def panel_queries() -> list[tuple[str, str]]:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    return [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def until(holds: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            if holds():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline_s, what
        time.sleep(0.2)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs prometheus: tests/system/install-packages.sh")
def test_promtool_finds_nothing_wrong_with_rules_and_config(tmp_path):
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(MONITORING / name, tmp_path)
    config = (tmp_path / "prometheus.yml").read_text()
    token = tmp_path / "token"
    token.write_text(TOKEN)
    (tmp_path / "prometheus.yml").write_text(config.replace("/etc/prometheus/cloud-server.token", str(token)))
    for command in (["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"]):
        done = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus: tests/system/install-packages.sh")
def test_a_real_prometheus_scrapes_and_every_panel_and_alert_has_its_figures(
    page, model, connect, a_report, tmp_path
):
    device = connect(page.server, page.server.new_keys("porch")).greet()
    frame = model.features(model.frame(1))
    for number in range(3):
        device.ask(model.request(number), frame)
    config = (MONITORING / "prometheus.yml").read_text()
    token = tmp_path / "token"
    token.write_text(TOKEN)
    config = config.replace("/etc/prometheus/cloud-server.token", str(token)).replace("15s", "1s")
    config = config.replace("127.0.0.1:8480", f"127.0.0.1:{page.port}").partition("  - job_name: boards")[0]
    (tmp_path / "prometheus.yml").write_text(config)
    shutil.copy(MONITORING / "alerts.yml", tmp_path)
    port = free_port()
    with (tmp_path / "prometheus.log").open("wb") as log:
        prometheus = subprocess.Popen(
            ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
             f"--web.listen-address=127.0.0.1:{port}"],
            cwd=tmp_path, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        told = 0

        def report_and_ask() -> None:
            nonlocal told
            told += 1
            device.session.report(
                a_report(
                    model.bundle.identity,
                    uptime_s=float(told),
                    alerts=("source",),
                    frames=a_report("a" * 64).frames.__class__(
                        exact=False, frames_in=100 * told, offloaded=80 * told, local=16, fallback=4, failed=0,
                        dropped=0, late=0, moves=0,
                    ),
                )
            )  # fmt: skip
            device.ask(model.request(10 + told), frame)

        def whole() -> bool:
            report_and_ask()
            return all(query(port, text) for title, text in panel_queries() if "Refusals" not in title)

        until(whole, f"a panel without figures: {page.server.log()}")
        (up,) = query(port, 'up{job="cloud-server"}')
        assert up["value"][1] == "1"
        answered = query(port, "sum(cloud_server_answer_total_seconds_count)")
        assert 3 <= float(answered[0]["value"][1]) <= 3 + told
        for title, text in panel_queries():
            query(port, text)  # each is a query that Prometheus takes, with figures or without
            assert "cloud_server_" in text, title
        until(lambda: query(port, 'ALERTS{alertname="DeviceNeedsAttention",device="porch"}'), "no alert")
    finally:
        prometheus.terminate()
        prometheus.wait(20)
