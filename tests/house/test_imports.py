"""The rules of the house: who imports whom, and that setup.cfg declares what is imported."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("split_model", "edge_runtime", "cloud_server")
#: The workstation's half of `split_model`, and its command, which imports it.
WORKSTATION = (
    "split_model.prepare",
    "split_model.audit",
    "split_model.report",
    "split_model.terminal",
    "split_model.cli",
    "split_model.arguments",
)

#: Import name -> name of the distribution, where they differ.
DISTRIBUTIONS = {
    "zmq": "pyzmq",
    "PIL": "pillow",
    "serial": "pyserial",
    "ai_edge_litert": "ai-edge-litert",
    "tflite_runtime": "tflite-runtime",
    "litert_quantizer": "litert-quantizer",
    "pillow_heif": "pillow-heif",
    "prometheus_client": "prometheus-client",
}
#: Come by extra or with the system: Pillow decodes pictures, the backends run models, the last two read cameras.
#: Imported when asked for, not before.
BY_EXTRA = {
    "gi",
    "jinja2",
    "paho",
    "prometheus_client",
    "ray",
    "starlette",
    "uvicorn",
    "ai_edge_litert",
    "tflite_runtime",
    "PIL",
    "pillow_heif",
    "cv2",
    "picamera2",
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """Full dotted names of all that a file imports, wherever in it, `importlib.import_module("...")` included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def offences(package: str, forbidden: tuple[str, ...], *, but: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(package)
        if not any(is_in(name_of(path), exempt) for exempt in but)
        for name in imported(path)
        if any(is_in(name, wrong) for wrong in forbidden)
    ]


def third_party(paths: list[Path]) -> set[str]:
    own = {*PACKAGES, "benchmarks", "models"}
    tops = {name.split(".")[0] for path in paths for name in imported(path)}
    return tops - own - set(sys.stdlib_module_names) - {"__future__"}


def declared(extra: str | None) -> set[str]:
    """Names of the distributions that setup.cfg asks for."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    text = config["options"]["install_requires"] if extra is None else config["options.extras_require"][extra]
    lines = [line.strip() for line in text.splitlines()]
    return {re.split(r"[<>=;\s\[~!]", line)[0].lower() for line in lines if line and not line.startswith("#")}


def distributions(names: set[str]) -> set[str]:
    return {DISTRIBUTIONS.get(name, name) for name in names}


def test_the_rules_are_read_from_real_modules() -> None:
    assert all(len(modules(package)) > 5 for package in PACKAGES)
    assert "split_model.errors" in set(imported(ROOT / "edge_runtime" / "config" / "config.py"))


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("edge_runtime", ("cloud_server", *WORKSTATION)),
        ("cloud_server", ("edge_runtime", *WORKSTATION)),
        ("split_model", ("edge_runtime", "cloud_server")),
        *((package, ("models", "benchmarks", "tests", "deploy")) for package in PACKAGES),
    ],
)
def test_packages_keep_apart(package: str, forbidden: tuple[str, ...]) -> None:
    assert offences(package, forbidden) == []


def test_what_both_programs_use_does_not_use_the_workstation() -> None:
    """Else a device would load the slicer through a shared module."""
    assert offences("split_model", WORKSTATION, but=(*WORKSTATION, "split_model.__main__")) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_called_utils(package: str) -> None:
    wrong = [path for path in modules(package) if re.search(r"util|helper|misc|common", path.stem)]
    assert wrong == []


def reachable(package: str) -> list[Path]:
    """The modules of a program and all of ours that it imports, directly or not."""
    waiting = modules(package)
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for name in imported(path):
            base = ROOT.joinpath(*name.split("."))
            waiting += [file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()]
    return sorted(found)


def test_the_device_needs_no_more_than_it_declares() -> None:
    """Backends and Pillow come by extra and are imported only when asked for."""
    needed = third_party(reachable("edge_runtime")) - BY_EXTRA
    undeclared = distributions(needed) - declared(None)
    assert undeclared == set()


def test_no_more_is_declared_than_the_two_programs_need() -> None:
    device, server = (distributions(third_party(reachable(name))) for name in ("edge_runtime", "cloud_server"))
    assert declared(None) - device - server == set()
    assert declared(None) - device == {"psutil"}  # the device reads its few counts by itself


def test_the_server_needs_no_more_than_is_declared() -> None:
    needed = third_party(reachable("cloud_server")) - BY_EXTRA
    assert distributions(needed) - declared(None) == set()


def test_the_workstation_needs_no_more_than_its_extra() -> None:
    needed = third_party(reachable("split_model")) - {"tflite_runtime", "pillow_heif", "torch", "skimage"}
    assert distributions(needed) - declared(None) - declared("tools") == set()


def test_the_device_program_starts_without_anything_heavy() -> None:
    """Neither at its top nor through a library: memory and start-up time on a board."""
    heavy = {"asyncio", "PIL", "ai_edge_litert", "tflite_runtime", "matplotlib", "flatbuffers", "multiprocessing"}
    code = f"import sys, edge_runtime.daemon.daemon; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_device_loads_nothing_heavy_at_start() -> None:
    """Whatever imports a library only when it is asked for does so inside a function."""
    heavy = {"asyncio", "PIL", "ai_edge_litert", "tflite_runtime", "matplotlib", "flatbuffers", "zmq.asyncio"}
    found = [
        f"{path.relative_to(ROOT)} imports {name} at its top"
        for path in reachable("edge_runtime")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([alias.name for alias in node.names] + [getattr(node, "module", None) or ""])
        if name in heavy or name.split(".")[0] in heavy
    ]
    assert found == []
