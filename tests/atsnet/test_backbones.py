import hashlib
import io
import json
import pickle
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from atsnet.backbones import BackboneError, load_backbone, read_registry, save_trunk
from atsnet.network.backbone import ResNet18Trunk
from atsnet.training.run_directory import BackboneSource

LICENCE = "BSD-3-Clause"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Publisher:
    """A server on this machine that publishes one backbone, and the registry that names it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.registry, self.cache = folder / "backbones.json", folder / "cache"

    def publish(self, content: bytes, *, sha256: str | None = None) -> str:
        digest = hashlib.sha256(content).hexdigest()
        (self.folder / "published.pth").write_bytes(content)
        url = f"http://127.0.0.1:{self.port}/published.pth"
        entry = {"url": url, "sha256": sha256 or digest, "licence": LICENCE}
        self.registry.write_text(json.dumps({"imagenet": entry}))
        return digest

    def load(self, **keys: Any) -> tuple[ResNet18Trunk, BackboneSource]:
        return load_backbone("imagenet", self.registry, self.cache, **keys)

    def kept(self) -> list[Path]:
        return list(self.cache.iterdir()) if self.cache.exists() else []


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Publisher(tmp_path, server.server_port)
        server.shutdown()
        thread.join()


def trunk_state(seed: int = 0) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResNet18Trunk().state_dict()


def published_file(seed: int = 0, *, without: str = "") -> bytes:
    """A torch file of a whole ResNet-18: its trunk and (shortened) what comes after."""
    state = {key: value for key, value in trunk_state(seed).items() if key != without}
    state |= {"layer4.0.bn1.weight": torch.zeros(512), "fc.bias": torch.zeros(10)}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def same(trunk: ResNet18Trunk, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in trunk.state_dict().items())


def test_a_published_backbone_is_fetched_once_checked_and_kept(publisher: Publisher) -> None:
    digest = publisher.publish(published_file())
    seen: list[tuple[int, int]] = []
    trunk, source = publisher.load(report=lambda _task, done, total, _values=None: seen.append((done, total)))
    assert same(trunk, trunk_state())
    assert not trunk.training
    assert source.sha256 == digest
    assert source.licence == LICENCE
    assert source.origin.endswith("/published.pth")
    size = (publisher.folder / "published.pth").stat().st_size
    assert seen[-1] == (size, size)
    (kept,) = publisher.kept()
    assert kept.suffix == ".safetensors"  # the pickle is not kept

    (publisher.folder / "published.pth").unlink()
    again, source_again = publisher.load()
    assert same(again, trunk_state())
    assert source_again == source


def test_another_published_file_is_not_mistaken_for_the_kept_one(publisher: Publisher) -> None:
    publisher.publish(published_file())
    publisher.load()
    publisher.publish(published_file(seed=1))
    assert same(publisher.load()[0], trunk_state(1))


def test_a_file_that_is_not_the_published_one_is_refused_and_not_kept(publisher: Publisher) -> None:
    digest = publisher.publish(published_file(), sha256="0" * 64)
    with pytest.raises(BackboneError, match=f"its sha256 is {digest}, not {'0' * 64}"):
        publisher.load()
    assert publisher.kept() == []


def test_a_published_file_that_is_no_resnet18_is_refused_and_not_kept(publisher: Publisher) -> None:
    publisher.publish(published_file(without="layer2.0.conv1.weight"))
    with pytest.raises(BackboneError, match=r"'imagenet': no ResNet-18 trunk.*layer2\.0\.conv1\.weight"):
        publisher.load()
    assert publisher.kept() == []


def test_an_address_that_cannot_be_reached_names_the_other_way(publisher: Publisher) -> None:
    publisher.publish(published_file())
    (publisher.folder / "published.pth").unlink()
    with pytest.raises(BackboneError, match=r"published\.pth cannot be downloaded .*404.* --backbone FILE"):
        publisher.load()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.pth", "no-scheme", "http://[bad"])
def test_no_server_and_no_address_at_all(tmp_path: Path, url: str) -> None:
    registry = tmp_path / "backbones.json"
    registry.write_text(json.dumps({"imagenet": {"url": url, "sha256": "0" * 64, "licence": ""}}))
    with pytest.raises(BackboneError, match=r"cannot be downloaded .* --backbone FILE"):
        load_backbone("imagenet", registry, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(publisher: Publisher) -> None:
    publisher.publish(published_file())
    publisher.cache.write_text("a file where the folder should be")
    with pytest.raises(BackboneError, match=f"cannot be kept in {publisher.cache}"):
        publisher.load()


class Malicious:
    """Unpickled with code allowed, this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("form", ["zip", "plain"])
