from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_training import BACKBONE, make_network, small_config

from atsnet.config import Config
from atsnet.imaging import Placement, Roi
from atsnet.training import history, training_report
from atsnet.training.history import HISTORY_NAME, Event, HistoryRecorder
from atsnet.training.loss_chart import draw_losses
from atsnet.training.run_directory import DataSource, RunRecord, TrainedRun
from atsnet.training.training_report import HTML_NAME, MARKDOWN_NAME, write_training_report

CPU = torch.device("cpu")
STAGES = {
    "stage 1 (teacher)": ("stage1 1/4",),
    "stage 2 (student)": ("stage2 1/4", "stage2 1/8"),
    "stage 3 (evidence head)": ("stage3 evidence",),
}
IN_FULL = Placement(Roi(x=0, y=0, width=64, height=64), 0, 0, 64, 64)

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Report on a run of 100 images; returns the Markdown without its escapes."""
    network = make_network(small_config())

    def report(*, config: Config | None = None, held_out: int = 20, placement: Placement = IN_FULL) -> str:
        names = [f"{number}.png" for number in range(100 + held_out)]
        data = DataSource(
            layout="folder",
            root="grains",
            train_images=tuple(names[held_out:]),
            holdout_images=tuple(names[:held_out]),
            sha256="1" * 64,
        )
        record = RunRecord(
            atsnet_version="0.1", torch_version="2", backbone=BACKBONE, data=data, losses={}, seconds=1.0
        )
        run = TrainedRun(tmp_path, network, config or Config(), record)
        write_training_report(run, Path("data/my grains"), [placement] * len(names))
        return (tmp_path / MARKDOWN_NAME).read_text().replace("\\", "")

    return report


def record(
    directory: Path, *tasks: tuple[str, int, int], resumed: bool = False, replace: tuple[str, str] | None = None
) -> None:
    """A session whose tasks go from the first of the numbers to the second; of a stage, the loss is the step's."""
    recorder = HistoryRecorder(directory, CPU, resumed=resumed)
    for task, first, last in tasks:
        for step in range(first, last + 1):
            recorder.losses = lambda step=step, task=task: dict.fromkeys(STAGES.get(task, ()), 1 / step)
            recorder(task, step, last, {"loss": 1.0} if task in STAGES else None)
    if replace:
        path = directory / HISTORY_NAME
        path.write_text(path.read_text().replace(*replace))


def test_what_was_trained_is_in_the_report(tmp_path: Path, write: Write) -> None:
    record(tmp_path, ("stage 1 (teacher)", 1, 3), ("stage 2 (student)", 1, 4), ("stage 3 (evidence head)", 1, 5))
    text = write()
    for line in (
        f"# Training of {tmp_path.name}",
        "| images | grains (a plain folder): 100 good images |",
        "| trunk | random, none |",
        "| frames | 256x256 rgb, of images of 64x64 |",
        *(
            f"| {stage} | {steps} steps of {Config().training.batch_size} images |"
            for stage, steps in zip(STAGES, (3, 4, 5), strict=True)
        ),
        "| versions | atsnet 0.1, PyTorch 2 |",
        "| stage 1 (teacher) | 1/4 | 1 (step 1) | 0.5 (step 2) | 0.3333 (step 3) |",
        "| stage 2 (student) | 1/8 | 1 (step 1) | 0.5 (step 2) | 0.25 (step 4) |",
        "| stage 3 (evidence head) | evidence | 1 (step 1) | 0.3333 (step 3) | 0.2 (step 5) |",
    ):
        assert line in text
    assert "resumed" not in text
    assert "![Moving means of the loss terms, over about 20 steps.](losses.png)" in text
    page = (tmp_path / HTML_NAME).read_text()
    assert "100 good images" in page
    assert 'src="data:image/png;base64,' in page


