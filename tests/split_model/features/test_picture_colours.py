"""The model gets the colours that a person sees in a viewer, or the picture is refused with the reason."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from split_model.bundle import ImagePreprocess
from split_model.errors import BadInputError
from split_model.features.picture_files import open_picture
from tests.split_model.features.profiles import ADOBE, P3

RGB = ImagePreprocess(resize=28, crop=(28, 28))
GREY = ImagePreprocess(resize=28, crop=(28, 28), colour="grey")
HERE = Path(__file__).parent / "pictures"
WHITE = [255, 255, 255]


def seen(path, image=None, preprocess=RGB, **options):
    """The pixels that the model gets of a file, written from ``image`` first where there is one."""
    if image is not None:
        image.save(path, **options)
    return open_picture(path, preprocess).astype(int)


def halves(mode, left, right):
    """A picture of 8 x 8 whose left half has one colour and whose right half another."""
    image = Image.new(mode, (8, 8), right)
    image.paste(left, (0, 0, 4, 8))
    return image


def png16(path, values, *, alpha=False, chunks=()):
    """A PNG of 16 bits a sample from uint16 [height, width, channels]."""
    height, width, channels = values.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    made = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + made)
    return path


def ramp(channels=3, top=65535):
    values = np.linspace(0, top, 64).reshape(8, 8, 1)
    return np.repeat(values, channels, axis=2).astype(np.uint16)


def test_16_bit_colour_of_the_full_range_is_scaled_as_a_viewer_does():
    found = seen(HERE / "h_rgb16.png")
    assert found.max() == 255
    assert found.mean() > 40


@pytest.mark.parametrize("preprocess", [RGB, GREY], ids=["rgb", "grey"])
def test_twelve_bits_in_sixteen_are_refused_and_not_shown_black(preprocess):
    with pytest.raises(BadInputError, match="14 bits or fewer, which a viewer shows dark; scale its values"):
        seen(HERE / "i2_rgb12in16.png", preprocess=preprocess)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_of_every_kind_is_scaled(tmp_path, channels):
    values = ramp(channels)
    if channels in (2, 4):
        values[..., -1] = 65535
    found = seen(png16(tmp_path / "a.png", values))
    assert np.abs(found[..., 0] - values[..., 0] / 257).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("top", [255, 1023, 4095, 16383])
def test_16_bit_png_that_holds_fewer_bits_is_refused(tmp_path, channels, top):
    values = ramp(channels, top)
    if channels in (2, 4):
        values[..., -1] = 65535
    with pytest.raises(BadInputError, match="a viewer shows dark"):
        seen(png16(tmp_path / "a.png", values))


def test_a_16_bit_picture_that_is_all_black_is_black(tmp_path):
    assert seen(png16(tmp_path / "a.png", ramp(1, 0))).max() == 0


@pytest.mark.parametrize("name", ["a.tif", "a.pgm"])
def test_16_bit_grey_of_other_formats_is_scaled(tmp_path, name):
    values = ramp(1)[..., 0]
    found = seen(tmp_path / name, Image.fromarray(values))
    assert np.abs(found[..., 0] - values / 257).max() <= 1


def test_a_pgm_of_12_bits_says_so_and_is_scaled_by_that(tmp_path):
    values = ramp(1, 4095)[..., 0]
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 4095\n" + values.astype(">u2").tobytes())
    assert np.abs(seen(tmp_path / "a.pgm")[..., 0] - values / 4095 * 255).max() <= 1


def test_16_bit_grey_whose_zero_is_white_is_not_a_negative(tmp_path):
    values = ramp(1)[..., 0]
    found = seen(tmp_path / "a.tif", Image.fromarray(values), tiffinfo={262: 0})
    assert np.abs(found[..., 0] - (255 - values / 257)).max() <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_samples_without_a_white_are_refused(tmp_path, dtype):
    with pytest.raises(BadInputError, match=r"no defined white; save it with 8 or 16 bits"):
        seen(tmp_path / "a.tif", Image.fromarray(np.ones((8, 8), dtype)))


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (halves("RGBA", (200, 10, 10, 255), (0, 0, 0, 0)), "a.png"),
        (halves("RGBA", (200, 10, 10, 255), (0, 90, 0, 0)), "a.tif"),
        (halves("RGBA", (200, 10, 10, 255), (0, 90, 0, 0)), "a.webp"),
        (halves("RGBA", (200, 10, 10, 255), (0, 90, 0, 0)), "a.gif"),
        (halves("LA", (90, 255), (0, 0)), "a.png"),
        (halves("LA", (90, 255), (0, 0)), "a.tif"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.mode,
)
def test_what_is_transparent_shows_white(tmp_path, image, name):
    found = seen(tmp_path / name, image, **({"lossless": True} if name.endswith("webp") else {}))
    assert found[0, 7].tolist() == WHITE
    left = image.convert("RGB").getpixel((0, 0))
    assert np.abs(found[0, 0] - left).max() <= 2


def test_half_transparent_colour_is_mixed_with_white(tmp_path):
    assert seen(tmp_path / "a.png", Image.new("RGBA", (8, 8), (0, 0, 0, 51)))[0, 0].tolist() == [204] * 3
    grey = seen(tmp_path / "b.png", Image.new("RGBA", (8, 8), (0, 0, 0, 51)), GREY)
    assert grey[0, 0].tolist() == [204]


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_one_transparent_colour_shows_white(tmp_path, mode):
    image = halves("RGB", (10, 200, 10), (80, 80, 80)).convert("RGB" if mode == "RGB" else "L")
    if mode == "P":
        image = image.quantize(4)
    found = seen(tmp_path / "a.png", image, transparency=image.getpixel((7, 0)))
    assert found[0, 7].tolist() == WHITE
    assert found[0, 0].max() < 220


def test_a_palette_with_levels_of_transparency_is_mixed_with_white(tmp_path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.paste(1, (0, 0, 4, 8))
    found = seen(tmp_path / "a.png", image, transparency=bytes([51, 255]))
    assert (found[0, 0].tolist(), found[0, 7].tolist()) == ([255, 0, 0], [204] * 3)


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.tif", [255, 0, 0]),
        (Image.new("CMYK", (8, 8), (255, 255, 0, 0)), "a.jpg", [0, 0, 255]),
        (Image.new("YCbCr", (8, 8), (76, 85, 255)), "a.tif", [254, 0, 0]),
        (Image.new("LAB", (8, 8), (255, 128, 128)), "a.tif", WHITE),
        (Image.new("LAB", (8, 8), (138, 128 + 81, 128 + 70)), "a.tif", [255, 0, 0]),
        (Image.new("1", (8, 8), 1), "a.png", WHITE),
        (Image.new("1", (8, 8), 0), "a.pbm", [0, 0, 0]),
        (Image.new("L", (8, 8), 77), "a.bmp", [77, 77, 77]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_odd_modes_have_their_colours(tmp_path, image, name, expected):
    assert np.abs(seen(tmp_path / name, image)[4, 4] - expected).max() <= 6


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.avif"])
def test_a_wide_gamut_is_converted_to_srgb(tmp_path, name):
    """(150, 200, 100) in Adobe RGB is about (119, 201, 91) in sRGB."""
    image = Image.new("RGB", (32, 32), (150, 200, 100))
    options = {"quality": 100} if name.endswith(("jpg", "webp", "avif")) else {}
    found = seen(tmp_path / name, image, icc_profile=ADOBE, **options)[4, 4]
    transform = ImageCms.buildTransform(io.BytesIO(ADOBE), ImageCms.createProfile("sRGB"), "RGB", "RGB")
    expected = ImageCms.applyTransform(image, transform).getpixel((0, 0))
    assert expected[0] < 135
    assert np.abs(found - expected).max() <= 4


def test_the_gamut_of_a_palette_and_of_transparent_colours_is_converted_too(tmp_path):
    plain = seen(tmp_path / "a.png", Image.new("RGB", (8, 8), (150, 200, 100)), icc_profile=P3)[0, 0].tolist()
    assert plain[0] < 140
    palette = Image.new("RGB", (8, 8), (150, 200, 100)).quantize(2)
    assert seen(tmp_path / "p.png", palette, icc_profile=P3)[0, 0].tolist() == plain
    clear = halves("RGBA", (150, 200, 100, 255), (9, 9, 9, 0))
    found = seen(tmp_path / "t.png", clear, icc_profile=P3)
    assert (found[0, 0].tolist(), found[0, 7].tolist()) == (plain, WHITE)


def test_an_srgb_profile_changes_no_pixel(tmp_path):
    """Pictures that old bundles read stay bit for bit the same."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(seen(tmp_path / "a.png", Image.fromarray(pixels), icc_profile=srgb), pixels)


