"""The page in a real browser: figures are those of the devices' own records, and a board unplugged is marked."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zmq

from cloud_server import allow_list
from cloud_server.fleet.cells import quantity
from cloud_server.web import password
from split_model.protocol import reports
from split_model.protocol.keys import KeyPair, make_pair
from tests.cloud_server.conftest import Device as WireDevice
from tests.device_reports import make_report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PASSWORD = "correct horse"
PATIENCE_S = 40.0
#: Device programs; ``FLEET_PROGRAMS=10`` takes ten, and a minute more.
PROGRAMS = int(os.environ.get("FLEET_PROGRAMS", "2"))
#: Beside them, devices that speak the wire only; one of them calls everything of its own by a script.
TALKERS = max(2, 10 - PROGRAMS)
SCRIPT = "<script>document.title='run'</script><img src=x onerror=document.title='run'>"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs chromium and its driver: tests/system/install-packages.sh"
)


@dataclass
class Browser:
    """A headless Chromium that is logged in."""

    driver: Any
    address: str

    def open(self, path: str) -> None:
        self.driver.get(self.address + path)

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements, in one question: they may change between two."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return self.driver.execute_script(script, selector)

    def table(self) -> dict[str, dict[str, str]]:
        """The fleet's table by device and heading."""
        script = (
            "return [...document.querySelectorAll('#devices tbody tr')].map("
            "r => [r.querySelector('th').textContent, Object.fromEntries("
            "[...r.querySelectorAll('td')].map(c => [c.dataset.label, c.textContent]))])"
        )
        return dict(self.driver.execute_script(script))

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        deadline_s = time.monotonic() + PATIENCE_S
        while not (value := holds()):
            assert time.monotonic() < deadline_s, f"{what}: {json.dumps(self.table(), ensure_ascii=False)}"
            time.sleep(0.2)
        return value

    def size(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})

    def violations(self) -> list[str]:
        """What axe finds serious or critical on this page."""
        import axe_core_python

        self.driver.execute_script((Path(axe_core_python.__file__).parent / "axe.min.js").read_text())
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run().then(r => done(r.violations.map(v => [v.impact, v.id, "
            "v.nodes.map(n => n.html).slice(0, 3)])))"
        )
        return [f"{impact} {rule}: {nodes}" for impact, rule, nodes in found if impact in ("serious", "critical")]

    def stops(self, count: int) -> list[str]:
        """What the first stops of the Tab key are."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        found = []
        for _ in range(count):
            ActionChains(self.driver).send_keys(Keys.TAB).perform()
            found.append(self.driver.execute_script("return document.activeElement.textContent"))
        return found

    def keep(self, name: str) -> None:
        """A screenshot, where somebody wants to look at them."""
        if folder := os.environ.get("FLEET_SCREENSHOTS"):
            time.sleep(0.3)
            self.driver.save_screenshot(f"{folder}/{name}.png")


@pytest.fixture
def browse() -> Iterator[Callable[[str], Browser]]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    opened = []

    def make(address: str) -> Browser:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(argument)
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        opened.append(driver)
        return Browser(driver, address)

    yield make
    for driver in opened:
        driver.quit()


def log_in(browser: Browser, text: str = PASSWORD) -> None:
    from selenium.webdriver.common.by import By

    browser.open("/login")
    browser.driver.find_element(By.ID, "password").send_keys(text + "\n")
    browser.until(lambda: browser.texts("h1") != ["Log in"] or browser.texts(".alert"), "the login does nothing")


@dataclass
class Talker:
    """A device that speaks the wire only."""

    name: str
    link: WireDevice
    number: int

    def tell(self, bundle: str) -> None:
        loud = self.number == 0
        report = make_report(
            bundle if self.number else "f" * 64,
            bundle_name=SCRIPT[:60] if loud else "tiny",
            software=SCRIPT[:60] if loud else "edge-runtime 0.1.0",
            moved=reports.Moved(
                ago_s=1.0, split_from=2, split_to=1, why=SCRIPT if loud else "saves 12 ms of 95 ms"
            ),
            uptime_s=float(self.number + 1),
            alerts=("throttled",) if self.number == 1 else (),
        )
        self.link.session.report(report)
        self.link.session.probe(0)
        self.link.step(wait_ms=0)


def start_talkers(server: Any, count: int) -> list[Talker]:
    made = []
    for number in range(count):
        keys, name = KeyPair(*zmq.curve_keypair()), f"talker-{number}"
        allow_list.allow(server.folder / "devices", name, keys.public.decode())
        made.append(
            Talker(name, WireDevice(server.address, server.key, keys, boot_id=f"b{number}").greet(), number)
        )
    return made


def test_ten_devices_on_the_page_and_one_is_unplugged(rig, browse):
    folder = rig.folder / "server"
    folder.mkdir()
    make_pair(folder, "server")
    password.write(folder / "web.password", PASSWORD)
    server = rig.server(tables={"web": {"listen": "127.0.0.1:0", "password": "web.password"}})
    address = server.until(lambda: server.status().get("web"), "no page")
    browser = browse(address)

    # Nothing but the login without the password, and with a wrong one.
    browser.open("/")
    assert browser.texts("h1") == ["Log in"]
    assert browser.violations() == []
    log_in(browser, "wrong password")
    assert browser.texts("h1") == ["Log in"]
    assert browser.driver.get_cookies() == []
    log_in(browser)
    assert browser.texts("h1") == ["Devices"]
    assert browser.texts("main p")[-1].startswith("No device is allowed yet")  # a fleet of none
    assert browser.violations() == []

    devices = []
    for number in range(PROGRAMS):
        pictures = rig.folder / f"pictures-{number}"
        shutil.copytree(rig.parts.pictures, pictures)
        devices.append(
            rig.device(
                server,
                name=f"board-{number}",
                tables={
                    "source": {"kind": "watch", "path": str(pictures)},
                    "report": {"period_s": 1.0},
                    "planner": {
                        "split": (2, "local")[number % 2], "answer_within_s": 5.0, "accuracy_floor": "off",
                    },
                },
                device_state=str(rig.folder / f"state-{number}"),
                device_status="status.json",
            )
        )  # fmt: skip
    talkers = start_talkers(server, TALKERS)
    frames = len(list(rig.parts.pictures.iterdir()))
    for device in devices:
        device.until(lambda device=device: len(device.records()) >= frames, "frames answered")

    def settled() -> dict[str, dict[str, str]] | None:
        for talker in talkers:
            talker.tell(rig.parts.bundle.identity)
        shown = browser.table()
        ready = [name for name, cells in shown.items() if cells["State"] == "up" and cells["There"] != "–"]
        exact = all(
            shown.get(f"board-{n}", {}).get("There") == str(d.count("offloaded")) for n, d in enumerate(devices)
        )
        return shown if len(ready) == PROGRAMS + TALKERS and exact else None

    shown = browser.until(settled, "ten devices with their figures, without a reload of the page")
    for number, device in enumerate(devices):
        ends = Counter(record["outcome"] for record in device.records())
        own = json.loads((device.config.parent / "status.json").read_bytes())
        cells = shown[f"board-{number}"]
        here = reports.coarse(ends["local"]) + reports.coarse(ends["fallback"])
        assert cells["There"] == str(ends["offloaded"])
        assert cells["Here"] == (f"≥ {here}" if here else "0")
        assert cells["Split"] == ("local" if own["split"] == own["local"] else f"cut {own['split']}")
        assert cells["Bundle"] == own["bundle"]["name"]
        spent = own["ledger"]["spent"]["whole_input_epsilon"]
        assert cells["ε spent"].split(" ")[0] == quantity(float(f"{spent:.5g}"))
        assert cells["ε left"] == "unlimited"
        assert cells["Load"] == f"{own['board']['load']:.2f}"
    assert shown["talker-1"]["Alerts"] == "throttled"

    # A script in what a device calls itself is text, on every page that shows it.
    for path in ("/", "/devices/talker-0", "/bundles"):
        browser.open(path)
        assert browser.driver.title.endswith("split runtime")
        assert browser.texts("main script, main img") == []
        assert browser.violations() == [], path
    browser.open("/devices/talker-0")
    assert SCRIPT[:60] in "".join(browser.texts("#device td"))
    assert SCRIPT in "".join(browser.texts("main td"))

    # Narrow and dark: nothing is wider than the screen, and the checker agrees.
    for width, dark in ((400, True), (1200, False)):
        browser.size(width, dark=dark)
        for path in ("/", "/devices/board-0", "/server", "/statistics", "/bundles"):
            browser.open(path)
            wide = browser.driver.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, (path, width, wide)
            assert browser.violations() == [], (path, width, dark)
            name = f"{path.strip('/').replace('/', '-') or 'devices'}-{width}{'-dark' * dark}"
            browser.keep(name)

    # By keyboard: the first stops are the skip link, the pages, the way out, and each device.
    browser.open("/")
    stops = browser.stops(9)
    assert stops[1:6] == ["Devices", "Server", "Statistics", "Bundles", "Log out"]
    assert "board-0" in stops

    # Pull the plug of one: it is marked without anybody's doing.
    devices[0].kill()
    browser.until(lambda: browser.table()["board-0"]["State"].startswith("silent"), "the silence is not shown")
    assert browser.table()["board-1"]["State"] == "up"
    assert browser.texts("tr.troubled th")[0] == "board-0"
    for talker in talkers:
        talker.link.close()
