"""A memory of normal prototypes: how far is each place from anything that a good part has shown?

The student generalises over normal parts, and so smooths over what is rare on them; the memory keeps the rare. It is
our addition to what the paper's abstract names. Source: Roth et al., "Towards Total Recall in Industrial Anomaly
Detection" (PatchCore, CVPR 2022), from which come the locally averaged features of two scales and the greedy
selection; the half-whitened projection, which makes ten thousand prototypes fit the budget, is ours.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atsnet.network.backbone import SCALE_CHANNELS
from atsnet.progress import Reporter, silent

MEMORY_STRIDE = 8
"""Frame pixels a side of one position of the memory's distances."""
_CHANNELS = SCALE_CHANNELS[1] + SCALE_CHANNELS[2]
_POSITIONS_AT_A_TIME = 256
"""Their distances to all prototypes stay in a processor's cache, which makes the search more than twice as fast."""
_SELECTED_AT_A_TIME = 32
_CANDIDATES = 1024


class Recollection(NamedTuple):
    """What the memory says of N frames, at 1/8."""

    prototypes: Tensor
    """The nearest prototype of each position, `float32 [N, D, h, w]`."""
    missed: Tensor
    """The position less its prototype, `float32 [N, D, h, w]`."""
    distance: Tensor
    """Length of what was missed, `float32 [N, h, w]`."""


class PrototypeMemory(nn.Module):
    """`size` prototypes of normal positions, in a space of `width` half-whitened principal components."""

    mean: Tensor
    projection: Tensor
    prototypes: Tensor
    half_norms: Tensor
    parts: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        if width > _CHANNELS:
            raise ValueError(f"the memory's width {width} exceeds the {_CHANNELS} channels of its features")
        self.size, self.width = size, width
        self.register_buffer("mean", torch.zeros(_CHANNELS))
        self.register_buffer("projection", torch.zeros(width, _CHANNELS))
        self.register_buffer("prototypes", torch.zeros(size, width))
        self.register_buffer("half_norms", torch.zeros(size))
        # Only training asks from which part a prototype came.
        self.register_buffer("parts", torch.full((size,), -1), persistent=False)

    def describe(self, features: Sequence[Tensor]) -> Tensor:
        """Locally averaged features of the two coarser scales, `[N, 384, h, w]` at 1/8.

        The mean of 3x3 positions counts the outside of the frame as zeros, as the reference does: what lies on the
        frame's edge is then compared with what lies there on good parts.

        Args:
            features: The backbone's, not standardised: `[N, 64, 2h, 2w]`, `[N, 128, h, w]`, `[N, 256, h/2, w/2]`.
        """
        eighth, sixteenth = (F.avg_pool2d(x.float(), 3, stride=1, padding=1) for x in features[1:])
        upsampled = F.interpolate(sixteenth, scale_factor=2.0, mode="bilinear", align_corners=False)
        return torch.cat([eighth, upsampled], dim=1)

    def forward(self, features: Sequence[Tensor], nearest: Tensor | None = None) -> Recollection:
        """Recall the nearest prototype of each position.

        Args:
            features: As for `describe`.
            nearest: Its index where that is known already, `int64 [N, h, w]`.
        """
        vectors = self.project(self.describe(features))
        return self.recall(vectors, self.nearest(vectors) if nearest is None else nearest)

    def recall(self, vectors: Tensor, nearest: Tensor) -> Recollection:
        """Compare positions `[N, h, w, D]` with the prototypes of these indices, `int64 [N, h, w]`."""
        recalled = self.prototypes[nearest]
        missed = vectors - recalled
        distance = torch.sqrt(missed.square().sum(dim=3))
        return Recollection(recalled.permute(0, 3, 1, 2), missed.permute(0, 3, 1, 2), distance)

    def project(self, described: Tensor) -> Tensor:
        """Positions `[N, 384, h, w]` in the space of the prototypes, `[N, h, w, D]`."""
        return (described.permute(0, 2, 3, 1) - self.mean) @ self.projection.T

    def nearest(self, vectors: Tensor) -> Tensor:
        """Index of the prototype nearest to each of `[..., D]`, `int64 [...]`."""
        return self._nearest(vectors, self.half_norms)

    def nearest_of_others(self, vectors: Tensor, parts: Tensor) -> Tensor:
        """The same for frames that the memory was filled with: as if it had never seen the part that each shows.

        A part's own prototypes lie closer to it than any to a part that is new, and whoever learned from that would
        take every new part for an anomaly. Where all prototypes come from one part, they count all the same.

        Args:
            vectors: `[N, h, w, D]`.
            parts: Of each frame, as they were given to `fit`, `int64 [N]`.

        Returns:
            Indices `int64 [N, h, w]`.
        """
        found = []
        for frame, part in zip(vectors, parts, strict=True):
            own = self.parts == part
            half_norms = self.half_norms if bool(own.all()) else self.half_norms.masked_fill(own, math.inf)
            found.append(self._nearest(frame, half_norms))
        return torch.stack(found)

    def _nearest(self, vectors: Tensor, half_norms: Tensor) -> Tensor:
        # |v - p|^2 = |v|^2 + 2 (|p|^2 / 2 - v p), and |v|^2 is the same for all prototypes.
        axes = self.prototypes.T
        found = [
            torch.addmm(half_norms, part, axes, alpha=-1).min(dim=1).indices
            for part in torch.split(vectors.reshape(-1, self.width), _POSITIONS_AT_A_TIME)
        ]
        return torch.cat(found).view(vectors.shape[:-1])

    @torch.no_grad()
    def fit(self, described: Tensor, seed: int, report: Reporter = silent, *, parts: Tensor | None = None) -> None:
        """Choose the prototypes among normal positions.

        The projection keeps the principal components, each divided by the fourth root of its variance: half way
        between features as they are, where few components rule, and whitened ones, where noise does. The choice is
        greedy k-centre, 32 at a time: the next prototypes are those positions that are farthest from all before.

        Args:
            described: Positions of `describe` on normal frames, `[M, 384]`; changed by nobody.
            seed: Of the first prototype.
            report: Told how many have been chosen.
            parts: Which part each position belongs to, `int64 [M]`, for `nearest_of_others`.

        Raises:
            ValueError: The positions do not vary.
        """
        self.mean.copy_(described.mean(dim=0))
        variances, axes = torch.linalg.eigh(torch.cov(described.T).double())
        variances, axes = variances.flip(0)[: self.width], axes.flip(1)[:, : self.width]
        if not float(variances[0]) > 0:
            raise ValueError("the features of normal frames do not vary; there is nothing to remember")
        floor = 1e-6 * variances[0]
        # An eigenvector's sign is arbitrary, and libraries differ: the largest component is made positive.
        signs = torch.sign(axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)))
        projection = axes * signs * torch.clamp(variances, min=floor) ** -0.25
        # A variance of 1 a component on average, so that the student's noise means the same on all data.
        self.projection.copy_((projection / torch.sqrt(torch.sqrt(variances.clamp(min=0)).mean())).T)
        vectors = (described - self.mean) @ self.projection.T
        chosen = k_centres(vectors, min(self.size, len(vectors)), seed, report)
        # With fewer positions than prototypes the rest repeats them, which changes no distance.
        chosen = chosen[torch.arange(self.size, device=chosen.device) % len(chosen)]
        self.prototypes.copy_(vectors[chosen])
        self.parts.fill_(-1) if parts is None else self.parts.copy_(parts[chosen])
        self.half_norms.copy_(self.prototypes.square().sum(dim=1) / 2)


