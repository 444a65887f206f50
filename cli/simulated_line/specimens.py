"""The pictures that parts show, drawn before the line starts.

Drawing one takes longer than posting it, so there are fewer pictures than parts: a part shows one at random, under a
serial number of its own. To the service it is a new part; figures of agreement rest on as many pictures as were drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import cv2

from atsnet.data.grains import Holder, render_grain


@dataclass(frozen=True, slots=True)
class Specimen:
    """One picture and the truth about it."""

    image: bytes
    """PNG."""
    defect: str | None
    """Kind of the defect; `None` for a good part."""


@dataclass(frozen=True, slots=True)
class Specimens:
    """The pictures of a line; those of a kind that it never shows may be missing."""

    good: Sequence[Specimen]
    defective: Sequence[Specimen]

    def __len__(self) -> int:
        return len(self.good) + len(self.defective)

    def pick(self, chance: Random, share: float) -> Specimen:
        """One at random, which is defective with the probability `share`."""
        return chance.choice(self.defective if chance.random() < share else self.good)


def draw_specimens(
    count: int,
    *,
    share: float,
    defects: Sequence[str],
    seed: int,
    size: int = 256,
    holder: Holder = "dark",
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Specimens:
    """Draw the pictures for a line: half of them good, unless it shows only good or only defective parts.

    Args:
        count: How many, the kinds of defects having the same number of pictures but for one.
        share: Of the parts that are defective, 0 to 1.
        defects: Kinds of defects, of `atsnet.data.grains.DEFECTS`.
        seed: The series of parts.
        size: Height and width in pixels.
        holder: What the parts lie on.
        progress: Called after each picture with how many are done and how many there will be.

    Raises:
        ValueError: There are fewer pictures than kinds of parts, or what `render_grain` refuses.
    """
    if count < (share < 1) + len(defects) * (share > 0):
        raise ValueError(f"{count} pictures cannot show {len(defects)} kinds of defects and good parts")
    good = {0.0: count, 1.0: 0}.get(share, max(1, min(count // 2, count - len(defects))))
    drawn = []
    for index in range(count):
        defect = None if index < good else defects[(index - good) % len(defects)]
        grain = render_grain(seed, defect, size, index=index, holder=holder)
        encoded, data = cv2.imencode(".png", grain.image)
        if not encoded:
            raise OSError(f"picture {index} of series {seed} could not be encoded as PNG")
        drawn.append(Specimen(data.tobytes(), defect))
        progress(index + 1, count)
    return Specimens(drawn[:good], drawn[good:])
