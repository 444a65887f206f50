"""What the archive costs: counting what an earlier run kept, writing an image, and making room for one.

    python -m benchmarks.archive --images 100000 --directory /somewhere/on/the/disk

The directory is made, filled and emptied. Counting runs in the archive's thread while images come in; it is measured
twice: at the pace of the service, which rests between its steps, and without rests. The caches of the disk are warm.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from ulid import ULID

from benchmarks.program import run_program
from service.archive import Archive, ArchiveLimits, Keepsake
from service.archive.files import encode_map
from service.archive.shelf import Shelf
from service.picture import ImageFile

_DAY_S = 86_400.0


def main() -> None:
    """Measure and print a table in Markdown."""
    options = _options()
    directory = Path(tempfile.mkdtemp(dir=options.directory))
    try:
        _measure(directory, options)
    finally:
        shutil.rmtree(directory)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000, help="inspections that an earlier run kept")
    parser.add_argument("--days", type=int, default=10, help="days that they are of")
    parser.add_argument("--write", type=int, default=500, help="inspections to write and to remove")
    parser.add_argument("--image-bytes", type=int, default=65_536, help="bytes of an image that is written")
    parser.add_argument("--map", type=int, default=64, help="side of the maps")
    parser.add_argument("--directory", type=Path, help="on the disk to measure; by default that of temporary files")
    return parser.parse_args()


def _measure(directory: Path, options: argparse.Namespace) -> None:
    root, now = directory / "archive", time.time()
    ages = np.linspace(options.days, 1, options.images) * _DAY_S
    ids = [str(ULID.from_timestamp(now - age)) for age in ages]
    fill = Shelf(root)
    encoded_map = encode_map(np.zeros((options.map, options.map), np.float32))
    for one in ids:
        stem = fill.stem(one)
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".npy").write_bytes(b"m")
        stem.with_suffix(".png").write_bytes(b"i")

    shelf, steps = Shelf(root), []
    began, cpu_began = time.perf_counter(), time.thread_time()
    last = began
    for _ in shelf.count(set()):
        steps.append(time.perf_counter() - last)
        last = time.perf_counter()
    counted_s, counted_cpu_s = time.perf_counter() - began, time.thread_time() - cpu_began
    assert shelf.bytes == 2 * options.images

    began = time.perf_counter()
    archive = Archive(root, ArchiveLimits(max_bytes=2**40, queue_bytes=2**30))
    started_s = time.perf_counter() - began
    first = _keepsake(now, options)
    archive.keep(first)
    while archive._waiting.get(first.id) is not None:
        time.sleep(0.0005)
    first_s = time.perf_counter() - began
    while archive._counting is not None:
        time.sleep(0.005)
    ready_s = time.perf_counter() - began

    some = [_keepsake(now + n / 1000, options) for n in range(1, options.write + 1)]
    began, cpu_began = time.perf_counter(), time.process_time()
    for keepsake in some:
        archive.keep(keepsake)
    archive.close()
    write_s, write_cpu_s = time.perf_counter() - began, time.process_time() - cpu_began

    began = time.perf_counter()
    shelf.oldest()
    listed_s = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(min(options.write, options.images)):
        shelf.oldest()
        shelf.remove_oldest()
    remove_s = time.perf_counter() - began

    print(f"{options.images} inspections kept over {options.days} days; images of {options.image_bytes} bytes\n")
    print("| what | measured |\n| --- | --- |")
    print(f"| count without rests | {counted_s:.2f} s, of it CPU {counted_cpu_s:.2f} s |")
    print(f"| one step of it | median {np.median(steps) * 1e3:.2f} ms, largest {max(steps) * 1e3:.2f} ms |")
    print(f"| until the archive takes images | {started_s * 1e3:.1f} ms |")
    print(f"| until the first of them is on disk | {first_s * 1e3:.1f} ms |")
    print(f"| until all is counted, at the service's pace | {ready_s:.2f} s |")
    each_ms, each_cpu_ms = write_s / options.write * 1e3, write_cpu_s / options.write * 1e3
    print(f"| write one | {each_ms:.2f} ms, of it CPU {each_cpu_ms:.2f} ms |")
    print(f"| list the oldest day | {listed_s * 1e3:.1f} ms |")
    print(f"| remove one | {remove_s / options.write * 1e3:.3f} ms |")
    print(f"| bytes of a map, {options.map}x{options.map} | {len(encoded_map)} |")


def _keepsake(moment: float, options: argparse.Namespace) -> Keepsake:
    image = ImageFile(".png", bytes(options.image_bytes))
    return Keepsake(str(ULID.from_timestamp(moment)), image, np.zeros((options.map, options.map), np.float32), "fail")


if __name__ == "__main__":
    run_program(main)
