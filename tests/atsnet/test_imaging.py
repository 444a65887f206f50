import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from atsnet.imaging import (
    ImageError,
    ImageTooLargeError,
    InputGeometry,
    NotAnImageError,
    Roi,
    decode,
    decode_raw,
    map_to_image,
    read_header,
    read_image,
    to_frame,
)

HEIGHT, WIDTH = 30, 44


def _grey() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 2))


def _color() -> np.ndarray:
    """BGR, every channel different."""
    grey = _grey()
    return np.dstack([grey, 255 - grey, grey // 2])


def _opencv(suffix: str, image: np.ndarray) -> bytes:
    encoded, data = cv2.imencode(suffix, image)
    assert encoded
    return data.tobytes()


def _pillow(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _rgb() -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(_color()[:, :, ::-1]))


def _files() -> dict[str, bytes]:
    palette = _rgb().quantize(64)
    return {
        "grey.jpg": _opencv(".jpg", _grey()),
        "color.jpg": _opencv(".jpg", _color()),
        "progressive.jpg": _pillow(_rgb(), "JPEG", progressive=True),
        "cmyk.jpg": _pillow(_rgb().convert("CMYK"), "JPEG"),
        "grey.png": _opencv(".png", _grey()),
        "grey16.png": _opencv(".png", _grey().astype(np.uint16) * 257),
        "color.png": _opencv(".png", _color()),
        "alpha.png": _opencv(".png", np.dstack([_color(), _grey()])),
        "grey-alpha.png": _pillow(Image.fromarray(_grey()).convert("LA"), "PNG"),
        "palette.png": _pillow(palette, "PNG"),
        "grey.bmp": _opencv(".bmp", _grey()),
        "color.bmp": _opencv(".bmp", _color()),
        "palette.bmp": _pillow(palette, "BMP"),
        "grey.tiff": _pillow(Image.fromarray(_grey()), "TIFF"),
        "lzw.tiff": _opencv(".tiff", _color()),
        "grey16.tiff": _opencv(".tiff", _grey().astype(np.uint16) * 257),
        "cmyk.tiff": _pillow(_rgb().convert("CMYK"), "TIFF"),
        "deflate.tiff": _pillow(_rgb(), "TIFF", compression="tiff_deflate"),
    }


FILES = _files()


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("grey") and "alpha" not in name])
def test_grey_files_have_one_channel(name: str) -> None:
    image = decode(FILES[name])
    assert image.shape == (HEIGHT, WIDTH)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - _grey()).max() <= (8 if name.endswith("jpg") else 0)


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("grey")])
def test_coloured_files_are_bgr(name: str) -> None:
    image = decode(FILES[name])
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    # Chroma subsampling, palettes and CMYK inks are not exact; swapped channels would be off by 60 and more.
    assert np.abs(image.astype(int) - _color()).mean() < 6


def test_lossless_colours_are_exact() -> None:
    for name in ("color.png", "alpha.png", "color.bmp", "lzw.tiff", "deflate.tiff"):
        np.testing.assert_array_equal(decode(FILES[name]), _color(), err_msg=name)


def test_alpha_beside_grey_is_dropped() -> None:
    np.testing.assert_array_equal(decode(FILES["grey-alpha.png"]), np.dstack([_grey()] * 3))


def test_sixteen_bits_are_scaled_not_cut() -> None:
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    np.testing.assert_array_equal(decode(_opencv(".png", levels)), [[0, 1, 128, 255]])