@pytest.mark.parametrize("profile", [b"no profile", ADOBE[:200], b"\0" * 4096])
def test_a_damaged_profile_counts_as_none(tmp_path, profile):
    found = seen(tmp_path / "a.png", Image.new("RGB", (8, 8), (150, 200, 100)), icc_profile=profile)
    assert found[0, 0].tolist() == [150, 200, 100]


def test_a_png_with_another_gamma_is_brightened(tmp_path):
    chunk = (b"gAMA", struct.pack(">I", 100_000))  # linear light
    found = seen(png16(tmp_path / "a.png", np.full((8, 8, 3), 32768, np.uint16), chunks=[chunk]))
    assert abs(found[0, 0, 0] - 186) <= 1


@pytest.mark.parametrize(("primaries", "transfer", "match"), [(9, 16, "dynamic range"), (12, 13, "wide gamut")])
def test_colours_by_number_that_no_profile_comes_with_are_refused(tmp_path, primaries, transfer, match):
    chunk = (b"cICP", bytes([primaries, transfer, 0, 1]))
    with pytest.raises(BadInputError, match=match):
        seen(png16(tmp_path / "a.png", ramp(), chunks=[chunk]))


def primaries(*values):
    return b"cHRM", struct.pack(">8I", *(round(100_000 * value) for value in values))


