"""The two ways of `atsnet inspect` to a verdict: a service over HTTP, or a bundle in this process."""

import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict

from service.client import InspectionClient, ProblemError, Retries, Tls
from service.picture import measure
from service.preparation import prepare
from service.recipes import default_recipe
from service.reply import Region
from service.submission import elapsed_ms
from service.verdict import NotFiniteError, find_regions, judge

if TYPE_CHECKING:
    from model_export.bundle import Bundle
    from service.runtimes.protocol import Runtime

_OF_THE_IMAGE: Final = frozenset({10, 11, 12, 41, 50})
"""Codes of the contract after which the next image may fare better; the others refuse every image alike."""
_PATIENCE: Final = Retries(most=5)
"""Whoever sits at a terminal wants to know soon that there is no service."""


class Inspected(BaseModel):
    """What became of one file."""

    model_config = ConfigDict(frozen=True)

    file: str
    verdict: Literal["pass", "review", "fail", "not_evaluated"]
    score: float | None = None
    """Calibrated; 1.0 is the shipped threshold."""
    threshold: float | None = None
    regions: tuple[Region, ...] = ()
    ms: float | None = None
    """As the service says it, or from reading to verdict in this process."""
    model: str | None = None
    """`name/version` of the bundle."""
    id: str | None = None
    """Of the service's record; none without a service."""
    overlay: str | None = None
    """Picture that was written, where one was asked for."""
    error: str | None = None
    """Why there is no verdict."""


class Inspector(Protocol):
    """Judges one image file's bytes; an image that cannot be judged is `not_evaluated`, with the reason."""

    def inspect(self, file: str, image: bytes, *, overlay: bool) -> tuple[Inspected, bytes | None]:
        """What became of it, and the overlay picture (PNG) if asked for.

        Raises:
            ServiceError: There is no service, or it would refuse every image.
        """


class ServiceInspector:
    """Posts images to a service."""

    def __init__(
        self,
        url: str,
        *,
        recipe: str | None,
        station: str | None,
        lot: str | None,
        api_key: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._client = InspectionClient(url, retries=_PATIENCE, api_key=api_key, tls=tls or Tls())
        self._recipe, self._station, self._lot = recipe, station, lot

    def inspect(self, file: str, image: bytes, *, overlay: bool) -> tuple[Inspected, bytes | None]:
        """See `Inspector`."""
        heatmap: Literal["overlay", "none"] = "overlay" if overlay else "none"
        try:
            verdict = self._client.inspect(
                image, recipe=self._recipe, station=self._station, lot=self._lot, heatmap=heatmap
            )
        except ProblemError as error:
            if error.code in _OF_THE_IMAGE:
                return Inspected(file=file, verdict="not_evaluated", error=str(error)), None
            raise
        inspected = Inspected(
            file=file,
            verdict=verdict.verdict,
            score=verdict.score,
            threshold=verdict.threshold,
            regions=verdict.regions,
            ms=verdict.ms,
            model=f"{verdict.model}/{verdict.model_version}",
            id=verdict.id,
        )
        return inspected, verdict.picture

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


class LocalInspector:
    """Runs a bundle in this process, with the service's own runtime and verdict; nothing is recorded."""

    def __init__(self, bundle: "Bundle", runtime: "Runtime") -> None:
        self._bundle, self._runtime = bundle, runtime
        self._recipe = default_recipe(bundle.manifest)

    def inspect(self, file: str, image: bytes, *, overlay: bool) -> tuple[Inspected, bytes | None]:
        """See `Inspector`."""
        import numpy as np

        from atsnet.imaging import ImageError
        from atsnet.limits import DEFAULT_MAX_PIXELS
        from service.heatmap import overlay_png

        manifest, arrival = self._bundle.manifest, time.monotonic()
        try:
            measured = measure(image, None, DEFAULT_MAX_PIXELS)
            prepared = prepare(measured, self._recipe, manifest.input)
            scores, maps = self._runtime.run(prepared.frame.pixels[np.newaxis])
            judgement = judge(float(scores[0]), manifest.calibration.score_threshold, self._recipe)
            regions = find_regions(maps[0], prepared.frame.placement, manifest.input)
        except (ImageError, NotFiniteError) as error:
            return Inspected(file=file, verdict="not_evaluated", error=str(error)), None
        inspected = Inspected(
            file=file,
            verdict=judgement.verdict,
            score=judgement.score,
            threshold=self._recipe.threshold,
            regions=regions,
            ms=elapsed_ms(arrival),
            model=f"{manifest.name}/{manifest.version}",
        )
        picture = overlay_png(measured.decode(), maps[0], prepared.frame.placement, manifest.input) if overlay else None
        return inspected, picture

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runtime.close()


def open_bundle(path: Path) -> LocalInspector:
    """Load and verify a bundle, and inspect its golden samples, as the service does when it starts.

    Raises:
        BundleError: It is missing, incomplete or altered.
        RuntimeUnusableError: ONNX Runtime cannot run it.
        SelfTestError: It does not answer as it was validated.
    """
    from model_export.bundle import load_bundle
    from service.runtimes.onnx import OnnxCpuRuntime
    from service.self_test import run_self_test

    bundle = load_bundle(path)
    runtime = OnnxCpuRuntime(sessions=1)
    runtime.load(bundle)
    run_self_test(bundle, runtime)
    return LocalInspector(bundle, runtime)
