import numpy as np
import pytest
import torch

from atsnet.network.backbone import SCALE_STRIDES
from atsnet.pretraining.formulas import TILE, texture_bank
from atsnet.pretraining.scenes import MARKS, Scene, SceneDataset, labels_at, render_scene

CLASSES = 5


@pytest.fixture(scope="module")
def scenes() -> SceneDataset:
    return SceneDataset(40, 64, CLASSES, seed=2, tiles=1)


def test_an_item_is_an_image_and_its_labels_at_the_scales(scenes: SceneDataset) -> None:
    image, labels = scenes[0]
    assert image.dtype == torch.uint8
    assert image.shape == (3, 64, 64)
    assert [tuple(label.shape) for label in labels] == [(64 // stride, 64 // stride) for stride in SCALE_STRIDES]
    assert all(label.dtype == torch.int64 for label in labels)
    assert len(scenes) == 40


def test_a_scene_depends_on_seed_and_index_alone(scenes: SceneDataset) -> None:
    scenes[5]
    image, labels = scenes[3]
    other = SceneDataset(10, 64, CLASSES, seed=2, tiles=1)
    again, labels_again = other[3]
    assert torch.equal(image, again)
    assert all(torch.equal(a, b) for a, b in zip(labels, labels_again, strict=True))
    assert not torch.equal(scenes[4][0], image)
    other.seed = 9
    assert not torch.equal(other[3][0], image)


def test_labels_cover_textures_and_marks(scenes: SceneDataset) -> None:
    seen = {int(v) for index in range(len(scenes)) for v in scenes[index][1][0].unique()}
    assert min(seen) >= 0
    assert max(seen) < CLASSES + len(MARKS)
    assert set(range(CLASSES)) <= seen
    assert len([label for label in seen if label >= CLASSES]) > len(MARKS) / 2


def test_a_cell_with_a_mark_has_the_marks_label_and_others_that_of_their_middle() -> None:
    labels = np.zeros((16, 16), np.int64)
    labels[:, 8:] = 2
    labels[0, 0] = 4  # not at a cell's middle
    marks = np.full((16, 16), -1, np.int64)
    marks[15, 3] = 0
    marks[4, 12], marks[5, 13] = 1, 3
    scene = Scene(np.zeros((16, 16, 3), np.uint8), labels, marks)
    assert labels_at(scene, 8, classes=10).tolist() == [[0, 13], [10, 2]]
    fine = labels_at(scene, 4, classes=10)
    assert fine.tolist() == [[0, 0, 2, 2], [0, 0, 2, 13], [0, 0, 2, 2], [10, 0, 2, 2]]
    assert fine.dtype == np.int64


def test_marks_are_seen_in_the_picture() -> None:
    """Of two scenes that differ in their marks only, the pictures differ there most."""
    flat = np.full((CLASSES, 1, TILE, TILE), 128, np.uint8)
    inside, outside = [], []
    for index in range(30):
        scene = render_scene(flat, 64, np.random.default_rng((1, index)))
        where = (scene.marks >= 0) & (scene.labels == scene.labels[0, 0])
        around = (scene.marks < 0) & (scene.labels == scene.labels[0, 0])
        if where.sum() > 3 and around.sum() > 50:
            grey = scene.image.astype(float).mean(axis=2)
            level = np.median(grey[around])
            inside.append(np.abs(grey[where] - level).mean())
            outside.append(np.abs(grey[around] - level).mean())
    assert len(inside) > 5
    assert np.mean(inside) > 1.5 * np.mean(outside)


def test_regions_are_drawn_with_the_texture_that_their_label_names() -> None:
    """A bank of one dark-edged texture among flat ones: only its regions may vary."""
    bank = np.full((CLASSES, 1, TILE, TILE), 128, np.uint8)
    bank[3] = texture_bank(1, 1, seed=0)[0]
    textured, plain = [], []
    for index in range(40):
        scene = render_scene(bank, 64, np.random.default_rng((2, index)))
        step = np.abs(np.diff(scene.image.astype(float).mean(axis=2), axis=1))
        same = (scene.labels[:, 1:] == scene.labels[:, :-1]) & (scene.marks[:, 1:] < 0) & (scene.marks[:, :-1] < 0)
        for kind, chosen in ((textured, scene.labels[:, 1:] == 3), (plain, scene.labels[:, 1:] != 3)):
            if (same & chosen).sum() > 200:
                kind.append(step[same & chosen].mean())
    assert np.median(textured) > 1.2 * np.median(plain)
