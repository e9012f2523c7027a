"""Images of every kind come as 8-bit RGB, upright."""

from __future__ import annotations

import contextlib
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_support import picture, write
from PIL import Image

from ltaug.vision.decoding import decode, open_stored, to_rgb
from ltaug.vision.folders import is_image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
GREY = np.stack([RAMP] * 3, axis=-1)


def reopened(image: Image.Image, kind: str, **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def difference(image: Image.Image, expected: np.ndarray) -> int:
    assert image.mode == "RGB"
    return int(np.abs(np.asarray(image).astype(int) - expected).max())


def test_images_that_would_fill_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pillow itself only warns up to twice its limit, and nobody reads warnings of worker processes."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    bombs = {size: picture(0, "PNG", size=size) for size in ((40, 26), (80, 26))}
    for size, data in bombs.items():
        reason = "more than 1,000 may be meant to fill the memory: shrink it" if size[0] == 40 else "decompression bomb"
        for stored in (data, {"bytes": data, "path": "a.png"}, str(write(tmp_path / "a.png", data))):
            with (
                pytest.raises((ValueError, Image.DecompressionBombError), match=reason),
                pytest.warns(Image.DecompressionBombWarning) if size[0] == 40 else contextlib.nullcontext(),
            ):
                open_stored(stored)
    assert open_stored(picture(0, size=(40, 25))).size == (40, 25)


def test_a_pipe_is_no_image(pipe: Path) -> None:
    with pytest.raises(ValueError, match="it is no regular file, but a folder, a pipe, a socket or a device"):
        open_stored(str(pipe))


def test_every_kind_comes_as_rgb() -> None:
    palette = Image.fromarray(GREY).quantize(256)
    kinds = {
        "grey": (Image.fromarray(RAMP), "PNG"),
        "16 bits": (Image.fromarray(RAMP.astype(np.uint16) * 257), "PNG"),
        "16 bits, TIFF": (Image.fromarray(RAMP.astype(np.uint16) * 257), "TIFF"),
        "grey JPEG": (Image.fromarray(RAMP), "JPEG"),
        "CMYK": (Image.fromarray(GREY).convert("CMYK"), "JPEG"),
        "YCbCr": (Image.fromarray(GREY).convert("YCbCr"), "TIFF"),
        "palette": (palette, "PNG"),
        "GIF": (palette, "GIF"),
        "WebP": (Image.fromarray(GREY), "WEBP"),
    }
    for name, (image, kind) in kinds.items():
        assert difference(to_rgb(reopened(image, kind, quality=100)), GREY) <= 8, name
    assert to_rgb(Image.new("1", (3, 3))).mode == "RGB"


@pytest.mark.parametrize(
    "values",
    [
        RAMP.astype(np.int32),  # 8 bits, stored as 32
        RAMP.astype(np.int32) * 257,
        (RAMP / 255).astype(np.float32),
        RAMP.astype(np.float32),
        RAMP.astype(np.float32) * 257,
    ],
)
def test_greys_of_more_bits_keep_their_range(values: np.ndarray) -> None:
    """Pillow alone clips them to 0..255, which leaves white or black."""
    image = to_rgb(reopened(Image.fromarray(values), "TIFF"))
    assert difference(image, GREY) <= 1


@pytest.mark.parametrize("top", [1, 255, 65535])
def test_floats_that_overshoot_their_range_keep_it(top: int) -> None:
    """As after resampling; 1.001 must not make a picture of 0..1 one of 0..255, which is black."""
    values = (RAMP / 255 * 1.1 - 0.05) * top
    assert values.max() > top
    wanted = np.clip(values / top, 0, 1) * 255
    image = to_rgb(Image.fromarray(values.astype(np.float32)))
    assert np.abs(np.asarray(image)[..., 0] - wanted).max() <= 1


def test_16_bits_of_a_pgm_stay_16_bits() -> None:
    """Pillow has them as 32: a dark one is no picture of 8 bits."""
    data = b"P5 256 2 65535\n" + np.repeat(np.arange(0, 512, 2)[None], 2, 0).astype(">u2").tobytes()
    assert np.asarray(to_rgb(Image.open(io.BytesIO(data)))).max() == 1


def rgb_of_16_bits(pixels: np.ndarray) -> bytes:
    """A PNG file, which Pillow does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(
    ("factor", "remark"),
    [
        (1, "stored as {}, has one colour only"),  # 8 bits that are stored as 16
        (16, "stored as {}, is nearly black: it has no value above 15 of 255"),  # 12 bits
        (257, ""),
    ],
)
def test_fewer_bits_than_the_file_says_are_seen(factor: int, remark: str) -> None:
    grey = reopened(Image.fromarray(RAMP.astype(np.uint16) * factor), "PNG")
    colour = Image.open(io.BytesIO(rgb_of_16_bits(GREY.astype(np.uint16) * factor)))
    for image, kind in ((grey, "I;16"), (colour, "RGB;16")):
        read, odd = decode(image)
        assert difference(read, GREY.astype(int) * factor // 256) <= 1
        assert odd == remark.format(kind)
    pixmap = b"P6 16 16 65535\n" + (GREY.astype(np.uint16) * factor).astype(">u2").tobytes()
    assert bool(decode(Image.open(io.BytesIO(pixmap)))[1]) == bool(remark)


@pytest.mark.parametrize("values", [np.full((2, 2), -1.0), np.full((2, 2), np.nan), np.full((2, 2), 1e6)])
def test_values_outside_any_range_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"its values range from .*, and must lie in 0\.\.1, 0\.\.255 or 0\.\.65535"):
        to_rgb(Image.fromarray(values.astype(np.float32)))


def test_greys_of_which_0_is_white() -> None:
    """Photometric interpretation 0 of TIFF, as scanners and medical devices write it."""
    file = reopened(Image.fromarray(RAMP.astype(np.uint16) * 257), "TIFF", tiffinfo={262: 0})
    assert difference(to_rgb(file), 255 - GREY) <= 1
    eight_bits = reopened(Image.fromarray(RAMP), "TIFF", tiffinfo={262: 0})  # which Pillow inverts, in both directions
    assert difference(to_rgb(eight_bits), GREY) == 0


def test_lab_becomes_rgb() -> None:
    from PIL import ImageCms

    red = Image.new("RGB", (4, 4), (200, 30, 40))
    lab = ImageCms.profileToProfile(
        red, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert difference(to_rgb(reopened(lab, "TIFF")), np.asarray(red)) <= 6


@pytest.mark.parametrize("mode", ["RGBA", "LA", "palette"])
def test_transparent_pixels_are_laid_over_white(mode: str) -> None:
    """A black drawing on nothing, whose hidden pixels are black, too, must not become a black square."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:6, 2:6, 3] = 255
    image = Image.fromarray(pixels)
    expected = np.full((8, 8, 3), 255)
    expected[2:6, 2:6] = 0
    if mode == "palette":
        image = Image.fromarray(pixels[..., 3] // 255).convert("P")
        image.putpalette([0, 0, 0, 0, 0, 0])
        read = to_rgb(reopened(image, "PNG", transparency=0))
    else:
        read = to_rgb(reopened(image.convert(mode), "PNG"))
    assert difference(read, expected) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_says_what_is_up(orientation: int) -> None:
    """As the standard has it: where row 0 and column 0 of the stored pixels belong."""
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:4, :8], upright[4:, 8:, 0] = 255, 200
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, 3),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = image.getexif()
    exif[0x0112] = orientation
    assert difference(to_rgb(reopened(image, "PNG", exif=exif)), upright) == 0