def k_centres(vectors: Tensor, count: int, seed: int, report: Reporter = silent) -> Tensor:
    """Greedy choice of `count` vectors, each farthest from those before it, nearly: 32 are chosen at a time.

    Within a batch the choice is exactly greedy among the 1,024 vectors that were farthest before it.

    Args:
        vectors: `float32 [M, D]`.
        count: At most M.
        seed: Of the first one.
        report: Told how many have been chosen.

    Returns:
        Indices `int64 [count]`; a vector may be chosen twice only where there are fewer different ones.
    """
    first = int(torch.randint(len(vectors), (1,), generator=torch.Generator().manual_seed(seed)))
    chosen = [first]
    distance = _squared_distances(vectors, vectors[first : first + 1]).amin(dim=1)
    while len(chosen) < count:
        far, indices = distance.topk(min(_CANDIDATES, len(vectors)))
        candidates, batch = vectors[indices], []
        for _ in range(min(_SELECTED_AT_A_TIME, count - len(chosen))):
            best = int(far.argmax())
            batch.append(int(indices[best]))
            far = torch.minimum(far, _squared_distances(candidates, candidates[best : best + 1])[:, 0])
        added = vectors[batch]
        distance = torch.cat(
            [
                torch.minimum(old, _squared_distances(part, added).amin(dim=1))
                for old, part in zip(torch.split(distance, 1 << 16), torch.split(vectors, 1 << 16), strict=True)
            ]
        )
        chosen += batch
        report("choosing prototypes", len(chosen), count)
    return torch.tensor(chosen, device=vectors.device)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.clamp(a.square().sum(dim=1, keepdim=True) + b.square().sum(dim=1) - 2 * a @ b.T, min=0)
