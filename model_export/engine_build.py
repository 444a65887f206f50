"""Building a TensorRT engine in a process of its own.

A build takes minutes, gigabytes and all of a core, and what breaks in it takes the process along: none of that is for
the one that inspects meanwhile. Started as `python -m model_export.engine_build BUNDLE ENGINES DEVICE`; it has not run
on a GPU yet.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from model_export.bundle import BundleError, load_bundle
from model_export.tensorrt import EngineCache, TensorRtError
from model_export.tensorrt_calls import load_tensorrt

_FAILED: Final = 1
_ORPHANED: Final = 2


class EngineBuild:
    """One build, as a process that ends with this one.

    Args:
        bundle: Directory of a bundle with a half-precision graph.
        engines: Directory that engines are kept in.
        device: Number of the GPU.
    """

    def __init__(self, bundle: Path, engines: Path, device: int) -> None:
        command = [sys.executable, "-m", "model_export.engine_build", str(bundle), str(engines), str(device)]
        # Its input ends when this process does, however it does.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait(self) -> None:
        """Wait until the engine is built, has passed its golden samples and is kept.

        Raises:
            TensorRtError: It is not; the message says why.
        """
        with self._process as process:
            said = "" if process.stderr is None else process.stderr.read()
            code = process.wait()
        if code == 0:
            return
        why = said.strip().splitlines()[-1:] if code == _FAILED else []
        raise TensorRtError(why[0] if why else f"the build of the engine ended with code {code}")

    def cancel(self) -> None:
        """Give it up, if it is not over."""
        self._process.kill()


def main() -> None:
    """Build what the arguments say, or say on the last line of standard error why not."""
    bundle, engines, device = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        EngineCache(engines, load_tensorrt(device)).obtain(load_bundle(bundle), build=True)
    except (TensorRtError, BundleError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)  # noqa: T201
        sys.exit(_FAILED)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(_ORPHANED)


if __name__ == "__main__":
    main()