TIFF = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0\0\0\0\0"


SEGMENTS = {
    "XMP that is no UTF-8": b"http://ns.adobe.com/xap/1.0/\0<?xpacket?><x:xmpmeta><dc:title>caf\xe9 \xa8</dc:title>",
    "EXIF twice": b"Exif\0\0Exif\0\0" + TIFF,
    "no EXIF in EXIF": b"Exif\0\0",
    "garbage": b"Exif\0\0\x00garbage that is no TIFF header",
    "cut": b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0",
    "division by zero": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x1a\x01\x05\0\x01\0\0\0\x26\0\0\0\0\0\0\0" + b"\0" * 8,
    "orientation as text": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04\xff\xfe\xfd\0\0\0\0\0",
}


@pytest.mark.filterwarnings("ignore:.*EXIF", "ignore:Truncated")
@pytest.mark.parametrize("segment", SEGMENTS.values(), ids=list(SEGMENTS))
def test_damaged_metadata_spoil_no_image(segment: bytes) -> None:
    data = picture(90)
    data = data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]
    assert difference(to_rgb(Image.open(io.BytesIO(data))), np.full((6, 8, 3), 90)) <= 1


def test_animations_give_their_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green")]
    read = reopened(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert difference(to_rgb(read), np.full((4, 4, 3), (255, 0, 0))) == 0


def test_stored_images(tmp_path: Path) -> None:
    write(tmp_path / "a.png", picture(30, "PNG"))
    for stored in (
        picture(30),
        {"bytes": picture(30), "path": None},
        {"bytes": picture(30)},
        {"bytes": None, "path": "a.png"},
        "a.png",
        ".\\a.png",  # of Windows
        str(tmp_path / "a.png"),
    ):
        assert difference(to_rgb(open_stored(stored, str(tmp_path))), np.full((6, 8, 3), 30)) <= 1
    for nothing in (None, "", b"", {"bytes": None, "path": None}):
        with pytest.raises(ValueError, match="there is none"):
            open_stored(nothing)


def test_what_pillow_can_open_is_an_image(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.JPEG", "c.jfif", "d.jpe", "e.avif", "f.jp2", "g.WebP", "h.ppm"):
        assert is_image(name), name  # by its name, without a look
    for name in ("a.pdf", "b.txt", "c.mpg", "d.h5", "e.eps", "no_suffix"):
        assert not is_image(str(write(tmp_path / name, "text"))), name
    assert is_image(str(write(tmp_path / "photo", picture(3))))
    assert is_image(str(write(tmp_path / "photo.jpg_large", picture(3))))
