"""Which trunk's features tell defects from good parts: a nearest-neighbour probe that needs no training.

    python benchmarks/backbones.py --data data/grains --data data/tiles trunk.safetensors random

For each trunk and data set: image AUROC of the distance to the nearest of 3000 randomly chosen features of good parts,
at each scale; an image's score is the mean of its largest hundredth. `random` is a trunk with random weights whose
batch statistics were taken from the good images.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from atsnet.backbones import load_backbone
from atsnet.data.frames import load_frames
from atsnet.data.layout import Dataset, Sample, find_dataset
from atsnet.evaluation.metrics import image_auroc
from atsnet.imaging import InputGeometry, UInt8Array
from atsnet.network.backbone import ResNet18Trunk

MEMORY = 3000
SCALES = ("1/4", "1/8", "1/16")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trunks", nargs="+", help="files, names in the registry, or `random`")
    parser.add_argument("--data", type=Path, action="append", required=True, help="data set in the MVTec layout")
    parser.add_argument("--train", type=int, default=100, help="good images in the memory")
    parser.add_argument("--test", type=int, default=80, help="good test images, and as many defective ones at most")
    parser.add_argument("--registry", type=Path, default=Path("weights/backbones.json"))
    options = parser.parse_args()
    print(f"| trunk | data | {' | '.join(SCALES)} |\n| --- | --- | --- | --- | --- |")
    for root in options.data:
        dataset = find_dataset(root)
        train, test, defective = _choose(dataset, options.train, options.test)
        for choice in options.trunks:
            trunk = _random_trunk(train) if choice == "random" else _load(choice, options.registry)
            cells = [f"{_probe(trunk, train, test, defective, scale):.3f}" for scale in range(3)]
            print(f"| {Path(choice).stem} | {root.name} | {' | '.join(cells)} |", flush=True)


def _choose(dataset: Dataset, train: int, test: int) -> tuple[UInt8Array, UInt8Array, np.ndarray]:
    rng = np.random.default_rng(0)

    def draw(samples: list[Sample], count: int) -> list[Sample]:
        return [samples[index] for index in rng.permutation(len(samples))[:count]]

    geometry = InputGeometry(color="mono")
    good = draw([sample for sample in dataset.test if not sample.defective], test)
    bad = draw([sample for sample in dataset.test if sample.defective], test)
    frames = load_frames([*draw(list(dataset.train), train), *good, *bad], geometry).pixels
    memory = len(frames) - len(good) - len(bad)
    return frames[:memory], frames[memory:], np.array([False] * len(good) + [True] * len(bad))


def _load(choice: str, registry: Path) -> ResNet18Trunk:
    return load_backbone(choice, registry, Path.home() / ".cache" / "atsnet")[0]


def _random_trunk(frames: UInt8Array) -> ResNet18Trunk:
    torch.manual_seed(0)
    trunk = ResNet18Trunk()
    with torch.no_grad():
        for start in range(0, len(frames), 16):
            trunk(_images(frames[start : start + 16]))
    return trunk.eval()


def _probe(
    trunk: ResNet18Trunk, train: UInt8Array, test: UInt8Array, defective: np.ndarray, scale: int
) -> float | None:
    memory, queries = _features(trunk, train, scale), _features(trunk, test, scale)
    mean, deviation = memory.mean(dim=(0, 2)), memory.std(dim=(0, 2)) + 1e-6
    memory, queries = ((x.transpose(1, 2) - mean) / deviation for x in (memory, queries))
    flat = memory.flatten(0, 1)
    flat = flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))[:MEMORY]]
    distances = torch.stack([torch.cdist(image, flat).amin(dim=1) for image in queries])
    count = max(1, distances.shape[1] // 100)
    return image_auroc(defective, distances.topk(count, dim=1).values.mean(dim=1).numpy())


@torch.inference_mode()
def _features(trunk: ResNet18Trunk, frames: UInt8Array, scale: int) -> Tensor:
    """Locally averaged features, `[N, C, positions]`."""
    parts = [trunk(_images(frames[start : start + 16]))[scale] for start in range(0, len(frames), 16)]
    return F.avg_pool2d(torch.cat(parts), 3, 1, 1).flatten(2)


def _images(frames: UInt8Array) -> Tensor:
    grey = torch.from_numpy(frames[:, :, :, 0]).float().div(255).unsqueeze(1)
    return grey.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
