"""A folder that others write into: each file answered once, never half of one, and none forgotten by a restart."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from edge_runtime.sources import Answer, Frame, Wanted
from edge_runtime.sources.answered_files import AnsweredFiles
from edge_runtime.sources.files_under_way import FilesUnderWay, GivenFile
from edge_runtime.sources.watched_folder import WatchedFolder, WatchTable
from split_model.bundle import ImagePreprocess, TensorSpec
from split_model.errors import MissingInputError, OutputError

SPEC = TensorSpec(name="in", shape=(1, 8, 8, 3), dtype="float32")


class Clock:
    now_s = 100.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.2, "a longer sleep would keep SIGTERM waiting"
        self.now_s += seconds


def stamp_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


class Watch:
    """The source with the test's clock; `look` takes what there is to take for so many seconds, and answers it."""

    def __init__(self, root: Path, **table: Any) -> None:
        self.folder = root / "in"
        self.folder.mkdir(exist_ok=True)
        self.clock = Clock()
        self.table = WatchTable(path=self.folder, **table)
        prepare = ImagePreprocess(resize=8, crop=(8, 8), scale=(255.0,))
        self.wanted = Wanted((SPEC,), preprocess=prepare, state=root / "state")
        self.source = self.open()

    def open(self, files: type[FilesUnderWay] = FilesUnderWay) -> WatchedFolder:
        self.table.check(self.wanted)
        self.answered_files = AnsweredFiles(self.memory_path())
        self.files = files(self.table.path, self.table.label, self.table.after, self.answered_files)
        return WatchedFolder(self.table, self.wanted, self.files, now=self.clock.now, sleep=self.clock.sleep)

    def memory_path(self) -> Path:
        """Where the source remembers what was answered, as its documentation says."""
        name = hashlib.sha256(os.fsencode(self.folder.absolute())).hexdigest()[:16]
        return self.wanted.state / f"watched-{name}.jsonl"

    def restart(self) -> None:
        self.source.close()
        self.source = self.open()

    def picture(self, name: str, grey: int = 9) -> Path:
        Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(self.folder / name)
        return self.folder / name

    def frames(self, seconds: float = 5.0) -> Iterator[Frame]:
        end_s = self.clock.now_s + seconds
        yield from self.source.frames(lambda: self.clock.now_s >= end_s)

    def look(self, seconds: float = 5.0) -> list[str]:
        names = []
        for frame in self.frames(seconds):
            self.source.answered(Answer(frame, {}))
            names.append(frame.name + (": " + frame.error if frame.error else ""))
        return names


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


def test_each_file_is_answered_once_oldest_first(watch: Watch) -> None:
    for age, name in enumerate(["c.png", "a.png", "b.jpg"]):
        os.utime(watch.picture(name), (1000 + age, 1000 + age))
    watch.picture(".hidden.png")
    (watch.folder / "notes.txt").write_text("no picture")
    (watch.folder / "folder.png").mkdir()
    assert watch.look() == ["c.png", "a.png", "b.jpg"]
    assert watch.look() == []
    watch.picture("d.png")
    assert watch.look() == ["d.png"]
    assert watch.source.counters() == {"files": 4, "unreadable": 0, "vanished": 0, "passed_over": 1}


def test_pictures_of_other_endings_and_of_none_are_answered(watch: Watch) -> None:
    for age, name in enumerate(["a.jfif", "b.gif", "c.avif", "d"]):
        image = Image.new("RGB", (8, 8), (9, 9, 9))
        image.save(watch.folder / name, {".gif": "GIF", ".avif": "AVIF"}.get(Path(name).suffix, "JPEG"))
        os.utime(watch.folder / name, (1000 + age, 1000 + age))
    assert watch.look() == ["a.jfif", "b.gif", "c.avif", "d"]
    assert watch.look() == []
    assert watch.source.counters()["passed_over"] == 0


