"""Bundle files that change under a running program: it goes on, with the answers of the bundle that it opened."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edge_runtime.inference.model_files import ModelFiles
from split_model.bundle import Bundle
from split_model.errors import BadBundleError
from split_model.prepare.pipeline import PrepareOptions, prepare

ROWS, CLASSES = 4096, 64
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def embedding_model(path: Path) -> Path:
    """An index [1] through GATHER of a table, RELU twice: the table stays in the file, and is read row by row."""
    table = np.random.default_rng(7).normal(size=(ROWS, CLASSES)).astype(np.float32)
    kinds = schema.TensorType
    shapes = [((1,), kinds.INT32), ((ROWS, CLASSES), kinds.FLOAT32)] + [((1, CLASSES), kinds.FLOAT32)] * 3
    data = {1: np.frombuffer(table.tobytes(), np.uint8)}
    buffers = [schema.BufferT()] + [schema.BufferT(data=data.get(number)) for number in range(len(shapes))]
    tensors = [
        schema.TensorT(
            name=f"tensor{number}".encode(), shape=np.array(shape, np.int32), type=kind, buffer=number + 1
        )
        for number, (shape, kind) in enumerate(shapes)
    ]
    ops = [
        schema.OperatorT(
            opcodeIndex=0, inputs=[1, 0], outputs=[2],
            builtinOptionsType=schema.BuiltinOptions.GatherOptions, builtinOptions=schema.GatherOptionsT(),
        ),
        schema.OperatorT(opcodeIndex=1, inputs=[2], outputs=[3]),
        schema.OperatorT(opcodeIndex=1, inputs=[3], outputs=[4]),
    ]  # fmt: skip
    codes = [
        schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=1)
        for code in (schema.BuiltinOperator.GATHER, schema.BuiltinOperator.RELU)
    ]
    graph = schema.SubGraphT(tensors=tensors, inputs=[0], outputs=[4], operators=ops)
    model = schema.ModelT(version=3, operatorCodes=codes, buffers=buffers, subgraphs=[graph])
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root = tmp_path_factory.mktemp("embedding")
    (root / "labels.txt").write_text("".join(f"class {number}\n" for number in range(CLASSES)))
    model = embedding_model(root / "embedding.tflite")
    np.savez(root / "inputs.npz", inputs=np.arange(0, ROWS, ROWS // 32, dtype=np.int32))
    options = PrepareOptions(model=model, output=root / "bundle", cuts=None, labels=root / "labels.txt")
    return prepare(options, lambda *_: None)


@pytest.fixture
def bundle(embedding: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(embedding.root, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


def rewritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


def cut_short(path: Path) -> None:
    os.truncate(path, 0)


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def run_once(files: ModelFiles, index: int) -> np.ndarray:
    whole = files.open(files.bundle.manifest.model, backend=None, threads=1)
    return whole.run([np.array([index], np.int32)])[0]


@pytest.mark.parametrize("change", [rewritten, cut_short])
def test_the_program_goes_on_with_the_same_answers_while_its_bundle_is_rewritten(
    rig: Any, bundle: Bundle, embedding: Bundle, change: Callable[[Path], None]
) -> None:
    device = rig.device(
        device_bundle=str(bundle.root),
        device_state="state",
        source_path=str(embedding.root.parent / "inputs.npz"),
        planner_split="local",
        release_mechanism="none",
        emulation_slowdown=1.0,
    )
    device.until(lambda: len(device.records()) > 40, "frames")
    for ref in bundle.manifest.files():
        change(bundle.path(ref))
    before = len(device.records())
    device.until(lambda: len(device.records()) > before + 40, "frames after the change")
    assert device.stop() == 0
    answers: dict[str, set[str]] = {}
    for record in device.records():
        assert record["outcome"] == "local"
        answers.setdefault(record["name"], set()).add(str(record["top"]))
    assert len(answers) == 32
    assert all(len(found) == 1 for found in answers.values())
    assert len({next(iter(found)) for found in answers.values()}) > 16


def test_a_file_that_can_be_rewritten_is_copied_once_and_nobody_may_write_to_the_copy(
    bundle: Bundle, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    files = ModelFiles(bundle, state)
    before = run_once(files, 5)
    ref = bundle.manifest.model
    copy = state / "models" / ref.sha256
    assert copy.stat().st_mode & 0o777 == 0o400
    assert (state / "models").stat().st_mode & 0o027 == 0
    made = copy.stat()
    np.testing.assert_array_equal(run_once(ModelFiles(bundle, state), 5), before)
    assert copy.stat().st_ino == made.st_ino
    assert [entry.name for entry in (state / "models").iterdir()] == [ref.sha256]


def test_a_file_without_write_bits_is_mapped_where_it_lies(bundle: Bundle, tmp_path: Path) -> None:
    for ref in bundle.manifest.files():
        bundle.path(ref).chmod(0o444)
    files = ModelFiles(bundle, tmp_path / "state")
    whole = files.open(bundle.manifest.model, backend=None, threads=1)
    maps = Path("/proc/self/maps").read_text()
    assert f"{bundle.path(bundle.manifest.model)}\n" in maps
    assert whole.mapped
    assert not (tmp_path / "state").exists()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts what is named, at a new folder."""
    places: list[Path] = []

    def mount(*options: str) -> Path:
        place = tmp_path / f"mounted-{len(places)}"
        place.mkdir()
        done = subprocess.run(["mount", *options, str(place)], check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", "-l", place], check=True)


@as_root
def test_a_read_only_mount_of_files_that_are_rewritten_elsewhere_is_no_protection(
    bundle: Bundle, tmp_path: Path, mounted: Callable[..., Path]
) -> None:
    """So the service's sandbox shows them, and a container its volumes."""
    place = mounted("--bind", str(bundle.root))
    subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
    seen = Bundle.open(place)
    model = ModelFiles(seen, tmp_path / "state").open(seen.manifest.model, backend=None, threads=1)
    before = model.run([np.array([77], np.int32)])[0]
    rewritten(bundle.path(bundle.manifest.model))
    np.testing.assert_array_equal(model.run([np.array([77], np.int32)])[0], before)
    cut_short(bundle.path(bundle.manifest.model))
    np.testing.assert_array_equal(model.run([np.array([78], np.int32)])[0].shape, before.shape)


@as_root
def test_files_of_a_read_only_file_system_are_mapped_where_they_lie(
    bundle: Bundle, tmp_path: Path, mounted: Callable[..., Path]
) -> None:
    place = mounted("-t", "tmpfs", "none")
    shutil.copytree(bundle.root, place / "bundle")
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    seen = Bundle.open(place / "bundle")
    assert ModelFiles(seen, tmp_path / "state").open(seen.manifest.model, backend=None, threads=1).mapped
    assert not (tmp_path / "state").exists()


def test_a_copy_that_was_spoilt_is_made_anew(bundle: Bundle, tmp_path: Path) -> None:
    files = ModelFiles(bundle, tmp_path / "state")
    before = run_once(files, 9)
    copy = tmp_path / "state" / "models" / bundle.manifest.model.sha256
    for spoil in (lambda: copy.chmod(0o600), lambda: (copy.chmod(0o600), rewritten(copy), copy.chmod(0o400))):
        spoil()
        np.testing.assert_array_equal(run_once(files, 9), before)
        assert copy.stat().st_mode & 0o777 == 0o400


def test_copies_of_other_bundles_and_halves_are_removed(bundle: Bundle, tmp_path: Path) -> None:
    files = ModelFiles(bundle, tmp_path / "state")
    run_once(files, 1)
    folder = tmp_path / "state" / "models"
    (folder / ("0" * 64)).write_bytes(b"of another bundle")
    (folder / f".{'0' * 64}.half").write_bytes(b"")
    files.prune()
    assert [entry.name for entry in folder.iterdir()] == [bundle.manifest.model.sha256]
    ModelFiles(bundle, tmp_path / "none").prune()
    assert not (tmp_path / "none").exists()


def test_where_no_copy_can_be_made_the_bytes_are_held_in_memory(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "models").write_bytes(b"in the way")
    files = ModelFiles(bundle, tmp_path / "state")
    model = files.open(bundle.manifest.model, backend=None, threads=1)
    index = [np.array([77], np.int32)]
    before = model.run(index)[0]
    cut_short(bundle.path(bundle.manifest.model))
    np.testing.assert_array_equal(model.run(index)[0], before)
    files.open(bundle.cut(1).tail, backend=None, threads=1)
    told = [record.getMessage() for record in caplog.records if "held in memory" in record.getMessage()]
    assert len(told) == 1


@pytest.mark.parametrize("change", [rewritten, cut_short, replaced_by_a_folder, Path.unlink])
@pytest.mark.parametrize("state", ["state", None])
def test_a_file_that_is_not_the_manifests_is_refused(
    bundle: Bundle, tmp_path: Path, change: Callable[[Path], None], state: str | None
) -> None:
    change(bundle.path(bundle.manifest.model))
    with pytest.raises(BadBundleError, match=r"\.tflite"):
        run_once(ModelFiles(bundle, None if state is None else tmp_path / state), 0)
    if state is not None and (tmp_path / state).exists():
        assert not any((tmp_path / state / "models").iterdir())


@as_root
def test_a_folder_that_root_has_made_is_its_owners(bundle: Bundle, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 12345, 12345)
    run_once(ModelFiles(bundle, state), 0)
    assert (state / "models").stat().st_uid == 12345
