"""The baselines by name."""

from collections.abc import Mapping
from typing import Final, Protocol

import torch

from atsnet.baselines.detector import Detector
from atsnet.baselines.mkd import Mkd
from atsnet.baselines.padim import Padim
from atsnet.baselines.patchcore import PatchCore
from atsnet.baselines.stfpm import Stfpm
from atsnet.imaging import InputGeometry
from atsnet.network.backbone import ResNet18Trunk


class MakeDetector(Protocol):
    """Makes a detector that has learned nothing yet."""

    def __call__(
        self, trunk: ResNet18Trunk, geometry: InputGeometry, seed: int = 0, device: torch.device | None = None
    ) -> Detector:
        """`seed` rules all that is random; `device` is the CPU by default."""


METHODS: Final[Mapping[str, MakeDetector]] = {"mkd": Mkd, "stfpm": Stfpm, "patchcore": PatchCore, "padim": Padim}
