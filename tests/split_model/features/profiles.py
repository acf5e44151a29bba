"""Colour profiles of wide gamuts, made by code."""

import struct

from PIL import ImageCms


def profile_with(red, green, blue, gamma=2.2):
    """An RGB profile, made from sRGB's by putting other primaries (D50 XYZ) and another curve in."""
    raw = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", raw[128:132])[0]
    for at in range(132, 132 + 12 * count, 12):
        tag, offset, _ = struct.unpack(">4sII", raw[at : at + 12])
        for name, xyz in ((b"rXYZ", red), (b"gXYZ", green), (b"bXYZ", blue)):
            if tag == name:
                raw[offset + 8 : offset + 20] = b"".join(struct.pack(">i", round(65536 * value)) for value in xyz)
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            raw[offset : offset + 16] = b"para\0\0\0\0\0\0\0\0" + struct.pack(">i", round(65536 * gamma))
    return bytes(raw)


ADOBE = profile_with((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
P3 = profile_with((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