SRGB_PRIMARIES = primaries(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
P3_PRIMARIES = primaries(0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)


def test_primaries_of_a_wide_gamut_without_a_profile_are_refused(tmp_path):
    plain = seen(png16(tmp_path / "a.png", ramp()))
    assert (seen(png16(tmp_path / "b.png", ramp(), chunks=[SRGB_PRIMARIES])) == plain).all()
    declared = [(b"sRGB", b"\0"), P3_PRIMARIES]  # the former says that the latter is to be ignored
    assert (seen(png16(tmp_path / "c.png", ramp(), chunks=declared)) == plain).all()
    with pytest.raises(BadInputError, match="a wide gamut without a profile"):
        seen(png16(tmp_path / "d.png", ramp(), chunks=[P3_PRIMARIES]))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.avif"])
def test_orientation_is_applied_once_in_every_format(tmp_path, name, orientation):
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :, 0] = 255
    stored[:, :24, 1] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if name.endswith(("jpg", "webp", "avif")) else {}
    found = seen(tmp_path / name, Image.fromarray(stored), exif=exif, **options)
    turns = {1: (0, 0), 2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (3, 1), 6: (3, 0), 7: (1, 1), 8: (1, 0)}
    quarter, mirrored = turns[orientation]
    upright = np.rot90(stored, quarter)
    upright = upright[:, ::-1] if mirrored else upright
    assert found.shape == upright.shape
    assert np.abs(found - upright)[4:-4:7, 4:-4:7].mean() < 12


def test_the_first_frame_of_a_moving_picture_counts(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 0, 200))]
    for name in ("a.gif", "a.png", "a.webp"):
        found = seen(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], duration=100)
        assert found[0, 0, 0] > 150, name


def test_heic_is_read_where_its_package_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    found = seen(tmp_path / "a.heic", Image.new("RGBA", (64, 64), (200, 10, 10, 255)), quality=-1)
    assert np.abs(found[32, 32] - [200, 10, 10]).max() <= 6


def test_a_picture_is_what_its_content_says_whatever_its_name(tmp_path):
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert seen(tmp_path / "a.jpg")[0, 0].tolist() == [1, 2, 3]