def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path: Path, form: str) -> None:
    proof, path = tmp_path / "proof", tmp_path / "backbone.pth"
    content = {**trunk_state(), "extra": Malicious(proof)}
    if form == "zip":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(BackboneError, match=r"backbone\.pth holds no state dict that can be read safely"):
        load_backbone(str(path), make_registry(tmp_path), tmp_path)
    assert not proof.exists()


def make_registry(tmp_path: Path) -> Path:
    path = tmp_path / "backbones.json"
    entry = {"url": "http://127.0.0.1:9/", "sha256": "0" * 64, "licence": ""}
    path.write_text(json.dumps({"imagenet": entry, "other": entry}))
    return path


def test_a_saved_trunk_comes_back_with_its_origin(tmp_path: Path) -> None:
    trunk = ResNet18Trunk().to(memory_format=torch.channels_last)
    path = tmp_path / "deep" / "trunk.safetensors"
    made = BackboneSource(name="formula", sha256="", licence="Apache-2.0", origin="atsnet pretrain --steps 3")
    save_trunk(trunk, path, made)
    loaded, source = load_backbone(str(path), make_registry(tmp_path), tmp_path)
    assert same(loaded, trunk.state_dict())
    assert source == made.model_copy(update={"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_local_torch_file_needs_no_metadata(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(published_file(2))
    trunk, source = load_backbone(str(path), make_registry(tmp_path), tmp_path)
    assert same(trunk, trunk_state(2))
    assert (source.name, source.licence) == ("mine", "unknown")
    assert source.origin == f"local file {path.name}"  # no path of this machine goes into a record


@pytest.mark.parametrize("name", ["missing.safetensors", "missing.pth"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(BackboneError, match=f"{name} cannot be read: .*[Nn]o such file"):
        load_backbone(str(tmp_path / name), make_registry(tmp_path), tmp_path)


@pytest.mark.parametrize("name", ["broken.safetensors", "broken.pth"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"neither one nor the other")
    with pytest.raises(BackboneError, match=f"{name} holds no state dict"):
        load_backbone(str(tmp_path / name), make_registry(tmp_path), tmp_path)


def test_a_file_of_another_network_names_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(published_file(without="conv1.weight"))
    with pytest.raises(BackboneError, match=r"other\.pth': no ResNet-18 trunk: 1 keys are missing.*'conv1\.weight'"):
        load_backbone(str(path), make_registry(tmp_path), tmp_path)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"unknown backbone 'resnet50'; known: imagenet, other; or give"):
        load_backbone("resnet50", make_registry(tmp_path), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"imagenet": 3}',
        '{"imagenet": {"url": "http://x"}}',
        '{"imagenet": {"url": "http://x", "sha256": "f37072fd", "licence": ""}}',
    ],
)
def test_a_damaged_registry_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "backbones.json"
    path.write_text(content)
    with pytest.raises(BackboneError, match=f"{path} is damaged"):
        read_registry(path)


def test_a_missing_registry_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"backbones\.json cannot be read: No such file"):
        read_registry(tmp_path / "backbones.json")


def test_the_registry_that_is_shipped_names_imagenet() -> None:
    shipped = read_registry(Path(__file__).parents[2] / "weights" / "backbones.json")
    assert shipped["imagenet"].url.startswith("https://")
    # torchvision names its files by the beginning of their digest.
    assert shipped["imagenet"].sha256[:8] in shipped["imagenet"].url
