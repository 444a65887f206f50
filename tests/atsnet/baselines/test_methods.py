from small_frames import GEOMETRY, make_trunk

from atsnet.baselines.methods import METHODS


def test_every_method_makes_a_detector() -> None:
    assert list(METHODS) == ["mkd", "stfpm", "patchcore", "padim"]
    for make in METHODS.values():
        detector = make(make_trunk(), GEOMETRY, seed=3)
        assert {"fit", "score", "size"} <= set(dir(detector))
