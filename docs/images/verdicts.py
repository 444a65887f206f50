"""Draw `verdicts.png`: golden samples of the demo bundle with their maps and verdicts, as the service gives them.

python docs/images/verdicts.py
"""

from pathlib import Path

import cv2
import numpy as np

from atsnet.imaging import UInt8Array, decode
from cli.inspection import LocalInspector, open_bundle
from model_export.bundle import load_bundle

BUNDLE = Path("weights/tec-grain-demo/1")
GAP = 12
CAPTION = 54
COLOURS = {"pass": (70, 150, 40), "review": (0, 150, 220), "fail": (40, 40, 200)}


def main() -> None:
    """Write the picture beside this file."""
    samples = load_bundle(BUNDLE).manifest.golden_samples
    chosen = [next(s for s in samples if s.label == "good"), *[s for s in samples if s.label != "good"]]
    with open_bundle(BUNDLE) as inspector:
        columns = [_column(inspector, BUNDLE / sample.image, sample.label) for sample in chosen]
    picture = np.hstack([np.pad(c, ((GAP, GAP), (GAP // 2, GAP // 2), (0, 0)), constant_values=255) for c in columns])
    cv2.imwrite(str(Path(__file__).with_suffix(".png")), picture)


def _column(inspector: LocalInspector, path: Path, label: str) -> UInt8Array:
    content = path.read_bytes()
    inspected, overlay = inspector.inspect(str(path), content, overlay=True)
    assert inspected.score is not None
    assert overlay is not None
    image, heat = (_in_colour(decode(encoded)) for encoded in (content, overlay))
    caption = np.full((CAPTION, image.shape[1], 3), 255, np.uint8)
    for row, (text, colour) in enumerate(
        ((label, (60, 60, 60)), (f"{inspected.verdict}  {inspected.score:.2f}", COLOURS[inspected.verdict]))
    ):
        cv2.putText(caption, text, (4, 20 + 24 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.62, colour, 1 + row, cv2.LINE_AA)
    space = np.full((GAP, image.shape[1], 3), 255, np.uint8)
    return np.vstack([image, space, heat, caption])


def _in_colour(image: UInt8Array) -> UInt8Array:
    return np.repeat(image[:, :, np.newaxis], 3, axis=2) if image.ndim == 2 else image


if __name__ == "__main__":
    main()
