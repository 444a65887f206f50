from pathlib import Path

import pytest
from dataset_files import write_samples

from atsnet.data.layout import DataError, Sample, fingerprint


def test_the_fingerprint_is_of_names_and_contents_not_of_places(tmp_path: Path) -> None:
    here, there = write_samples(tmp_path / "here", 3), write_samples(tmp_path / "there", 3)
    first = fingerprint(here)
    assert len(first) == 64
    assert fingerprint(there) == fingerprint(reversed(here)) == first
    assert fingerprint(here[:2]) != first
    renamed = Sample(here[2].path, "other.png")
    assert fingerprint([*here[:2], renamed]) != first
    here[1].path.write_bytes(b"altered")
    assert fingerprint(here) != first


def test_a_fingerprint_lists_every_file_that_is_gone(tmp_path: Path) -> None:
    samples = write_samples(tmp_path, 30)
    for sample in samples[:25]:
        sample.path.unlink()
    with pytest.raises(DataError, match=r"25 files cannot be read") as caught:
        fingerprint(samples)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 20 + 1
    assert lines[-1].strip() == "and 5 more"
    assert str(samples[0].path) in lines[1]