@pytest.mark.parametrize(
    ("held_out", "rate", "said"),
    [
        (34, 0.01, ("34 held-out images: a threshold of 1.00% false rejects needs 199", "can promise 5.71%")),
        (199, 0.01, ("199 held-out images: enough for a threshold of 1.00% false rejects, which takes 199",)),
        (34, 0.1, ("34 held-out images: enough for a threshold of 10.00% false rejects, which takes 19",)),
        (1, 0.01, ("1 held-out image: a threshold", "these are too few for any, 3 the least")),
    ],
)
def test_too_few_held_out_images_are_pointed_out(write: Write, held_out: int, rate: float, said: tuple[str]) -> None:
    config = Config.model_validate({"calibration": {"target_false_reject_rate": rate}})
    text = write(config=config, held_out=held_out)
    for part in said:
        assert part in text


def test_the_next_command_can_be_copied(tmp_path: Path, write: Write) -> None:
    assert f"Next, the threshold: atsnet calibrate {tmp_path} 'data/my grains'\n" in write()


def test_images_that_are_shrunk_much_are_pointed_out(write: Write) -> None:
    large = Placement(Roi(x=0, y=0, width=1280, height=640), 0, 64, 256, 128)
    assert "A pixel of a frame is 5.0 pixels of an image wide" in write(placement=large)
    assert "A pixel of a frame is" not in write()


def test_only_keys_that_differ_from_their_defaults_are_listed(write: Write) -> None:
    assert "Every key has its default." in write()
    config = Config.model_validate({"input": {"color": "mono"}, "training": {"stage2_steps": 7}})
    text = write(config=config)
    table = text[text.index("## Configuration") : text.index("## Time")]
    assert [line for line in table.splitlines() if line.startswith("|")] == [
        "| key | value | default |",
        "| --- | --- | --- |",
        "| input.color | mono | rgb |",
        f"| training.stage2_steps | 7 | {Config().training.stage2_steps} |",
    ]


def test_times_are_by_phase_and_tell_the_anomalies_features_from_the_images(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10_000))
    monkeypatch.setattr(history, "monotonic", lambda: float(next(ticks)))  # a second an event, and one to begin
    tasks = (
        ("loading images", 1, 2),
        ("features of the trunk", 1, 10),
        ("stage 1 (teacher)", 1, 3),
        ("gathering prototypes", 1, 2),
        ("choosing prototypes", 1, 2),
        ("nearest prototypes", 1, 10),
        ("stage 2 (student)", 1, 4),
        ("features of the trunk", 1, 10),
        ("nearest prototypes", 1, 10),
        ("stage 3 (evidence head)", 1, 5),
        ("fitting channel weights", 1, 1),
        ("fitting quantiles", 1, 1),
        ("polishing", 1, 2),  # nobody knows it yet
    )
    record(tmp_path, *tasks)
    text = write()
    rows = text[text.index("| phase |") :].split("\n\n")[0].splitlines()[2:]
    assert [tuple(cell.strip() for cell in row.split("|")[1:3]) for row in rows] == [
        ("loading images", "2.0 s"),
        ("training images: features of the trunk", "2.0 s"),
        ("stage 1 (teacher)", "3.0 s"),
        ("filling the memory", "4.0 s"),
        ("training images: nearest prototypes", "2.0 s"),
        ("stage 2 (student)", "4.0 s"),
        ("synthetic anomalies: pasting, features of the trunk, nearest prototypes", "4.0 s"),
        ("stage 3 (evidence head)", "5.0 s"),
        ("fitting the anomaly map", "2.0 s"),
        ("polishing", "2.0 s"),
        ("in all", "30.0 s"),
    ]
    # Without a cache, the anomalies' features are the only ones.
    record(tmp_path, ("loading images", 1, 2), ("stage 1 (teacher)", 1, 3), ("features of the trunk", 1, 10))
    assert "training images" not in write()


