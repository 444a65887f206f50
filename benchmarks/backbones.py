"""Which trunk's features tell defects from good parts: a nearest-neighbour probe that needs no training.

    python -m benchmarks.backbones --data data/grains --data data/tiles trunk.safetensors random

For each trunk and data set: image AUROC of the distance to the nearest of 3000 randomly chosen features of good parts,
at each scale, and of the distance from 2000 prototypes in the network's own memory, which sees 1/8 and 1/16; an image's
score is the mean of its largest hundredth. `random` is a trunk with random weights whose batch statistics were taken
from the good images. With `--pasted`, good images of the training set that are not in the memory are to be told from
the same ones with an anomaly pasted on each, and no test image is looked at.
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
from atsnet.data.synthetic import paste_anomalies
from atsnet.evaluation.metrics import image_auroc
from atsnet.imaging import InputGeometry, UInt8Array
from atsnet.network.backbone import ResNet18Trunk
from atsnet.network.memory import PrototypeMemory
from benchmarks.program import run_program

MEMORY = 3000
SCALES = ("1/4", "1/8", "1/16")
PROTOTYPES = 2000
WIDTH = 96


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trunks", nargs="+", help="files, names in the registry, or `random`")
    parser.add_argument("--data", type=Path, action="append", required=True, help="data set in the MVTec layout")
    parser.add_argument("--train", type=int, default=100, help="good images in the memory")
    parser.add_argument("--test", type=int, default=80, help="good test images, and as many defective ones at most")
    parser.add_argument("--pasted", action="store_true", help="tell pasted anomalies from the same images without")
    parser.add_argument("--registry", type=Path, default=Path("weights/backbones.json"))
    options = parser.parse_args()
    print(f"| trunk | data | {' | '.join(SCALES)} | memory |\n| --- | --- | --- | --- | --- | --- |")
    for root in options.data:
        dataset = find_dataset(root)
        choose = _paste if options.pasted else _choose
        train, test, defective = choose(dataset, options.train, options.test)
        for choice in options.trunks:
            trunk = _random_trunk(train) if choice == "random" else _load(choice, options.registry)
            with torch.inference_mode():
                good, other = _features(trunk, train), _features(trunk, test)
                figures = [_probe(x, y, defective) for x, y in zip(good, other, strict=True)]
                figures.append(_recall(good, other, defective))
            cells = " | ".join(f"{figure:.3f}" for figure in figures)
            print(f"| {Path(choice).stem} | {root.name} | {cells} |", flush=True)


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


def _paste(dataset: Dataset, train: int, test: int) -> tuple[UInt8Array, UInt8Array, np.ndarray]:
    order = np.random.default_rng(0).permutation(len(dataset.train))[: train + test]
    frames = load_frames([dataset.train[index] for index in order], InputGeometry(color="mono")).pixels
    held_out = frames[train:]
    pasted = paste_anomalies(held_out, np.random.default_rng(1)).pixels
    defective = np.repeat([False, True], len(held_out))
    return frames[:train], np.concatenate([held_out, pasted]), defective


def _load(choice: str, registry: Path) -> ResNet18Trunk:
    return load_backbone(choice, registry, Path.home() / ".cache" / "atsnet")[0]


def _random_trunk(frames: UInt8Array) -> ResNet18Trunk:
    torch.manual_seed(0)
    trunk = ResNet18Trunk()
    with torch.no_grad():
        for part in _batches(frames):
            trunk(_images(part))
    return trunk.eval()


def _probe(memory: Tensor, queries: Tensor, defective: np.ndarray) -> float | None:
    """Of one scale's features of good parts and of those to judge, `[N, C, h, w]` each."""
    memory, queries = (F.avg_pool2d(x, 3, 1, 1).flatten(2) for x in (memory, queries))
    mean, deviation = memory.mean(dim=(0, 2)), memory.std(dim=(0, 2)) + 1e-6
    memory, queries = ((x.transpose(1, 2) - mean) / deviation for x in (memory, queries))
    flat = memory.flatten(0, 1)
    flat = flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))[:MEMORY]]
    return _auroc(torch.stack([torch.cdist(image, flat).amin(dim=1) for image in queries]), defective)


def _recall(good: list[Tensor], test: list[Tensor], defective: np.ndarray) -> float | None:
    """By the memory of the network."""
    memory = PrototypeMemory(PROTOTYPES, WIDTH)
    memory.fit(memory.describe(good).transpose(0, 1).flatten(1).T, 0)
    return _auroc(memory(test).distance.flatten(1), defective)


def _auroc(distances: Tensor, defective: np.ndarray) -> float | None:
    count = max(1, distances.shape[1] // 100)
    return image_auroc(defective, distances.topk(count, dim=1).values.mean(dim=1).numpy())


def _features(trunk: ResNet18Trunk, frames: UInt8Array) -> list[Tensor]:
    parts = [trunk(_images(part)) for part in _batches(frames)]
    return [torch.cat(scale) for scale in zip(*parts, strict=True)]


def _batches(frames: UInt8Array) -> list[UInt8Array]:
    return [frames[start : start + 16] for start in range(0, len(frames), 16)]


def _images(frames: UInt8Array) -> Tensor:
    grey = torch.from_numpy(frames[:, :, :, 0]).float().div(255).unsqueeze(1)
    return grey.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    run_program(main)