def test_each_file_that_is_passed_over_is_counted_once_and_each_ending_told_once(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    watch.picture("a.png")
    for name in ("b.mp4", "c.mp4", "d"):
        (watch.folder / name).write_text("no picture")
    assert watch.look() == ["a.png"]
    (watch.folder / "e.mp4").write_text("no picture")
    assert watch.look() == []
    assert watch.source.counters()["passed_over"] == 4
    (told,) = caplog.messages
    assert "3 passed over (2 .mp4, 1 without an ending; the first: b.mp4)" in told


def test_a_file_without_an_ending_is_looked_at_again_when_it_has_changed(watch: Watch) -> None:
    (watch.folder / "a").write_bytes(b"")
    assert watch.look() == []
    Image.new("RGB", (8, 8)).save(watch.folder / "a", "PNG")
    assert watch.look() == ["a"]


def test_names_that_are_no_utf8_can_be_written_into_records(tmp_path: Path) -> None:
    watch = Watch(tmp_path, after="delete")
    watch.picture("a\udcff.png")
    (watch.folder / "b\udcff.png").write_bytes(b"no picture")
    np.savez(tmp_path / "rows.npz", inputs=np.zeros((1, 8, 8, 3), np.float32))
    (tmp_path / "rows.npz").rename(watch.folder / "c\udcff.npz")
    names = watch.look(30.0)
    assert sorted(name.split(":")[0] for name in names) == ["a\\xff.png", "b\\xff.png", "c\\xff.npz[0]"]
    msgspec.json.encode(names)
    assert not (watch.folder / "a\udcff.png").exists()
    watch.restart()
    assert watch.look(30.0) == []


def test_a_file_waits_until_it_has_settled(watch: Watch) -> None:
    watch.picture("a.png")
    assert watch.look(0.9) == []
    os.utime(watch.picture("a.png"), (1, 1))  # written again
    assert watch.look(0.9) == []
    assert watch.look(0.7) == ["a.png"]


def test_another_file_of_the_same_name_is_another_file(watch: Watch) -> None:
    os.utime(watch.picture("a.png"), (1, 1))
    assert watch.look() == ["a.png"]
    os.utime(watch.picture("a.png", grey=77), (2, 2))
    assert watch.look() == ["a.png"]


def test_what_is_half_written_is_waited_for(watch: Watch) -> None:
    """A writer that pauses for longer than ``settle_s``."""
    for ending in ("png", "jpg", "bmp", "ppm", "tiff", "webp"):
        whole = watch.picture(f"x.{ending}").read_bytes()
        path = watch.folder / f"x.{ending}"
        path.write_bytes(whole[: len(whole) * 2 // 3])
        os.utime(path, (1, 1))
        assert watch.look(6.0) == [], ending
        path.write_bytes(whole)
        assert watch.look() == [f"x.{ending}"]
    assert watch.source.counters()["unreadable"] == 0


def test_what_never_becomes_a_picture_is_an_error_once(watch: Watch) -> None:
    (watch.folder / "a.png").write_bytes(b"no picture at all")
    found = watch.look(30.0)
    assert len(found) == 1
    assert "not a picture" in found[0]
    watch.restart()
    assert watch.look(30.0) == []


def test_a_restart_answers_nothing_twice_and_forgets_nothing(watch: Watch) -> None:
    for name in ("a.png", "b.png", "c.png"):
        watch.picture(name)
    frames = watch.frames()
    for _ in range(2):
        watch.source.answered(Answer(next(frames), {}))
    frames.close()
    watch.picture("d.png")
    watch.restart()
    assert sorted(watch.look()) == ["c.png", "d.png"]


def test_what_was_not_answered_before_a_crash_comes_again(watch: Watch) -> None:
    names = ["a.png", "b.png", "c.png"]
    for age, name in enumerate(names):
        os.utime(watch.picture(name), (age, age))
    frames = watch.frames()
    taken = [next(frames) for _ in range(3)]  # several under way, as a pipeline has them
    watch.source.answered(Answer(taken[1], {}))
    watch.source = watch.open()  # without `close`
    assert watch.look() == ["a.png", "c.png"]


def test_the_table_opens_the_source_with_the_files_that_were_answered_before(tmp_path: Path) -> None:
    watch = Watch(tmp_path, settle_s=0.0, poll_s=0.01)
    watch.picture("a.png")
    assert watch.look() == ["a.png"]
    watch.picture("b.png")
    asked = itertools.count()
    found = watch.table.open(watch.wanted).frames(lambda: next(asked) > 20)
    assert [frame.name for frame in found] == ["b.png"]


def test_a_line_that_was_not_written_whole_is_no_line(watch: Watch, tmp_path: Path) -> None:
    watch.picture("a.png")
    watch.picture("b.png")
    watch.look()
    (memory,) = (tmp_path / "state").glob("*.jsonl")
    text = memory.read_text()
    memory.write_text(text[:-8])
    watch.source = watch.open()
    assert watch.look() == [json.loads(text.splitlines()[1])[0]]


def test_files_that_are_gone_are_forgotten_but_not_those_of_a_disk_that_is_away(watch: Watch) -> None:
    for name in ("a.png", "b.png"):
        watch.picture(name)
    watch.look()
    kept = watch.folder.with_name("kept")
    watch.folder.rename(kept)
    watch.folder.mkdir()  # the empty mount point
    watch.restart()
    assert watch.look() == []
    watch.folder.rmdir()
    kept.rename(watch.folder)
    watch.restart()
    assert watch.look() == []
    gone = stamp_of(watch.folder / "a.png")
    (watch.folder / "a.png").unlink()
    watch.restart()
    watch.look()
    assert watch.answered_files.done("a.png", gone) == 0
    assert watch.answered_files.done("b.png", stamp_of(watch.folder / "b.png")) is None


def test_a_folder_that_goes_away_is_waited_for(watch: Watch, caplog: Any) -> None:
    away = watch.folder.with_name("away")
    watch.folder.rename(away)
    assert watch.look() == []
    assert caplog.text.count("waiting for it") == 1
    away.rename(watch.folder)
    watch.picture("a.png")
    assert watch.look() == ["a.png"]


def test_answered_files_can_be_deleted(tmp_path: Path) -> None:
    watch = Watch(tmp_path, after="delete")
    paths = [watch.picture(name) for name in ("a.png", "b.png")]
    frames = watch.frames()
    first = next(frames)
    assert all(path.exists() for path in paths)
    watch.source.answered(Answer(first, {}))
    second = next(frames)
    assert [path.exists() for path in paths] == [False, True]
    watch.source.answered(Answer(second, {}))
    assert list(frames) == []
    assert list(watch.folder.iterdir()) == []


def test_a_newer_file_of_the_same_name_is_not_deleted_unanswered(tmp_path: Path) -> None:
    watch = Watch(tmp_path, after="delete")
    os.utime(watch.picture("a.png", grey=1), (1, 1))
    frames = watch.frames()
    first = next(frames)
    newer = watch.picture("b.png", grey=200)
    newer.rename(watch.folder / "a.png")
    watch.source.answered(Answer(first, {}))
    assert (watch.folder / "a.png").exists()
    second = next(frames)
    assert second.name == "a.png"
    assert second.tensors[0][0, 0, 0, 0] == np.float32(200 / 255)
    watch.source.answered(Answer(second, {}))
    assert list(frames) == []
    watch.source.close()
    assert list(watch.folder.iterdir()) == []


def test_an_npz_whose_header_is_no_python_is_a_frame_that_failed(tmp_path: Path) -> None:
    """It would end the program, and again after each restart."""
    watch = Watch(tmp_path)
    np.savez(watch.folder / "odd.npz", inputs=np.zeros((1, 8, 8, 3), np.float32))
    raw = (watch.folder / "odd.npz").read_bytes()
    (watch.folder / "odd.npz").write_bytes(raw.replace(b"'shape': (1,", b"'shape': ((("))
    watch.picture("good.png")
    names = watch.look(30.0)
    assert sorted(name.split(":")[0] for name in names) == ["good.png", "odd.npz"]


def test_what_failed_is_not_deleted_nor_answered_again(tmp_path: Path) -> None:
    watch = Watch(tmp_path, after="delete")
    watch.picture("fails.png")
    (watch.folder / "unreadable.png").write_bytes(b"no picture")
    rows = np.zeros((3, 8, 8, 3), np.float32)
    rows[0] = np.nan
    np.savez(watch.folder / "rows.npz", inputs=rows)
    watch.picture("good.png")
    kept = ["fails.png", "rows.npz", "unreadable.png"]
    names = []
    for frame in watch.frames(30.0):
        record = {"error": "the model failed"} if frame.name == "fails.png" else {}
        watch.source.answered(Answer(frame, record))
        names.append(frame.name)
        if frame.name == "rows.npz[1]":
            break
    watch.restart()  # amid the rows, after the one that failed
    names += [name.split(":")[0] for name in watch.look(30.0)]
    assert len(names) == len(set(names)) == 6
    assert sorted(path.name for path in watch.folder.iterdir()) == kept
    watch.restart()
    assert watch.look(30.0) == []


def damaged(path: Path) -> None:
    """Three rows are announced, two and a half are there."""
    whole = io.BytesIO()
    np.save(whole, np.zeros((3, 8, 8, 3), np.float32))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inputs.npy", whole.getvalue()[:-300])


@pytest.mark.parametrize("is_damaged", [False, True])
def test_an_answer_just_before_the_last_sample_does_not_finish_the_file(watch: Watch, is_damaged: bool) -> None:
    """It is given in the frame loop's thread, at any moment: here while the source hands out the next sample."""
    path = watch.folder / "rows.npz"
    if is_damaged:
        damaged(path)
    else:
        np.savez(path, inputs=np.zeros((3, 8, 8, 3), np.float32))
    taken: list[Frame] = []

    class Late(FilesUnderWay):
        def give(self, file: GivenFile, *, whole: bool) -> None:
            if taken:
                watch.source.answered(Answer(taken[-1], {}))
            super().give(file, whole=whole)

    watch.source = watch.open(Late)
    for frame in watch.frames():
        taken.append(frame)  # noqa: PERF402  `Late` looks at it meanwhile
    assert len(taken) == 3
    source, files = watch.source, watch.files
    watch.source = watch.open()  # a crash before the last answer: without `close`
    assert len(watch.look()) == 3
    source.answered(Answer(taken[-1], {}))
    assert files.busy(set(), 0.0) == set()
    assert source.counters()["files"] == 1


def test_a_file_that_goes_while_we_look_hides_no_other(watch: Watch, monkeypatch: Any) -> None:
    for number in range(5):
        watch.picture(f"{number}.png")
    assert len(watch.look()) == 5
    scan = os.scandir

    @contextlib.contextmanager
    def scan_slowly(path: Path) -> Iterator[Any]:
        with scan(path) as entries:
            found = list(entries)
        Path(found[2].path).unlink(missing_ok=True)
        yield iter(found)

    monkeypatch.setattr(os, "scandir", scan_slowly)
    watch.restart()
    assert watch.look(0.1) == []
    monkeypatch.undo()
    watch.restart()
    assert watch.look() == []


def test_the_memory_does_not_grow_with_files_that_are_gone(watch: Watch, tmp_path: Path) -> None:
    kept = watch.picture("kept.png")
    gone = {}
    for number in range(400):
        path = watch.picture(f"{number}.png")
        gone[path.name] = stamp_of(path)
        watch.look(1.5)
        path.unlink()
    (memory,) = (tmp_path / "state").glob("*.jsonl")
    assert len(memory.read_text().splitlines()) <= 110
    watch.look(1.5)
    assert watch.answered_files.done(kept.name, stamp_of(kept)) is None
    assert all(watch.answered_files.done(name, stamp) == 0 for name, stamp in gone.items())
    watch.source = watch.open()
    assert watch.look() == []


def test_a_line_after_half_a_line_is_read(tmp_path: Path) -> None:
    path = tmp_path / "memory.jsonl"
    AnsweredFiles(path).note("a.png", (1, 2), None)
    path.write_text(path.read_text() + '["b.png", 3')
    AnsweredFiles(path).note("c.png", (5, 6), None)
    memory = AnsweredFiles(path)
    assert [
        memory.done(name, stamp) for name, stamp in [("a.png", (1, 2)), ("b.png", (3, 4)), ("c.png", (5, 6))]
    ] == [
        None,
        0,
        None,
    ]


def test_a_memory_that_cannot_be_written_anew_stays_as_it_is(tmp_path: Path, caplog: Any) -> None:
    memory = AnsweredFiles(tmp_path / "memory.jsonl")
    for number in range(300):
        memory.note(f"{number}.png", (1, 2), None)
    (tmp_path / "memory.jsonl").rename(tmp_path / "aside")
    (tmp_path / "memory.jsonl").mkdir()
    memory.keep_only({"7.png"})
    assert "it grows until" in caplog.text
    (tmp_path / "memory.jsonl").rmdir()
    (tmp_path / "aside").rename(tmp_path / "memory.jsonl")
    assert AnsweredFiles(tmp_path / "memory.jsonl").done("8.png", (1, 2)) is None
    memory.keep_only({"7.png"})
    assert (tmp_path / "memory.jsonl").read_text() == '["7.png", 1, 2, null]\n'


def test_a_picture_that_may_not_be_read_is_an_error_once(watch: Watch, monkeypatch: Any) -> None:
    """Root may read anything, so the refusal is put in where the file is opened."""
    watch.picture("a.png")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    (found,) = watch.look(30.0)
    assert "no permission to read it" in found
    assert watch.source.counters() == {"files": 1, "unreadable": 1, "vanished": 0, "passed_over": 0}
    watch.restart()
    assert watch.look(30.0) == []


def test_endings_may_be_in_capitals(watch: Watch) -> None:
    np.savez(watch.folder / "rows.npz", inputs=np.zeros((1, 8, 8, 3), np.float32))
    (watch.folder / "rows.npz").rename(watch.folder / "ROWS.NPZ")
    watch.picture("A.PNG")
    assert sorted(watch.look(30.0)) == ["A.PNG", "ROWS.NPZ[0]"]


def test_arrays_are_answered_row_by_row_and_go_on_after_a_restart(watch: Watch) -> None:
    rows = np.random.default_rng(0).random((6, 8, 8, 3)).astype(np.float32)
    rows[1] = np.nan
    np.savez(watch.folder / "rows.npz", inputs=rows)
    frames = watch.frames()
    for _ in range(3):
        watch.source.answered(Answer(next(frames), {}))
    frames.close()
    watch.restart()
    assert [name.split(":")[0] for name in watch.look()] == ["rows.npz[3]", "rows.npz[4]", "rows.npz[5]"]
    watch.restart()
    assert watch.look() == []


def test_a_disk_that_is_full_is_a_warning(watch: Watch, tmp_path: Path, caplog: Any) -> None:
    for name in ("a.png", "b.png"):
        watch.picture(name)
    assert watch.look(0.1) == []
    (tmp_path / "state").write_bytes(b"")  # in its way
    assert watch.look() == ["a.png", "b.png"]
    assert watch.look() == []
    assert caplog.text.count("a restart will answer some files again") == 1


def test_what_cannot_work_is_said_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such folder"):
        WatchTable(path=tmp_path / "nowhere").check(Wanted((SPEC,)))
    (tmp_path / "memory").mkdir()
    with pytest.raises(OutputError, match="answered again"):
        AnsweredFiles(tmp_path / "memory")


def test_the_real_program_through_a_kill_and_a_stop(rig: Any, tmp_path: Path) -> None:
    """Files come while it runs, while it is dead, and while it stops: none is lost, a stop repeats none."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    source = {"kind": "watch", "path": str(folder), "poll_s": 0.02, "settle_s": 0.04}
    state = {"bundle": str(rig.parts.bundle.root), "key": "device.key", "state": "state"}
    tables = {"source": source, "device": state, "emulation": {}}
    put = 0

    def drop(count: int) -> None:
        nonlocal put
        for _ in range(count):
            beside = tmp_path / "beside.png"
            Image.fromarray(np.full((8, 8, 3), put % 256, np.uint8)).save(beside)
            beside.rename(folder / f"{put:04}.png")
            put += 1

    def names(device: Any) -> list[str]:
        return [record["name"] for record in device.records()]

    device = rig.device(tables=tables, planner_split="local")
    drop(30)
    device.until(lambda: len(names(device)) >= 30)
    drop(20)
    device.popen.send_signal(signal.SIGTERM)
    assert device.ended() == 0
    assert len(names(device)) == len(set(names(device)))
    drop(10)
    device = rig.device(tables=tables, planner_split="local")
    device.until(lambda: len(set(names(device))) == 60)
    assert len(names(device)) == 60
    drop(20)
    device.until(lambda: len(names(device)) > 62)
    device.kill()
    device = rig.device(tables=tables, planner_split="local")
    drop(1)
    device.until(lambda: len(set(names(device))) == 81)
    assert device.stop() == 0
    # A kill between the answer and the note of it repeats that one.
    assert 81 <= len(names(device)) <= 82


def killed_while_reading(watch: Watch, path: Path) -> None:
    """A program of its own that is killed in the middle of reading a file, as one that runs out of memory is."""
    status = path.stat()
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from edge_runtime.sources.answered_files import AnsweredFiles\n"
        f"with AnsweredFiles(Path({str(watch.memory_path())!r})).reading({path.name!r}, "
        f"({status.st_size}, {status.st_mtime_ns})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_file_that_ended_the_program_twice_is_set_aside_and_those_behind_it_are_answered(watch: Watch) -> None:
    bad = watch.picture("1-bad.png")
    watch.picture("2-good.png")
    killed_while_reading(watch, bad)
    watch.restart()
    assert watch.look() == ["1-bad.png", "2-good.png"]  # once may have been chance
    bad = watch.picture("3-worse.png", grey=17)
    killed_while_reading(watch, bad)
    killed_while_reading(watch, bad)
    watch.picture("4-good.png")
    watch.restart()
    aside, good = watch.look()
    assert (
        aside
        == "3-worse.png: 3-worse.png: reading it ended this program 2 times, so it is set aside; remove the file"
    )
    assert good == "4-good.png"
    watch.restart()
    assert watch.look() == []


def test_a_file_that_was_set_aside_stays_so_when_the_next_one_ends_the_program_before_that_is_noted(
    watch: Watch,
) -> None:
    """Two such files must not take turns: each would be forgotten while the other one is read."""
    first, second = watch.picture("1-bad.png"), watch.picture("2-worse.png", grey=17)
    for path in (first, first, second, second):
        killed_while_reading(watch, path)
    watch.picture("3-good.png")
    watch.restart()
    *aside, good = watch.look()
    assert [one.partition(":")[0] for one in aside] == [first.name, second.name]
    assert all("set aside" in one for one in aside)
    assert good == "3-good.png"


def test_another_file_under_the_name_of_one_that_was_set_aside_is_read(watch: Watch) -> None:
    bad = watch.picture("a.png")
    killed_while_reading(watch, bad)
    killed_while_reading(watch, bad)
    watch.picture("a.png", grey=200)
    os.utime(bad, ns=(1, 1))
    watch.restart()
    assert watch.look() == ["a.png"]


def test_a_damaged_file_is_no_crash(watch: Watch) -> None:
    (watch.folder / "a.png").write_bytes(b"no picture")
    for _ in range(3):
        watch.look(0.5)
        watch.restart()
    (only,) = watch.look(30.0)
    assert "not a picture" in only


def test_one_that_takes_the_place_of_one_that_hangs_answers_nothing_twice_and_loses_nothing(watch: Watch) -> None:
    for age, name in enumerate(["a.png", "b.png", "c.png"]):
        os.utime(watch.picture(name), (1000 + age, 1000 + age))
    hanging = watch.frames(60.0)
    first, _second = next(hanging), next(hanging)
    old, watch.source = watch.source, watch.source.renewed()
    assert watch.look() == ["c.png"]  # the others are under way
    old.answered(Answer(first, {}))
    assert watch.look() == []
    hanging.close()  # it came back, and its second frame was not taken
    assert watch.look() == ["b.png"]
    assert watch.source.counters()["files"] == 3
    watch.restart()
    assert watch.look() == []


def test_a_file_whose_answer_no_sink_kept_is_answered_again(watch: Watch) -> None:
    watch.picture("a.png")
    watch.picture("b.png")
    frames = watch.frames()
    lost = [next(frames) for _ in range(2)]
    for frame in lost:
        watch.source.unkept(Answer(frame, {}))
    assert watch.look() == []
    again = watch.look(60.0)  # one by one: each costs, of the privacy budget too
    assert sorted(again) == ["a.png", "b.png"]
    watch.restart()
    assert watch.look() == []