def test_the_orientation_tag_turns_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = _pillow(Image.fromarray(_grey()), "JPEG", exif=exif.tobytes())
    assert decode(turned).shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_refused_wherever_it_is_cut(name: str) -> None:
    data = FILES[name]
    cuts = {0, 1, 2, 8, 20, *range(len(data) - 16, len(data)), *range(1, len(data), max(1, len(data) // 25))}
    for cut in sorted(cuts):
        with pytest.raises(NotAnImageError):
            decode(data[:cut])


def test_a_jpeg_without_its_end_marker_is_refused() -> None:
    data = FILES["grey.jpg"]
    assert data[-2:] == b"\xff\xd9"
    with pytest.raises(NotAnImageError, match="JPEG image of 44x30 pixels is cut short or damaged"):
        decode(data[:-2])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"part 7 is fine", "not a JPEG"),
        (b"GIF89a" + bytes(100), "not a JPEG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "not a JPEG"),
        (b"\xff\xd8\xff", "not a JPEG"),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(NotAnImageError, match=message):
        decode(data)


def test_other_formats_are_refused_though_pillow_and_opencv_know_them() -> None:
    with pytest.raises(NotAnImageError, match="not a JPEG"):
        decode(_pillow(_rgb(), "WEBP"))


def test_float_pixels_are_refused() -> None:
    data = _pillow(Image.fromarray(_grey().astype(np.float32)), "TIFF")
    with pytest.raises(NotAnImageError, match="float32"):
        decode(data)


def _png_bomb(side: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_from_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise AssertionError("the pixels were decoded")

    monkeypatch.setattr(cv2, "imdecode", explode)
    with pytest.raises(ImageTooLargeError, match="PNG image has 30000x30000 pixels; at most 40000000"):
        decode(_png_bomb(30_000))


def test_the_pixel_limit_is_inclusive() -> None:
    assert decode(FILES["grey.png"], max_pixels=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH)
    with pytest.raises(ImageTooLargeError):
        decode(FILES["grey.png"], max_pixels=HEIGHT * WIDTH - 1)


@pytest.mark.parametrize("name", FILES)
def test_headers(name: str) -> None:
    header = read_header(FILES[name])
    assert (header.width, header.height) == (WIDTH, HEIGHT)
    assert header.format == {"jpg": "JPEG", "png": "PNG", "bmp": "BMP", "tiff": "TIFF"}[name.split(".")[1]]


def test_raw_pixels() -> None:
    color, grey = _color(), _grey()
    np.testing.assert_array_equal(decode_raw(grey.tobytes(), WIDTH, HEIGHT, "mono8"), grey)
    wide = (grey.astype("<u2") * 257).tobytes()
    np.testing.assert_array_equal(decode_raw(wide, WIDTH, HEIGHT, "mono16le"), grey)
    np.testing.assert_array_equal(decode_raw(color.tobytes(), WIDTH, HEIGHT, "bgr8"), color)
    np.testing.assert_array_equal(decode_raw(color[:, :, ::-1].tobytes(), WIDTH, HEIGHT, "rgb8"), color)


def test_raw_pixels_of_another_size_are_refused() -> None:
    with pytest.raises(NotAnImageError, match="44x30 mono8 takes 1320 bytes; the body has 1319"):
        decode_raw(bytes(1319), WIDTH, HEIGHT, "mono8")


def test_reading_names_the_path(tmp_path: Path) -> None:
    good, damaged = tmp_path / "good.png", tmp_path / "damaged.png"
    good.write_bytes(FILES["grey.png"])
    damaged.write_bytes(FILES["grey.png"][:-30])
    assert read_image(good).shape == (HEIGHT, WIDTH)
    for path in (damaged, tmp_path / "missing.png"):
        with pytest.raises(NotAnImageError, match=str(path)):
            read_image(path)
    with pytest.raises(ImageTooLargeError, match=str(good)):
        read_image(good, max_pixels=10)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (64, 64, (0, 0, 64, 64)),
        (32, 64, (0, 16, 64, 32)),
        (100, 50, (16, 0, 32, 64)),
        (10, 40, (0, 24, 64, 16)),
        (1, 64, (0, 31, 64, 1)),
        (64, 1, (31, 0, 1, 64)),
        (1, 1, (0, 0, 64, 64)),
        (1, 5000, (0, 31, 64, 1)),
        (5000, 3, (31, 0, 1, 64)),
    ],
)
@pytest.mark.parametrize("color", ["mono", "rgb"])
def test_letterbox(height: int, width: int, expected: tuple[int, int, int, int], color: str) -> None:
    geometry = InputGeometry.model_validate({"height": 64, "width": 64, "color": color})
    image = np.full((height, width), 90, np.uint8)
    frame = to_frame(image, geometry)
    placement = frame.placement
    assert (placement.left, placement.top, placement.width, placement.height) == expected
    assert placement.roi == Roi(x=0, y=0, width=width, height=height)
    assert frame.pixels.shape == geometry.frame_shape == (64, 64, 2 if color == "mono" else 4)
    # Padding repeats the part, so that no edge appears beside it; only the mask tells it apart.
    assert (frame.pixels[:, :, :-1] == 90).all()
    left, top, content_width, content_height = expected
    mask = np.zeros((64, 64), np.uint8)
    mask[top : top + content_height, left : left + content_width] = 255
    np.testing.assert_array_equal(frame.pixels[:, :, -1], mask)


def test_padding_is_the_reflection_of_the_part() -> None:
    image = np.arange(64 * 48, dtype=np.uint32).reshape(48, 64).astype(np.uint8)
    pixels = to_frame(image, InputGeometry(height=64, width=64, color="mono")).pixels[:, :, 0]
    np.testing.assert_array_equal(pixels[8:56], image)
    np.testing.assert_array_equal(pixels[:8], image[8:0:-1])
    np.testing.assert_array_equal(pixels[56:], image[-2:-10:-1])


def test_a_frame_that_is_not_square() -> None:
    frame = to_frame(np.zeros((100, 100), np.uint8), InputGeometry(height=64, width=128, color="mono"))
    assert (frame.placement.left, frame.placement.top) == (32, 0)
    assert (frame.placement.width, frame.placement.height) == (64, 64)


def test_colours_of_frames() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :] = (10, 20, 200)
    rgb = to_frame(image, InputGeometry(height=64, width=64, color="rgb")).pixels
    assert rgb[5, 5].tolist() == [200, 20, 10, 255]
    mono = to_frame(image, InputGeometry(height=64, width=64, color="mono")).pixels
    assert mono[5, 5].tolist() == [round(0.114 * 10 + 0.587 * 20 + 0.299 * 200), 255]
    grey = to_frame(image[:, :, 2].copy(), InputGeometry(height=64, width=64, color="rgb")).pixels
    assert grey[5, 5].tolist() == [200, 200, 200, 255]


def test_the_region_of_interest_is_cut_out() -> None:
    image = np.zeros((200, 300), np.uint8)
    image[40:104, 100:164] = np.arange(64, dtype=np.uint8)
    roi = Roi(x=100, y=40, width=64, height=64)
    frame = to_frame(image, InputGeometry(height=64, width=64, color="mono"), roi)
    np.testing.assert_array_equal(frame.pixels[:, :, 0], image[40:104, 100:164])
    assert frame.placement.roi == roi


@pytest.mark.parametrize("roi", [(0, 0, 301, 10), (0, 0, 10, 201), (299, 0, 2, 1), (0, 200, 1, 1)])
def test_a_region_over_the_edge_is_refused(roi: tuple[int, int, int, int]) -> None:
    x, y, width, height = roi
    with pytest.raises(ImageError, match="reaches over the edge of the 300x200 image"):
        to_frame(np.zeros((200, 300), np.uint8), InputGeometry(), Roi(x=x, y=y, width=width, height=height))


@pytest.mark.parametrize(
    ("roi", "row", "column"),
    [
        (None, 50, 240),
        (Roi(x=150, y=40, width=120, height=80), 55, 250),
        (Roi(x=7, y=100, width=60, height=90), 180, 15),
    ],
)
def test_a_map_is_brought_back_to_where_it_came_from(roi: Roi | None, row: int, column: int) -> None:
    image = np.zeros((200, 300), np.uint8)
    image[row - 4 : row + 5, column - 4 : column + 5] = 255
    geometry = InputGeometry(height=128, width=128, color="mono")
    frame = to_frame(image, geometry, roi)
    anomaly_map = cv2.resize(
        frame.pixels[:, :, 0].astype(np.float32) * (frame.pixels[:, :, 1] > 0), (32, 32), interpolation=cv2.INTER_AREA
    )
    full = map_to_image(np.asarray(anomaly_map, np.float32), frame.placement, geometry, 200, 300)
    assert full.shape == (200, 300)
    assert full.dtype == np.float32
    rows, columns = np.nonzero(full > 0.5 * full.max())
    assert abs(rows.mean() - row) < 2
    assert abs(columns.mean() - column) < 2
    if roi:
        outside = np.ones_like(full, bool)
        outside[roi.y : roi.y + roi.height, roi.x : roi.x + roi.width] = False
        assert not full[outside].any()


def test_a_constant_map_stays_constant_where_inspected() -> None:
    geometry = InputGeometry(height=64, width=64, color="mono")
    roi = Roi(x=10, y=20, width=50, height=30)
    placement = to_frame(np.zeros((90, 80), np.uint8), geometry, roi).placement
    full = map_to_image(np.full((16, 16), 0.75, np.float32), placement, geometry, 90, 80)
    expected = np.zeros((90, 80), np.float32)
    expected[20:50, 10:60] = 0.75
    np.testing.assert_allclose(full, expected)
