import json

import cv2
import numpy as np
import pytest
from conftest import DEFECTIVE, GOOD, SQUARE, Line

KEYS = [
    "v", "trigger", "result", "code", "verdict", "score", "threshold", "ms", "id", "recipe", "recipe_version", "model",
    "model_version", "station", "lot", "serial", "regions", "timing_ms", "replayed",
]  # fmt: skip


def test_reply_has_the_contract_s_keys_in_its_order(line: Line) -> None:
    reply = line.post(DEFECTIVE, {"trigger": 7}).json()
    assert list(reply) == KEYS
    assert list(reply["regions"][0]) == ["x", "y", "width", "height", "area", "peak"]
    assert list(reply["timing_ms"]) == ["decode", "queue", "inference", "record", "total"]


def test_good_part_passes(line: Line) -> None:
    reply = line.post(GOOD).json()
    assert (reply["result"], reply["code"], reply["verdict"], reply["score"]) == (1, 0, "pass", 0.5)
    assert reply["regions"] == []
    assert (reply["recipe"], reply["model"], reply["model_version"]) == ("tec-grain", "tec-grain-demo", "1")
    assert reply["ms"] == reply["timing_ms"]["total"] > 0


def test_defective_part_fails_where_the_defect_is(line: Line) -> None:
    reply = line.post(DEFECTIVE).json()
    assert (reply["result"], reply["verdict"], reply["score"]) == (2, "fail", 1.5625)
    [region] = reply["regions"]
    x, y, width, height = SQUARE
    assert region["peak"] == 1.5625
    # The map has cells of 8 pixels, and enlarging it blurs the square's edge by less than one.
    assert abs(region["x"] - x) <= 8 and abs(region["y"] - y) <= 8
    assert abs(region["width"] - width) <= 16 and abs(region["height"] - height) <= 16
    assert abs(region["area"] - width * height) <= 0.3 * width * height
