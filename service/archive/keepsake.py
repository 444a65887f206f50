"""What is to be kept of one inspection, and whether it is."""

import hashlib
from dataclasses import dataclass, replace

from atsnet.imaging import Float32Array
from service.picture import ImageFile
from service.reply import VerdictWord


@dataclass(frozen=True, slots=True)
class Keepsake:
    """What is to be kept of one inspection; what had no outcome has no map."""

    id: str
    image: ImageFile
    anomaly_map: Float32Array | None
    verdict: VerdictWord

    @property
    def is_pass(self) -> bool:
        """Whether a share is enough, and whether it goes before others do."""
        return self.verdict == "pass"

    def alone(self) -> "Keepsake":
        """Itself with a map of its own: a part of a batch's would keep all of it in memory."""
        if self.anomaly_map is None or self.anomaly_map.base is None:
            return self
        return replace(self, anomaly_map=self.anomaly_map.copy())

    @property
    def waiting_bytes(self) -> int:
        """Memory that it takes while it waits."""
        return len(self.image.data) + (0 if self.anomaly_map is None else self.anomaly_map.nbytes)


def is_sampled(inspection_id: str, share: float) -> bool:
    """Whether an inspection is one of the `share` in [0, 1] that is looked at; always the same answer for the same id.

    An id that is in a share is in every larger one too.
    """
    digest = hashlib.blake2b(inspection_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64
