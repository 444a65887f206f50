"""MVTec AD, MVTec AD 2 and BTAD, where training and test images lie apart.

MVTec AD (Bergmann et al., CVPR 2019), and what others converted to it; BTAD (Mishra et al., ISIE 2021) says `ok` and
`ko`, and its masks are called as their images are:

    train/good/000.png
    test/good/000.png
    test/<defect>/000.png
    ground_truth/<defect>/000_mask.png

MVTec AD 2 (Heckler-Kram et al., 2025). Its `validation` images are good ones to learn from, as those of `train`: which
of them are held out is decided by seed, as for every other set. The private test sets have no labels and are left out:

    train/good/000_regular.png
    validation/good/000_regular.png
    test_public/{good,bad}/000_regular.png
    test_public/ground_truth/bad/000_regular_mask.png
"""

from pathlib import Path

from atsnet.data.layout.dataset import GOOD, DataError, Dataset, Layout, Sample
from atsnet.data.layout.folders import below, defect_folders, folders, good_folders, image_suffixes, images_in
from atsnet.data.layout.masks import by_stem, label_images, refuse_masks_of_good, refuse_orphans


def is_split(root: Path) -> bool:
    """Whether a folder says which images are to train on and which to test on."""
    names = {entry.name for entry in folders(root)}
    return "train" in names and bool(names & {"test", "test_public"} or good_folders(root / "train"))


def find_split(root: Path) -> Dataset:
    """The images of such a folder."""
    layout = _layout(root)
    second = layout == "mvtec-ad-2"
    learned_from = [root / "train", *([root / "validation"] if second else [])]
    good = [folder for parent in learned_from for folder in good_folders(parent)] or [root / "train" / GOOD]
    train = tuple(Sample(path, below(root, path)) for folder in good for path in images_in(folder))
    if not train:
        raise DataError(f"no good images to train on: {good[0]} has no {image_suffixes()} file")
    test_root = root / "test_public" if second else root / "test"
    mask_root = test_root / "ground_truth" if second else root / "ground_truth"
    images = {folder: images_in(folder) for folder in folders(test_root) if folder != mask_root}
    masks = {folder.name: by_stem(folder, images_in(folder)) for folder in defect_folders(mask_root)}
    test = [
        sample for folder in images for sample in label_images(root, folder, images[folder], masks.get(folder.name, {}))
    ]
    refuse_masks_of_good(mask_root)
    refuse_orphans(masks, mask_root, test_root)
    return Dataset(root, layout, train, tuple(test))


def _layout(root: Path) -> Layout:
    if (root / "test_public").is_dir():
        return "mvtec-ad-2"
    return "btad" if (root / "train" / "ok").is_dir() and (root / "test" / "ko").is_dir() else "mvtec"
