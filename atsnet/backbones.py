"""Where the trunk's weights come from: a published file, a local one, or our own pretraining.

The registry, `weights/backbones.json`, holds URL, sha256 and licence of what can be downloaded. A downloaded file is
checked against its sha256 before a byte of it is used, and only the trunk is kept, as safetensors. Published PyTorch
files are pickles: they are read with `weights_only=True`, which admits tensors and nothing that runs code.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Final

import httpx
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from atsnet.network.backbone import BackboneKeyError, ResNet18Trunk
from atsnet.progress import Reporter, silent
from atsnet.training.run_directory import BackboneSource

_UNKNOWN: Final = "unknown"
_SOURCE_KEY: Final = "atsnet.backbone"


class BackboneError(Exception):
    """The trunk's weights cannot be had; the message says which file or address and what to do."""


class RegistryEntry(BaseModel):
    """A published backbone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the published file."""
    licence: str


def load_backbone(
    choice: str, registry: Path, cache: Path, report: Reporter = silent
) -> tuple[ResNet18Trunk, BackboneSource]:
    """Make the trunk that `choice` names: an entry of the registry (`imagenet`), or a file.

    Args:
        choice: Name in the registry, or path of a `.safetensors`, `.pth` or `.pt` file with torchvision's keys.
        registry: Path of `backbones.json`.
        cache: Directory that downloaded trunks are kept in.
        report: Receives the download's progress.

    Returns:
        The trunk in eval mode, and where it came from.

    Raises:
        BackboneError: Unknown name, unreachable address, wrong sha256, or no ResNet-18.
    """
    path = Path(choice)
    if path.suffix in {".safetensors", ".pth", ".pt"}:
        state, source = _local(path)
        return _trunk(state, choice), source
    entries = read_registry(registry)
    if choice not in entries:
        known = ", ".join(sorted(entries))
        raise BackboneError(f"unknown backbone {choice!r}; known: {known}; or give a .safetensors, .pth or .pt file")
    try:
        return _published(choice, entries[choice], cache, report)
    except OSError as error:
        raise BackboneError(f"backbone {choice!r} cannot be kept in {cache}: {error}") from error


def save_trunk(trunk: ResNet18Trunk, path: Path, source: BackboneSource) -> None:
    """Write a trunk's weights with their origin and licence, for `--backbone FILE`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # One entry: safetensors writes several in an order that changes from file to file, and with it the sha256.
    metadata = {_SOURCE_KEY: json.dumps({"name": source.name, "licence": source.licence, "origin": source.origin})}
    save_file({key: value.contiguous() for key, value in trunk.state_dict().items()}, path, metadata)


def read_registry(path: Path) -> dict[str, RegistryEntry]:
    """Read `backbones.json`.

    Raises:
        BackboneError: The file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text())
        return {name: RegistryEntry.model_validate(entry) for name, entry in content.items()}
    except OSError as error:
        raise BackboneError(f"the backbone registry {path} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, ValidationError) as error:
        raise BackboneError(f"the backbone registry {path} is damaged: {error}") from error


def _published(name: str, entry: RegistryEntry, cache: Path, report: Reporter) -> tuple[ResNet18Trunk, BackboneSource]:
    trunk_path = cache / f"{name}-{entry.sha256[:16]}.safetensors"
    source = BackboneSource(name=name, sha256=entry.sha256, licence=entry.licence, origin=entry.url)
    if not trunk_path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            download = Path(directory) / "download.pth"
            _download(entry, download, report)
            save_trunk(_trunk(_read_state(download), name), Path(directory) / "trunk.safetensors", source)
            (Path(directory) / "trunk.safetensors").replace(trunk_path)
    return _trunk(_read_state(trunk_path), name), source


def _download(entry: RegistryEntry, target: Path, report: Reporter) -> None:
    digest = hashlib.sha256()
    try:
        with httpx.stream("GET", entry.url, follow_redirects=True, timeout=30) as response, target.open("wb") as file:
            response.raise_for_status()
            total = int(response.headers.get("Content-Length", 0))
            for chunk in response.iter_bytes(1 << 18):
                file.write(chunk)
                digest.update(chunk)
                report("downloading the backbone", response.num_bytes_downloaded, total)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BackboneError(
            f"{entry.url} cannot be downloaded ({reason}); fetch it by other means and give it as --backbone FILE"
        ) from error
    if digest.hexdigest() != entry.sha256:
        raise BackboneError(
            f"{entry.url} is not the published file: its sha256 is {digest.hexdigest()}, not {entry.sha256}"
        )


def _local(path: Path) -> tuple[dict[str, Tensor], BackboneSource]:
    state = _read_state(path)
    metadata: dict[str, str] = {}
    if path.suffix == ".safetensors":
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
        metadata |= json.loads(metadata.get(_SOURCE_KEY, "{}"))
    return state, BackboneSource(
        name=metadata.get("name", path.stem),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        licence=metadata.get("licence", _UNKNOWN),
        origin=metadata.get("origin", f"local file {path.name}"),
    )


def _trunk(state: dict[str, Tensor], choice: str) -> ResNet18Trunk:
    trunk = ResNet18Trunk()
    try:
        trunk.load_trunk(state)
    except BackboneKeyError as error:
        raise BackboneError(f"backbone {choice!r}: {error}") from error
    return trunk.eval()


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise BackboneError(f"the backbone file {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch.load raises nearly anything on a file that is not its own
        raise BackboneError(f"the backbone file {path} holds no state dict that can be read safely: {error}") from error
