"""Images of every kind that the service takes, and what noise, bad memory and bad people make of them."""

import io
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from PIL import Image

SIDE = 48
HUGE = (0, 1, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1)


def kinds() -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Whole images by name, each with the fields that it needs."""
    random = np.random.default_rng(0)
    grey = random.normal(90, 25, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
    colour = np.stack([grey, grey[::-1], grey[:, ::-1]], axis=-1)
    deep = grey.astype(np.uint16) * 257

    def saved(image: Image.Image, kind: str, **options: Any) -> tuple[bytes, dict[str, Any]]:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue(), {}

    def encoded(image: Any, suffix: str) -> tuple[bytes, dict[str, Any]]:
        return cv2.imencode(suffix, image)[1].tobytes(), {}

    grey_image, colour_image = Image.fromarray(grey), Image.fromarray(colour)
    layout = {"width": SIDE, "height": SIDE}
    return {
        "png grey": saved(grey_image, "PNG"),
        "png colour": saved(colour_image, "PNG"),
        "png alpha": saved(colour_image.convert("RGBA"), "PNG"),
        "png palette": saved(colour_image.quantize(16), "PNG"),
        "png 1 bit": saved(grey_image.convert("1"), "PNG"),
        "png 16 bit": encoded(deep, ".png"),
        "jpeg grey": saved(grey_image, "JPEG"),
        "jpeg colour": saved(colour_image, "JPEG", quality=60),
        "jpeg progressive": saved(colour_image, "JPEG", progressive=True),
        "jpeg cmyk": saved(colour_image.convert("CMYK"), "JPEG"),
        "bmp grey": saved(grey_image, "BMP"),
        "bmp colour": saved(colour_image, "BMP"),
        "tiff": saved(grey_image, "TIFF"),
        "tiff 16 bit": encoded(deep, ".tiff"),
        "tiff lzw": saved(colour_image, "TIFF", compression="tiff_lzw"),
        "tiff deflate": saved(colour_image, "TIFF", compression="tiff_adobe_deflate"),
        "tiff jpeg": saved(colour_image, "TIFF", compression="jpeg"),
        "tiff fax": saved(grey_image.convert("1"), "TIFF", compression="group4"),
        "mono8": (grey.tobytes(), {**layout, "format": "mono8"}),
        "mono16le": (deep.astype("<u2").tobytes(), {**layout, "format": "mono16le"}),
        "bgr8": (colour.tobytes(), {**layout, "format": "bgr8"}),
        "rgb8": (colour.tobytes(), {**layout, "format": "rgb8"}),
    }


def mutants(seed: int, count: int) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Damaged images: a name that says how each was made, its bytes and its fields."""
    chance = random.Random(seed)
    whole = list(kinds().items())
    for number in range(count):
        kind, (data, fields) = whole[number % len(whole)]
        damaged, how = data, []
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            name, damage = chance.choice(_DAMAGES)
            damaged = damage(damaged, chance)
            how.append(name)
        changed = dict(fields)
        if fields and chance.random() < 0.3:
            changed[chance.choice(("width", "height"))] = chance.choice((*HUGE, -1, SIDE + 1))
            how.append("layout")
        yield f"{number} {kind}: {', '.join(how)}", damaged, changed


def _flip_bits(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 3, 10, 100))):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _damage_header(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        if changed:
            changed[chance.randrange(min(len(changed), 64))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
    return bytes(changed)


def _claim_huge(data: bytes, chance: random.Random) -> bytes:
    """A number of 16 or 32 bits, of either order, somewhere in the first or last bytes, where sizes are."""
    at = chance.randrange(min(len(data), 200)) if data and chance.random() < 0.7 else max(0, len(data) - 150)
    form = chance.choice(("<I", ">I", "<H", ">H"))
    number = struct.pack(form, chance.choice(HUGE) & (0xFFFF if form.endswith("H") else 0xFFFFFFFF))
    return data[:at] + number + data[at + len(number) :]


def _truncate(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _cut_out(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data) + 1)
    return data[:start] + data[start + chance.randrange(64) :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data) + 1)
    return data[:start] + data[start : start + 200] * chance.randrange(1, 20) + data[start:]


def _append(data: bytes, chance: random.Random) -> bytes:
    return data + chance.randbytes(chance.randrange(2000))


def _swap_magic(data: bytes, chance: random.Random) -> bytes:
    magic = chance.choice((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM", b"II*\0", b"MM\0*", b"GIF89a", b"RIFF"))
    return magic + data[len(magic) :]


def _noise(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(32)] + chance.randbytes(chance.randrange(4000))


_DAMAGES: tuple[tuple[str, Callable[[bytes, random.Random], bytes]], ...] = (
    ("bits", _flip_bits),
    ("bits", _flip_bits),
    ("header", _damage_header),
    ("huge", _claim_huge),
    ("cut short", _truncate),
    ("cut out", _cut_out),
    ("repeated", _repeat),
    ("appended", _append),
    ("other magic", _swap_magic),
    ("noise", _noise),
)
