"""A picture file costs no more memory than the bound says, whatever it claims to be."""

import contextlib
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from split_model.bundle import ImagePreprocess
from split_model.errors import BadInputError
from split_model.features.picture_files import MAX_DECODE_BYTES, open_picture
from tests.split_model.features.profiles import ADOBE

RGB = ImagePreprocess(resize=224, crop=(224, 224))
#: What Python, the allocator and Pillow's encoder tables take beside the pixels.
SLACK_MIB = 24

WORKER = """
import resource, sys
from pathlib import Path
import numpy, PIL.Image, PIL.ImageCms, PIL.ImageOps
from split_model.bundle import ImagePreprocess, TensorSpec
from split_model.errors import BadInputError
from split_model.features.preprocess import load_tensor

def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

preprocess = ImagePreprocess(resize=224, crop=(224, 224))
spec = TensorSpec(name="image", shape=(1, 224, 224, 3), dtype="float32")
before = peak_kib()
try:
    load_tensor(Path(sys.argv[1]), preprocess, spec)
    how = "decoded"
except BadInputError:
    how = "refused"
print(how, (peak_kib() - before) // 1024)
"""


def cost(path: Path) -> tuple[str, int]:
    """How decoding a file as the programs do ended, and its peak in MiB, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", WORKER, path], capture_output=True, text=True, check=True)
    how, mib = done.stdout.split()
    return how, int(mib)


@pytest.mark.parametrize(
    ("mode", "size", "name", "options", "expected"),
    [
        ("L", (1, 60_000_000), "strip.png", {}, "refused"),
        ("L", (60_000, 1), "row.png", {}, "refused"),
        ("CMYK", (8000, 8000), "cmyk.jpg", {}, "decoded"),
        ("RGB", (8000, 8000), "large.jpg", {}, "decoded"),
        ("RGB", (8000, 8000), "progressive.jpg", {"progressive": True}, "refused"),
        ("RGB", (8000, 6200), "photograph.png", {}, "decoded"),
        ("RGBA", (6000, 4000), "transparent.png", {}, "decoded"),
        ("RGBA", (6000, 4000), "transparent.webp", {"lossless": True}, "refused"),
        ("RGB", (4000, 3000), "photograph.webp", {"lossless": True}, "decoded"),
        ("CMYK", (6000, 4000), "print.tif", {"compression": "tiff_lzw"}, "decoded"),
        ("P", (8000, 4500), "palette.png", {}, "decoded"),
        ("P", (8000, 4500), "clear.png", {"transparency": 0}, "refused"),
        ("P", (5000, 4000), "clear.gif", {"transparency": 0}, "decoded"),
        ("I;16", (7000, 3100), "depth.png", {}, "decoded"),
        ("RGBA", (6000, 4000), "wide.png", {"icc_profile": ADOBE}, "decoded"),
        ("LA", (6000, 4000), "clear.tif", {"compression": "tiff_lzw"}, "decoded"),
        ("LAB", (6000, 4000), "print.tif", {"compression": "tiff_lzw"}, "decoded"),
        ("RGB", (4000, 3000), "photograph.avif", {"speed": 10}, "decoded"),
        ("RGB", (4000, 3000), "exact.avif", {"speed": 10, "subsampling": "4:4:4"}, "decoded"),
        ("RGBA", (4000, 3000), "clear.avif", {"speed": 10}, "decoded"),
        ("RGB", (8000, 6000), "large.avif", {"speed": 10}, "refused"),
        ("RGB", (4000, 3000), "photograph.heic", {"quality": 50}, "decoded"),
        ("RGBA", (4000, 3000), "clear.heic", {"quality": 50}, "decoded"),
    ],
)
def test_memory_is_bounded(tmp_path, mode, size, name, options, expected):
    if name.endswith("heic"):
        pytest.importorskip("pillow_heif").register_heif_opener()
    Image.new(mode, size).save(tmp_path / name, **options)
    how, mib = cost(tmp_path / name)
    assert how == expected
    assert mib <= (MAX_DECODE_BYTES >> 20 if how == "decoded" else 0) + SLACK_MIB


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(png: bytes, kind: bytes, content: bytes, *, behind: bool = False) -> bytes:
    """A PNG file with another chunk, before its pixels or behind them."""
    at = png.index(b"IEND" if behind else b"IDAT") - 4
    return png[:at] + chunk(kind, content) + png[at:]


def with_segments(jpeg: bytes, marker: int, content: bytes, times: int) -> bytes:
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
    return jpeg[:2] + segment * times + jpeg[2:]


def tiff_with_text(length: int) -> bytes:
    """A grey TIFF file of 8 x 8 whose description is that long."""
    rows = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (270, 2, length, 8),
            (273, 4, 1, 8 + length), (277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64)]  # fmt: skip
    directory = struct.pack("<H", len(rows)) + b"".join(struct.pack("<HHII", *row) for row in rows) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + length + 64) + b"a" * length + bytes(64) + directory


@pytest.mark.parametrize(
    "kind", ["tEXt", "iTXt", "eXIf", "iCCP", "ownX", "behind", "exif", "app", "comment", "tag"]
)
def test_what_a_file_holds_beside_its_pixels_is_bounded_before_it_is_read(tmp_path, kind):
    """Pillow reads it as a whole, several times over: 400 MB in a text took 1.2 GB."""
    large = bytes(40 << 20)
    picture = Image.new("RGB", (8, 8))
    jpeg_markers = {"exif": (0xE1, b"Exif\0\0"), "app": (0xE5, b""), "comment": (0xFE, b"")}
    path = tmp_path / "a"
    if kind == "tag":
        path.write_bytes(tiff_with_text(len(large)))
    elif kind in jpeg_markers:
        picture.save(path, format="JPEG")
        marker, start = jpeg_markers[kind]
        path.write_bytes(with_segments(path.read_bytes(), marker, start + bytes(65_000), 700))
    else:
        picture.save(path, format="PNG")
        name = b"ownX" if kind == "behind" else kind.encode()
        path.write_bytes(with_chunk(path.read_bytes(), name, b"a\0" + large, behind=kind == "behind"))
    del large
    how, mib = cost(path)
    assert (how, mib <= SLACK_MIB) == ("refused", True)


@pytest.mark.parametrize("kind", ["tEXt", "eXIf", "tag", "app"])
def test_notes_of_a_few_mebibytes_are_no_reason_to_refuse_a_picture(tmp_path, kind):
    path = tmp_path / "a"
    if kind == "tag":
        path.write_bytes(tiff_with_text(3 << 20))
    elif kind == "app":
        Image.new("RGB", (8, 8)).save(path, format="JPEG")
        path.write_bytes(with_segments(path.read_bytes(), 0xE5, bytes(65_000), 50))
    else:
        Image.new("RGB", (8, 8)).save(path, format="PNG")
        content = b"Title\0a" if kind == "tEXt" else b"MM\0*\0\0\0\x08\0\0"
        path.write_bytes(with_chunk(path.read_bytes(), kind.encode(), content))
    assert open_picture(path, RGB).shape == (8, 8, 3)


def test_a_jpeg_of_very_many_scans_is_refused(tmp_path):
    """Each is some bytes and goes through the whole picture: 50 kB could take an hour."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (64, 64)).save(path, progressive=True)
    whole = path.read_bytes()
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    path.write_bytes(whole[:-2] + scan * 20 + whole[-2:])
    assert open_picture(path, RGB).shape == (64, 64, 3)
    path.write_bytes(whole[:-2] + scan * 200 + whole[-2:])
    with pytest.raises(BadInputError, match="scans"):
        open_picture(path, RGB)


