"""A bundle that is not what was validated: the service does not start, and says what is wrong with it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from stations import Station

from benchmarks import tiny_bundle


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of the graph": lambda bundle: flip(bundle / "model.onnx", 1000),
    "half a graph": lambda bundle: (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes()[:5000]),
    "no graph": lambda bundle: (bundle / "model.onnx").unlink(),
    "a bit of a golden sample": lambda bundle: flip(bundle / "samples" / "good_0.png", 100),
    "a bit of an expected map": lambda bundle: flip(bundle / "samples" / "spot_0.npy", 200),
    "half a manifest": lambda bundle: (bundle / "manifest.json").write_bytes(
        (bundle / "manifest.json").read_bytes()[:500]
    ),
    "an empty manifest": lambda bundle: (bundle / "manifest.json").write_bytes(b""),
    "a manifest that names a file outside": lambda bundle: (bundle / "manifest.json").write_text(
        (bundle / "manifest.json").read_text().replace("model.onnx", "../../../model.onnx")
    ),
    "another score": lambda bundle: (bundle / "manifest.json").write_text(
        (bundle / "manifest.json").read_text().replace('"score":', '"score":1', 1)
    ),
}
SHORT = ("a bit of the graph", "half a manifest")


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damaged_bundle(station: Station, tmp_path: Path, long: bool, damage: str) -> None:
    if damage not in SHORT and not long:
        pytest.skip("part of `make test-faults`")
    weights = tmp_path / "weights"
    shutil.copytree(Path(str(station.settings["weights"])), weights)
    DAMAGES[damage](weights / tiny_bundle.NAME)
    station.settings["weights"] = weights
    assert station.launch().wait(60) == 4
    assert "error: " in station.tail()
    assert "Traceback" not in station.tail().partition("error: ")[2]
