"""The kept images and maps, written behind the answers' backs and bounded in room and in age.

    archive/YYYY/MM/DD/<id>.png           the image of a reject, a review or an error, byte for byte as it came;
                                          bare pixels as PNG
    archive/YYYY/MM/DD/<id>.npy           its calibrated anomaly map, float16 [h, w]; an error has none
    archive/passes/YYYY/MM/DD/<id>.png    the same of passes, or of a share of them
    archive/passes/YYYY/MM/DD/<id>.npy

The day is that of the id, so that the id alone finds the files. Keeping is best effort: it never fails an inspection.
"""

from service.archive.archive import Archive, ArchiveLimits, DropReason
from service.archive.keepsake import Keepsake

__all__ = ["Archive", "ArchiveLimits", "DropReason", "Keepsake"]
