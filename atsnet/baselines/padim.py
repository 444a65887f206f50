"""PaDiM: a Gaussian of normal features at each position, and the Mahalanobis distance to it.

T. Defard, A. Setkov, A. Loesch, R. Audigier: PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and
Localization, ICPR 2020 workshops.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from atsnet.baselines import maps
from atsnet.baselines.detector import DetectorSize, NotFittedError
from atsnet.baselines.features import Features, FrameTrunk
from atsnet.evaluation.scoring import RawScores
from atsnet.imaging import InputGeometry, UInt8Array
from atsnet.network.backbone import SCALE_CHANNELS, ResNet18Trunk
from atsnet.progress import Reporter, silent

REGULARISATION = 0.01
"""Added to the diagonal of every covariance (section III-B)."""
MIN_SHARE = 0.05
"""Share of the frames, and at least two of them, that must show a position for a Gaussian of its own."""
_CHUNK = 1024


class Padim:
    """A mean and a covariance at each position of the map, over random channels of the three scales.

    Notes:
        Frames keep their parts' aspect ratio, so positions near the border are padding in some of them: a Gaussian is
        learned from the frames in which its position is inspected, and a position that is inspected in less than
        `MIN_SHARE` of them has the Gaussian of the nearest one that is inspected often enough.
    """

    def __init__(
        self,
        trunk: ResNet18Trunk,
        geometry: InputGeometry,
        seed: int = 0,
        device: torch.device | None = None,
        *,
        dimensions: int = 100,
    ) -> None:
        """Make a detector without Gaussians.

        Args:
            trunk: The frozen backbone.
            geometry: Of the frames.
            seed: Of the choice of channels.
            device: The CPU by default.
            dimensions: Channels chosen of all 448 (100 for a ResNet-18 in the paper).
        """
        self.trunk = FrameTrunk(trunk, geometry, device or torch.device("cpu"))
        chosen = np.random.default_rng(seed).choice(sum(SCALE_CHANNELS), dimensions, replace=False)
        self.channels = torch.from_numpy(np.sort(chosen)).to(self.trunk.device)
        self._gaussians: tuple[Tensor, Tensor] | None = None

    @property
    def gaussians(self) -> tuple[Tensor, Tensor]:
        """Means `float32 [P, D]`, and whitening matrices `float32 [P, D, D]` (inverse Cholesky factors), P = H/4 W/4.

        Raises:
            NotFittedError: `fit` has not been called.
        """
        if self._gaussians is None:
            raise NotFittedError("PaDiM has no Gaussians yet; call fit first")
        return self._gaussians

    @torch.inference_mode()
    def fit(self, train: UInt8Array, holdout: UInt8Array, report: Reporter = silent) -> None:  # noqa: ARG002
        """See `Detector`; the holdout is not needed.

        Raises:
            ValueError: No position is inspected in two of the training frames.
        """
        geometry, device, size = self.trunk.geometry, self.trunk.device, len(self.channels)
        grid = (geometry.height // maps.MAP_STRIDE, geometry.width // maps.MAP_STRIDE)
        counts = torch.zeros(grid[0] * grid[1], device=device)
        sums, products = (torch.zeros(len(counts), *shape, device=device) for shape in ((size,), (size, size)))
        centre: Tensor | None = None
        for features in self.trunk.batches(train, "reading features", report):
            x, inspected = self._embed(features), features.inspected(maps.MAP_STRIDE).flatten(1).T
            if centre is None:
                centre = x[inspected].mean(0)  # near the means, so that no digits are lost in the products
            x = (x - centre) * inspected.unsqueeze(2)
            counts += inspected.sum(1)
            sums += x.sum(1)
            products.baddbmm_(x.transpose(1, 2), x)
        often = (counts >= max(2, MIN_SHARE * len(train))).view(grid).cpu().numpy()
        if centre is None or not often.any():
            raise ValueError("no position is inspected in two training frames; there is nothing to learn a spread from")
        means = sums / counts.clamp(min=1).unsqueeze(1)
        nearest = ndimage.distance_transform_edt(~often, return_distances=False, return_indices=True)
        source = torch.from_numpy(np.ravel_multi_index(tuple(nearest), grid).ravel()).to(device)
        whitening = torch.empty_like(products)
        identity = torch.eye(size, device=device)
        for start in range(0, len(counts), _CHUNK):
            at = source[start : start + _CHUNK]
            weight = counts[at].view(-1, 1, 1)
            outer = means[at].unsqueeze(2) * means[at].unsqueeze(1)
            covariance = (products[at] - weight * outer) / (weight - 1) + REGULARISATION * identity
            factor = torch.linalg.cholesky(covariance)
            whitening[start : start + _CHUNK] = torch.linalg.solve_triangular(factor, identity, upper=False)
            report("inverting covariances", min(start + _CHUNK, len(counts)), len(counts))
        self._gaussians = means[source] + centre, whitening

    @torch.inference_mode()
    def score(self, pixels: UInt8Array, report: Reporter = silent) -> RawScores:
        """See `Detector`; an image's score is the maximum of its map."""
        means, whitening = self.gaussians
        anomaly_maps = [torch.empty(0, *(side // maps.MAP_STRIDE for side in pixels.shape[1:3]))]
        for features in self.trunk.batches(pixels, "scoring", report):
            inspected = features.inspected(maps.MAP_STRIDE)
            deviation = (self._embed(features) - means.unsqueeze(1)).transpose(1, 2)  # [P, D, N]
            distances = torch.linalg.vector_norm(whitening @ deviation, dim=1).T.reshape(inspected.shape)
            anomaly_maps.append(maps.smooth(distances, inspected).cpu())
        merged = torch.cat(anomaly_maps)
        return RawScores(merged.amax((1, 2)).numpy(), merged.numpy())

    def size(self) -> DetectorSize:
        """See `Detector`."""
        means, whitening = self.gaussians
        macs = self.trunk.macs(self.trunk.trunk) + whitening.numel()
        return DetectorSize(self.trunk.parameters, means.numel() + whitening.numel(), macs)

    def _embed(self, features: Features) -> Tensor:
        """The chosen channels of all scales, enlarged to 1/4 without interpolation: `[P, N, D]`."""
        size = features.scales[0].shape[2:]
        enlarged = [F.interpolate(scale, size=size, mode="nearest") for scale in features.scales]
        return torch.cat(enlarged, dim=1)[:, self.channels].flatten(2).permute(2, 0, 1).contiguous()
