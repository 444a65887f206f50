"""PatchCore: distances to the nearest of a small set of normal patch features.

K. Roth, L. Pemula, J. Zepeda, B. Schölkopf, T. Brox, P. Gehler: Towards Total Recall in Industrial Anomaly Detection,
CVPR 2022.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from atsnet.baselines import maps
from atsnet.baselines.detector import DetectorSize, NotFittedError
from atsnet.baselines.features import Features, FrameTrunk
from atsnet.evaluation.scoring import RawScores
from atsnet.imaging import InputGeometry, UInt8Array
from atsnet.network.backbone import ResNet18Trunk
from atsnet.progress import Reporter, silent

STRIDE = 8
"""Frame pixels a side of a patch."""
PROJECTION = 128
"""Dimensions that the coreset is chosen in (section 3.2, by the lemma of Johnson and Lindenstrauss)."""
_CANDIDATES = 16_384
_CHUNK = 65_536


class PatchCore:
    """Memory bank of locally averaged features at 1/8 and 1/16, thinned to a greedy k-centre coreset.

    Notes:
        The two scales are concatenated (384 channels) as the reference implementations for small trunks do; the
        paper's pooling of 1,536 channels to 1,024 has nothing to reduce here.
    """

    def __init__(
        self,
        trunk: ResNet18Trunk,
        geometry: InputGeometry,
        seed: int = 0,
        device: torch.device | None = None,
        *,
        coreset: float = 0.01,
        neighbours: int = 9,
        image_score: Literal["max", "reweighted"] = "max",
    ) -> None:
        """Make a detector without a memory.

        Args:
            trunk: The frozen backbone.
            geometry: Of the frames.
            seed: Of the projection and of the coreset's first member.
            device: The CPU by default.
            coreset: Share of the patches that is kept (the paper: 1 %, 10 % and 25 %).
            neighbours: Of the nearest memory, that the image score is weighted by (the paper's b).
            image_score: The maximum of the smoothed map, or the paper's weighted distance (equations 6 and 7).
        """
        self.trunk = FrameTrunk(trunk, geometry, device or torch.device("cpu"))
        self.seed, self.coreset, self.neighbours, self.image_score = seed, coreset, neighbours, image_score
        self._bank: Tensor | None = None

    @property
    def bank(self) -> Tensor:
        """The memory, `float32 [M, 384]`.

        Raises:
            NotFittedError: `fit` has not been called.
        """
        if self._bank is None:
            raise NotFittedError("PatchCore has no memory yet; call fit first")
        return self._bank

    def fit(self, train: UInt8Array, holdout: UInt8Array, report: Reporter = silent) -> None:  # noqa: ARG002
        """See `Detector`; the holdout is not needed.

        Raises:
            ValueError: No position of the training frames is inspected.
        """
        patches = torch.cat(
            [
                embed(features)[features.inspected(STRIDE)]
                for features in self.trunk.batches(train, "reading features", report)
            ]
            or [torch.empty(0, 0)]
        )
        if not len(patches):
            raise ValueError("there is no inspected position to remember")
        rng = np.random.default_rng(self.seed)
        projection = rng.standard_normal((patches.shape[1], PROJECTION)).astype(np.float32) / PROJECTION**0.5
        chosen = greedy_coreset(
            patches @ torch.from_numpy(projection).to(patches.device),
            max(1, int(self.coreset * len(patches))),
            first=int(rng.integers(len(patches))),
            report=report,
        )
        self._bank = patches[chosen].clone()

    @torch.inference_mode()
    def score(self, pixels: UInt8Array, report: Reporter = silent) -> RawScores:
        """See `Detector`."""
        bank = self.bank
        scores, anomaly_maps = [torch.empty(0)], [torch.empty(0, *(side // 4 for side in pixels.shape[1:3]))]
        for features in self.trunk.batches(pixels, "scoring", report):
            patches, inspected = embed(features), features.inspected(STRIDE)
            distances, nearest = nearest_neighbour(patches.flatten(0, 2), bank)
            distances = distances.view(inspected.shape) * inspected
            anomaly_map = maps.anomaly_map(distances, inspected, features.inspected(maps.MAP_STRIDE))
            anomaly_maps.append(anomaly_map.cpu())
            score = anomaly_map.amax((1, 2))
            if self.image_score == "reweighted":
                score = self._reweighted(patches.flatten(1, 2), distances.flatten(1), nearest.view(len(patches), -1))
            scores.append(score.cpu())
        return RawScores(torch.cat(scores).numpy(), torch.cat(anomaly_maps).numpy())

    def size(self) -> DetectorSize:
        """See `Detector`; the search through the memory is counted as one product with every member."""
        height, width = self.trunk.geometry.height // STRIDE, self.trunk.geometry.width // STRIDE
        search = height * width * self.bank.numel()
        return DetectorSize(self.trunk.parameters, self.bank.numel(), self.trunk.macs(self.trunk.trunk) + search)

    def _reweighted(self, patches: Tensor, distances: Tensor, nearest: Tensor) -> Tensor:
        """Image scores: the largest distance, weighted by how alone its nearest memory is (equation 7).

        Args:
            patches: `[N, P, C]`.
            distances: To the nearest memory, `[N, P]`, 0 where nothing is inspected.
            nearest: Which one that is, `[N, P]`.

        Returns:
            `[N]`; the weight is 1 - softmax over the `neighbours` of that memory, at the memory itself.
        """
        batch = torch.arange(len(patches), device=patches.device)
        worst = distances.argmax(1)
        patch, memory = patches[batch, worst], self.bank[nearest[batch, worst]]
        count = min(self.neighbours, len(self.bank))
        around = torch.cdist(memory, self.bank).topk(count, largest=False).indices
        to_around = torch.linalg.vector_norm(patch.unsqueeze(1) - self.bank[around], dim=2)
        return (1 - torch.softmax(to_around, dim=1)[:, 0]) * distances[batch, worst]


def embed(features: Features) -> Tensor:
    """Patch features `[N, H/8, W/8, 384]`: 3x3 local means at 1/8 and 1/16, the latter resized to 1/8."""
    _, eighth, sixteenth = features.scales
    at_eighth, at_sixteenth = features.inspected(8), features.inspected(16)
    fine, coarse = maps.local_mean(eighth, at_eighth), maps.local_mean(sixteenth, at_sixteenth)
    size = (eighth.shape[2], eighth.shape[3])
    return torch.cat([fine, maps.resize(coarse, at_sixteenth, size)], dim=1).permute(0, 2, 3, 1)


def nearest_neighbour(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distance of each query `[Q, C]` to the nearest of `bank` `[M, C]`, and its index; both `[Q]`."""
    lengths = bank.square().sum(1)
    distances, indices = [], []
    for chunk in torch.split(queries, 4096):
        # The query's own length changes nothing about which is nearest.
        best = torch.addmm(lengths, chunk, bank.T, alpha=-2).min(dim=1)
        distances.append((best.values + chunk.square().sum(1)).clamp(min=0).sqrt())
        indices.append(best.indices)
    return torch.cat(distances), torch.cat(indices)


def greedy_coreset(points: Tensor, count: int, first: int = 0, report: Reporter = silent) -> Tensor:
    """Greedy k-centre: each next member is the point that is farthest from all members so far.

    The result is that of the plain algorithm, which measures all points after each choice. A point's distance to the
    members can only shrink, so the farthest is among a few candidates until those come below the others' last known
    distance; only then are all points measured again, against all new members at once.

    Args:
        points: `[N, D]`.
        count: Members wanted, at most N.
        first: Index of the first one.
        report: Told how far it is.

    Returns:
        Indices `int64 [count]`, in the order chosen.
    """
    lengths = points.square().sum(1)
    squared = torch.full((len(points),), float("inf"), device=points.device)
    members, measured = [first], 0
    while True:
        fresh = torch.tensor(members[measured:], device=points.device)
        for start in range(0, len(points), _CHUNK):
            part = slice(start, start + _CHUNK)
            products = torch.addmm(lengths[fresh], points[part], points[fresh].T, alpha=-2)
            squared[part] = torch.minimum(squared[part], products.amin(1) + lengths[part])
        squared[fresh] = -1  # never again, not even among equal points
        measured = len(members)
        report("choosing the coreset", measured, count)
        if measured == count:
            return torch.tensor(members, device=points.device)
        top = squared.topk(min(_CANDIDATES, len(points)))
        floor = float(top.values[-1]) if len(top.values) < len(points) else -1.0
        candidates, distances, length = points[top.indices], top.values, lengths[top.indices]
        while len(members) < count:
            value, index = distances.max(0)
            if len(members) > measured and float(value) < floor:
                break
            members.append(int(top.indices[index]))
            distances = torch.minimum(distances, length - 2 * (candidates @ candidates[index]) + length[index])
            distances[index] = -1