@given(st.sampled_from(("PNG", "JPEG", "TIFF")), st.data())
def test_any_damage_is_a_picture_or_refused(tmp_path_factory, name, data):
    path = tmp_path_factory.mktemp("damaged") / "a"
    Image.new("RGB", (8, 8)).save(path, format=name)
    raw = path.read_bytes()
    at = data.draw(st.integers(0, len(raw)))
    path.write_bytes(raw[:at] + data.draw(st.binary(max_size=12)) + raw[at + data.draw(st.integers(0, 12)) :])
    with contextlib.suppress(BadInputError):
        open_picture(path, RGB)


def test_an_avif_file_that_states_a_false_size_takes_no_more(tmp_path):
    Image.new("RGB", (4000, 3000)).save(tmp_path / "a.avif", speed=10)
    content = (tmp_path / "a.avif").read_bytes()
    at = content.index(b"ispe") + 8
    (tmp_path / "a.avif").write_bytes(content[:at] + bytes((0, 0, 0, 16) * 2) + content[at + 8 :])
    how, mib = cost(tmp_path / "a.avif")
    assert mib <= (MAX_DECODE_BYTES >> 20 if how == "decoded" else 0) + SLACK_MIB


def test_a_turned_picture_counts_the_copy_that_turning_takes(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (7000, 4500)).save(tmp_path / "turned.png", exif=exif)
    with pytest.raises(BadInputError, match="MiB to decode"):
        open_picture(tmp_path / "turned.png", RGB)


def test_a_large_jpeg_looks_as_it_does_when_all_of_it_is_decoded(tmp_path):
    """It is decoded at a part of its size, still twice the one that is asked for."""
    ramp = np.linspace(0, 255, 5000)
    pixels = np.stack(
        [np.tile(ramp, (4000, 1)), np.tile(ramp[:4000, None], (1, 5000)), np.full((4000, 5000), 90)], -1
    )
    picture = Image.fromarray(pixels.astype(np.uint8))
    picture.save(tmp_path / "large.jpg", quality=95)
    found = open_picture(tmp_path / "large.jpg", RGB)
    assert 2 * 224 <= min(found.shape[:2]) < 4000
    whole = np.asarray(picture.resize((found.shape[1], found.shape[0]), Image.Resampling.BOX), np.float64)
    assert np.abs(found - whole).max() <= 4


def test_up_to_16_megapixels_every_pixel_is_decoded(tmp_path):
    Image.new("RGB", (4096, 4096)).save(tmp_path / "camera.jpg")
    assert open_picture(tmp_path / "camera.jpg", RGB).shape == (4096, 4096, 3)