def test_a_resumed_run_says_so_and_covers_both_sessions(tmp_path: Path, write: Write) -> None:
    record(tmp_path, ("stage 1 (teacher)", 1, 3), ("stage 2 (student)", 1, 3))
    record(tmp_path, ("stage 2 (student)", 3, 6), resumed=True)
    text = write()
    assert "UTC and went on with step 3 of stage 2 (student)." in text
    assert "Dotted: where training was resumed." in text
    assert "All sessions together." in text
    assert "| 2 sessions |" in text
    assert "| stage 2 (student) | 1/4 | 1 (step 1) | 0.3333 (step 3) | 0.1667 (step 6) |" in text
    assert "| stage 1 (teacher) | 1/4 | 1 (step 1) |" in text
    assert "other bits" not in text


def test_a_run_that_was_resumed_in_its_last_stage_prepares_the_anomalies_anew(tmp_path: Path, write: Write) -> None:
    """The features of images and anomalies are computed again, and told from each other, in every session."""
    prepared = [("loading images", 1, 2), ("features of the trunk", 1, 10), ("gathering prototypes", 1, 2)]
    looked_up, anomalies = ("nearest prototypes", 1, 10), ("features of the trunk", 1, 10)
    first = (("stage 1 (teacher)", 1, 3), looked_up, ("stage 2 (student)", 1, 4), anomalies, looked_up)
    record(tmp_path, *prepared, *first, ("stage 3 (evidence head)", 1, 3))
    record(tmp_path, *prepared, looked_up, anomalies, looked_up, ("stage 3 (evidence head)", 4, 6), resumed=True)
    text = write()
    assert "went on with step 4 of stage 3 (evidence head)." in text
    assert "| stage 3 (evidence head) | evidence | 1 (step 1) | 0.3333 (step 3) | 0.1667 (step 6) |" in text
    for phase in (
        "training images: features of the trunk",
        "training images: nearest prototypes",
        "synthetic anomalies: pasting, features of the trunk, nearest prototypes",
    ):
        assert text.count(f"| {phase} |") == 1


def test_a_stage_that_a_resumed_run_began_was_not_interrupted(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def draw(path: Path, curves: dict[str, list[Event]], resumed: dict[str, list[int]]) -> None:
        drawn.append(resumed)
        draw_losses(path, curves, resumed)

    monkeypatch.setattr(training_report, "draw_losses", draw)
    record(tmp_path, ("stage 1 (teacher)", 1, 3))
    record(tmp_path, ("stage 1 (teacher)", 3, 5), ("stage 2 (student)", 1, 4), resumed=True)
    write()
    assert drawn == [{"stage 1 (teacher)": [3], "stage 2 (student)": []}]


def test_sessions_on_different_machines_are_pointed_out(tmp_path: Path, write: Write) -> None:
    record(tmp_path, ("stage 1 (teacher)", 1, 3), replace=('"device":"CPU', '"device":"Abacus'))
    record(tmp_path, ("stage 1 (teacher)", 4, 6), resumed=True)
    text = write()
    assert "Its sessions had different devices (Abacus" in text
    assert "different versions" not in text


@pytest.mark.parametrize("resumed", [True, False])
def test_what_is_not_known_is_said_to_be_so(tmp_path: Path, write: Write, resumed: bool) -> None:
    if resumed:
        record(tmp_path, ("stage 2 (student)", 4, 6), resumed=True)
    text = write()
    assert "The run was begun without a history" in text
    assert ("Not known." in text) is not resumed


def test_the_chart_has_a_curve_for_each_term(tmp_path: Path, write: Write) -> None:
    record(tmp_path, *((stage, 1, 30) for stage in STAGES))
    write()
    picture = cv2.imread(str(tmp_path / "losses.png"))
    assert picture is not None
    blue = (picture[..., 0].astype(int) - picture[..., 2]) > 100
    drawn = [[bool(part.sum() > 200) for part in np.array_split(row, 2, axis=1)] for row in np.array_split(blue, 3)]
    assert drawn == [[True, False], [True, True], [True, False]]
