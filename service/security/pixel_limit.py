"""OpenCV's own limit of pixels, behind the one that is checked in the header before anything is decoded.

OpenCV reads `OPENCV_IO_MAX_IMAGE_PIXELS` once, when its library is loaded; afterwards the variable changes nothing. Its
default is 2**30 pixels. The limit matters where OpenCV finds another size in a file than the check of the header did.
"""

import os
import struct
import sys
from typing import Final

VARIABLE: Final = "OPENCV_IO_MAX_IMAGE_PIXELS"

_ROWS: Final = 1 << 15
"""Of the image that is tried: few enough, and columns too, for OpenCV's limits of 2**20 each."""


def limit_opencv(max_pixels: int) -> bool:
    """Give OpenCV the limit, in this process and those that it starts; to be called before anything imports cv2.

    A lower number in the environment stays: whoever runs the service may be stricter than its settings.

    Returns:
        Whether it holds in this process too. It does not where cv2 had been imported under a higher one.
    """
    given = os.environ.get(VARIABLE, "")
    limit = min(max_pixels, int(given)) if given.isdecimal() else max_pixels
    os.environ[VARIABLE] = str(limit)
    return "cv2" not in sys.modules or _holds(limit)


def _holds(limit: int) -> bool:
    """Whether OpenCV refuses an image of more pixels, by its header."""
    import cv2
    import numpy as np

    columns = limit // _ROWS + 1
    file_header = struct.pack("<2sIHHI", b"BM", 1078, 0, 0, 1078)
    info_header = struct.pack("<IiiHHIIiiII", 40, columns, _ROWS, 1, 8, 0, 0, 0, 0, 256, 0)
    image = np.frombuffer(file_header + info_header + bytes(1024), np.uint8)
    try:
        cv2.imdecode(image, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        return "MAX_IMAGE_PIXELS" in str(error)
    return False
