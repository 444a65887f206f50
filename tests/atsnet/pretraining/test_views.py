from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from atsnet.imaging import ImageError
from atsnet.pretraining.formulas import texture_bank
from atsnet.pretraining.views import FolderViews, SceneViews, view


def write(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def test_scene_views_come_in_pairs_fixed_by_index() -> None:
    bank = texture_bank(5, 1, 0)
    views = SceneViews(bank, 4, 64, seed=1)
    first, second = views[2]
    assert len(views) == 4
    assert first.shape == second.shape == (3, 64, 64)
    assert first.dtype == torch.uint8
    assert not torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(views[2], SceneViews(bank, 9, 64, seed=1)[2], strict=True))
    assert not torch.equal(views[3][0], first)


def test_both_views_show_the_same_image(tmp_path: Path) -> None:
    """One red and one blue image: the two views of a pair share the colour, and colours are RGB."""
    red, blue = np.zeros((80, 90, 3), np.uint8), np.zeros((80, 90, 3), np.uint8)
    red[..., 2], blue[..., 0] = 200, 200
    paths = [write(tmp_path / "red.png", red), write(tmp_path / "blue.png", blue)]
    strongest = set()
    views = FolderViews(paths, 20, 64, seed=0)
    for index in range(20):
        first, second = (int(v.float().mean(dim=(1, 2)).argmax()) for v in views[index])
        assert first == second
        strongest.add(first)
    assert strongest == {0, 2}


@pytest.mark.parametrize("size", [(20, 300), (64, 64), (400, 150)])
def test_folder_images_of_any_size_give_views(tmp_path: Path, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    views = FolderViews([write(tmp_path / "grey.png", image)], 2, 64, seed=0)
    shorter = min(views.images[0].shape[:2])
    assert 64 <= shorter <= 128
    assert views[1][0].shape == (3, 64, 64)
    # A grey image stays grey: its planes are alike but for rounding.
    planes = views[1][0].int()
    assert (planes[0] - planes[1]).abs().max() <= 1


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"broken\.png"):
        FolderViews([path], 2, 64, seed=0)


def test_views_vary_in_brightness_and_crop_but_stay_in_range() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[:, :50] = 180
    shares, means = [], []
    for index in range(30):
        pixels = view(image, 32, np.random.default_rng(index)).float()
        shares.append((pixels[0] > pixels[0].mean()).float().mean().item())
        means.append(pixels.mean().item())
    assert max(shares) - min(shares) > 0.3
    assert max(means) - min(means) > 20
