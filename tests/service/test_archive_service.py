"""The archive behind the service, in both of its forms."""

from collections.abc import Iterator

import pytest
from serving import DEFECTIVE, GOOD, Line, running, wait_until

from service.runtimes.fake import FakeRuntime
from service.settings import Settings


@pytest.fixture
def choosy(settings: Settings, runtime: FakeRuntime, apart: bool) -> Iterator[Line]:
    with running(settings.model_copy(update={"archive_pass_share": 0.0}), runtime, apart=apart) as line:
        yield line


def test_pass_that_is_no_sample_is_recorded_and_not_kept(choosy: Line) -> None:
    passed, failed = (choosy.post(image).json() for image in (GOOD, DEFECTIVE))
    assert (passed["verdict"], failed["verdict"]) == ("pass", "fail")
    assert [choosy.http.get(f"/v1/inspections/{one['id']}").json()["kept"] for one in (passed, failed)] == [False, True]
    assert choosy.http.get(f"/v1/inspections/{passed['id']}/image").status_code == 404
    assert choosy.http.get(f"/v1/inspections/{failed['id']}/image").content == DEFECTIVE


def test_image_of_an_error_is_kept_and_has_no_pictures(line: Line, runtime: FakeRuntime) -> None:
    runtime.fail_next(RuntimeError("out of order"))
    refusal = line.post(GOOD).json()
    assert (refusal["code"], refusal["result"]) == (50, 3)
    url = f"/v1/inspections/{refusal['id']}"
    assert line.http.get(url).json()["kept"]
    assert line.http.get(f"{url}/image").content == GOOD
    for picture in ("heatmap.png", "overlay.png"):
        response = line.http.get(f"{url}/{picture}")
        assert (response.status_code, response.json()["code"]) == (404, 20)


def test_pictures_are_made_again_from_what_is_on_disk(settings: Settings, runtime: FakeRuntime) -> None:
    with running(settings, runtime) as line:
        reply = line.post(DEFECTIVE).json()
        url = f"/v1/inspections/{reply['id']}"
        wait_until(lambda: list((settings.var / "archive").rglob("*.png")))
        line.station.equipment.archive.close()
        pictures = [line.http.get(f"{url}/{name}").content for name in ("heatmap.png", "overlay.png")]
    with running(settings, FakeRuntime()) as line:
        again = [line.http.get(f"{url}/{name}").content for name in ("heatmap.png", "overlay.png")]
        next((settings.var / "archive").rglob("*.npy")).unlink()
        assert line.http.get(f"{url}/overlay.png").status_code == 404
    assert pictures == again
    assert pictures[0].startswith(b"\x89PNG")
