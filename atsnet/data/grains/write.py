"""A set of procedural grains on disk, in the MVTec AD layout."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

from atsnet.data.grains.defects import DEFECTS
from atsnet.data.grains.part import Holder
from atsnet.data.grains.render import GENERATOR_VERSION, UInt8Array, render_grain


@dataclass(frozen=True, slots=True)
class SetCounts:
    """Pictures in a set: good ones to train on, good ones to test on, and test pictures of each defect."""

    train: int
    good: int
    defects: dict[str, int]

    @property
    def total(self) -> int:
        """All pictures, masks not counted."""
        return self.train + self.good + sum(self.defects.values())


def write_grain_set(
    directory: Path,
    *,
    train: int = 200,
    good: int = 100,
    defects: int = 100,
    seed: int = 0,
    size: int = 256,
    holder: Holder = "dark",
    progress: Callable[[int, int], None] | None = None,
) -> SetCounts:
    """Write `train/good`, `test/good`, `test/<defect>`, `ground_truth/<defect>` and, last, `grains.json`.

    Every picture is another part of the series `seed`, so no part is in two of the folders.

    Args:
        directory: Made if missing; must be empty.
        train: Good pictures to train on.
        good: Good pictures to test on.
        defects: Defective pictures in all, shared evenly over `DEFECTS` (the first ones get what is left over).
        seed: The series.
        size: Height and width in pixels.
        holder: What the parts lie on.
        progress: Called after each picture with how many are done and how many there will be.

    Raises:
        FileExistsError: The directory holds something, or is a file.
        ValueError: A negative count, or what `render_grain` refuses.
    """
    if min(train, good, defects) < 0:
        raise ValueError(f"counts must not be negative: train {train}, good {good}, defects {defects}")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} already exists and is not an empty directory; name another or remove it")
    each, left_over = divmod(defects, len(DEFECTS))
    counts = SetCounts(train, good, {name: each + (i < left_over) for i, name in enumerate(DEFECTS)})
    folders: list[tuple[str, str | None, int]] = [("train/good", None, train), ("test/good", None, good)]
    folders += [(f"test/{name}", name, count) for name, count in counts.defects.items()]

    done = 0
    for folder, defect, count in folders:
        for number in range(count):
            grain = render_grain(seed, defect, size, index=done, holder=holder)
            _write_png(directory / folder / f"{number:03d}.png", grain.image)
            if defect is not None:
                _write_png(directory / "ground_truth" / defect / f"{number:03d}_mask.png", grain.mask)
            done += 1
            if progress is not None:
                progress(done, counts.total)
    about = {"generator_version": GENERATOR_VERSION, "seed": seed, "size": size, "holder": holder, **asdict(counts)}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "grains.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return counts


def _write_png(path: Path, image: UInt8Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(".png", image)
    if not encoded:
        raise OSError(f"{path}: the picture could not be encoded as PNG")
    path.write_bytes(data.tobytes())
