"""What does the drift monitoring find, how soon, and how often is it wrong? Simulated inspections.

    python -m benchmarks.drift_study false-alarms     # run lengths without a change, against what was set
    python -m benchmarks.drift_study delays           # inspections until a change is found, by test
    python -m benchmarks.drift_study stability        # the stability index without a change, and its limits
    python -m benchmarks.drift_study lots             # parts of a lot that are alike: what the promise does not cover
    python -m benchmarks.drift_study sharpness DIR    # measures of sharpness, on the good images below DIR
    python -m benchmarks.drift_study images DIR       # a darker lamp, a lens out of focus: the same images, spoilt
    python -m benchmarks.drift_study cost             # CPU time of an observation, and of measuring a frame

Every run draws a calibration of its own: what is shown is the mean over calibrations as well as over inspections.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from atsnet.data.layout import DataError
from atsnet.imaging import IMAGE_SUFFIXES, Color, InputGeometry, UInt8Array, read_image, to_frame
from atsnet.quality import measure
from atsnet.reference import Reference, gaps
from benchmarks.program import run_program
from service.monitoring.drift import LOOKS_PER_WINDOW, DriftEvent, DriftMonitor, DriftSettings
from service.monitoring.sequential import ChangeDetector
from service.monitoring.stability import StabilityWindow, psi_limit

Values = NDArray[np.float64]
Draw = Callable[[int, np.random.Generator], Values]
"""So many values of a quantity."""
CHUNK = 1000

DISTRIBUTIONS: dict[str, Draw] = {
    "normal": lambda count, rng: rng.normal(size=count),
    "log-normal": lambda count, rng: rng.lognormal(0, 0.5, count),
    "five levels": lambda count, rng: np.round(rng.normal(size=count)),
}
CHANGES: dict[str, Callable[[Values], Values]] = {
    "none": lambda values: values,
    "mean + 0.25 sigma": lambda values: values + 0.25,
    "mean + 0.5 sigma": lambda values: values + 0.5,
    "mean - 0.5 sigma": lambda values: values - 0.5,
    "mean + 1 sigma": lambda values: values + 1,
    "mean + 2 sigma": lambda values: values + 2,
    "spread x 1.5": lambda values: values * 1.5,
    "spread x 0.5": lambda values: values * 0.5,
    "ramp, 1 sigma in 10,000": lambda values: values + np.arange(len(values)) / 10_000,
    "defects in 2 of 100": lambda values: _with_defects(values, 0.02),
    "defects in 5 of 100": lambda values: _with_defects(values, 0.05),
    "defects in 10 of 100": lambda values: _with_defects(values, 0.1),
    "always the same value": lambda values: np.full_like(values, 0.3),
}


def _with_defects(values: Values, share: float) -> Values:
    """Scores above all others, evenly strewn (multiples of the golden ratio)."""
    return np.where(np.arange(len(values)) * 0.6180339887 % 1 < share, 10, values)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=["false-alarms", "delays", "stability", "lots", "sharpness", "images", "cost"])
    parser.add_argument("images", type=Path, nargs="?", help="for sharpness and images: a folder of good images")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--set", type=int, default=10_000, help="inspections per false alarm; false-alarms and lots")
    parser.add_argument("--tolerance", type=float, default=DriftSettings().tolerance)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.process_time()
    match options.table:
        case "false-alarms":
            _print_false_alarms(options.runs, _settings(options), options.seed)
        case "delays":
            _print_delays(options.runs, DriftSettings(tolerance=options.tolerance), options.seed)
        case "stability":
            _print_stability(options.runs * 1000, options.seed)
        case "lots":
            _print_lots(options.runs, _settings(options), options.seed)
        case "cost":
            _print_cost(options.seed)
        case "sharpness" | "images" if options.images is None:
            parser.error(f"{options.table} needs a folder of images")
        case "sharpness":
            _print_sharpness(options.images, options.runs, options.seed)
        case "images":
            _print_images(options.images, options.runs, DriftSettings(tolerance=options.tolerance), options.seed)
    print(f"\n{options.runs} runs, seed {options.seed}, {time.process_time() - started:.0f} s of CPU")


def _settings(options: argparse.Namespace) -> DriftSettings:
    return DriftSettings(inspections_per_false_alarm=options.set, tolerance=options.tolerance)


def _describe(settings: DriftSettings) -> str:
    return (
        f"Set: one false alarm in {settings.inspections_per_false_alarm:,} inspections, tolerance "
        f"{settings.tolerance:g} sigma, window {settings.window}."
    )


def _print_false_alarms(runs: int, settings: DriftSettings, seed: int) -> None:
    print(f"{_describe(settings)} Runs end at {10 * settings.inspections_per_false_alarm:,}.\n")
    print("| values | calibrated on | mean run | first alarm before a tenth | sequential | stability | none |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, draw in DISTRIBUTIONS.items():
        for images in (50, 114, 200, 1000):
            lengths, tests = _run_lengths(draw, draw, images, settings, runs, seed)
            _print_run_lengths(f"{name} | {images}", lengths, tests, settings)


def _print_lots(runs: int, settings: DriftSettings, seed: int) -> None:
    print(f"{_describe(settings)} 200 parts a lot, calibrated on 200 parts of 10 lots.\n")
    print("| spread between lots | calibrated on | mean run | before a tenth | sequential | stability | none |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for spread in (0.0, 0.1, 0.2, 0.3, 0.5):

        def lots(count: int, rng: np.random.Generator, size: int, spread: float = spread) -> Values:
            return np.repeat(rng.normal(0, spread, -(-count // size)), size)[:count] + rng.normal(size=count)

        def calibration(count: int, rng: np.random.Generator, lots: Callable[..., Values] = lots) -> Values:
            return lots(count, rng, 20)

        def production(count: int, rng: np.random.Generator, lots: Callable[..., Values] = lots) -> Values:
            return lots(count, rng, 200)

        lengths, tests = _run_lengths(calibration, production, 200, settings, runs, seed)
        _print_run_lengths(f"{spread:g} sigma | 200", lengths, tests, settings)


def _run_lengths(
    calibration: Draw, production: Draw, images: int, settings: DriftSettings, runs: int, seed: int
) -> tuple[Values, list[str]]:
    """Inspections until the first alarm of a monitor of three quantities, and which test raised it."""
    lengths = list[int]()
    tests = list[str]()
    for rng in _generators(runs, seed):
        reference = Reference.of(*(calibration(images, rng) for _ in range(3)), seed=int(rng.integers(2**32)))
        alarms: list[DriftEvent] = []
        monitor = DriftMonitor("a", "1", reference, settings, alarms.append)
        done = 0
        while not alarms and done < 10 * settings.inspections_per_false_alarm:
            for values in zip(*(production(CHUNK, rng).tolist() for _ in range(3)), strict=True):
                monitor.observe(*values)
                done += 1
                if alarms:
                    break
        lengths.append(done)
        tests.append(alarms[0].alarm.test if alarms else "none")
    return np.array(lengths, np.float64), tests


def _print_run_lengths(name: str, lengths: Values, tests: list[str], settings: DriftSettings) -> None:
    error = lengths.std(ddof=1) / np.sqrt(len(lengths))
    found = " | ".join(f"{tests.count(test) / len(tests):.0%}" for test in ("sequential", "stability", "none"))
    early = (lengths < settings.inspections_per_false_alarm / 10).mean()
    print(f"| {name} | {lengths.mean():,.0f} ± {error:,.0f} | {early:.1%} | {found} |", flush=True)


def _print_delays(runs: int, settings: DriftSettings, seed: int) -> None:
    print(
        f"{_describe(settings)} Median delay (and the delay of nine tenths) in inspections; 'never' is not within "
        "20,000.\n"
    )
    print("| change | calibrated on | unchanged before | sequential | stability | the first of both |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, change in CHANGES.items():
        for images, before in ((114, 0), (200, 0), (200, 5000), (1000, 0)):
            found = np.array([_delay(change, images, before, rng, settings) for rng in _generators(runs, seed)])
            columns = " | ".join(_delays(column) for column in (found[:, 0], found[:, 1], found.min(axis=1)))
            print(f"| {name} | {images} | {before:,} | {columns} |", flush=True)


def _delay(
    change: Callable[[Values], Values], images: int, before: int, rng: np.random.Generator, settings: DriftSettings
) -> tuple[float, float]:
    """Inspections from the change until each test of one quantity finds it; infinite after 20,000, or before it."""
    values = rng.normal(size=images)
    edges, masses = Reference.of(values, values, values).score, gaps(images)
    inspections, step = 6 * settings.inspections_per_false_alarm, settings.window // LOOKS_PER_WINDOW
    limit = psi_limit(len(masses), images, settings.window, step / inspections, settings.tolerance)
    detector, window = ChangeDetector(masses, settings.tolerance), StabilityWindow(masses, settings.window)
    sequential = stability = np.inf
    stream = np.concatenate([rng.normal(size=before), change(rng.normal(size=20_000))])
    for number, value in enumerate(stream.tolist(), 1 - before):
        index = edges.bin(value)
        window.add(index)
        if sequential == np.inf and detector.update(index) >= inspections:
            sequential = number
        if stability == np.inf and number % step == 0 and (window.psi() or 0.0) > limit:
            stability = number
        if sequential < np.inf and stability < np.inf:
            break
    return sequential if sequential > 0 else np.inf, stability if stability > 0 else np.inf


def _delays(delays: Values) -> str:
    median, most = (np.quantile(delays, share, method="higher") for share in (0.5, 0.9))
    never = f", never {np.isinf(delays).mean():.0%}" if np.isinf(delays).any() else ""
    return f"{median:,.0f} ({most:,.0f}{never})".replace("inf", "-")


def _print_stability(draws: int, seed: int) -> None:
    print(
        "| calibrated on | bins | window | mean PSI | expected | above 0.1 | above 0.25 | limit for 0.1 % | above it "
        "| for 0.01 % | above it |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    rng = np.random.default_rng(seed)
    for images in (50, 114, 200, 1000):
        masses = np.array(gaps(images))
        bins, shares = len(masses), masses / masses.sum()
        for window in (200, 500, 2000):
            chances = rng.dirichlet(masses, draws)
            found = (rng.multinomial(window, chances) + 0.5) / (window + bins / 2)
            index = ((found - shares) * np.log(found / shares)).sum(axis=1)
            limits = " | ".join(
                f"{(limit := psi_limit(bins, images, window, rate)):.3f} | {(index > limit).mean():.3%}"
                for rate in (1e-3, 1e-4)
            )
            expected = (bins - 1) * (1 / images + 1 / window)
            print(
                f"| {images} | {bins} | {window} | {index.mean():.3f} | {expected:.3f} | {(index > 0.1).mean():.1%} | "
                f"{(index > 0.25).mean():.1%} | {limits} |",
                flush=True,
            )


def _print_images(root: Path, runs: int, settings: DriftSettings, seed: int) -> None:
    """Half of the images calibrate, the other half are inspected: a third of them as they are, the rest spoilt."""
    images, geometry, rng = _images(root), InputGeometry(color="mono"), np.random.default_rng(seed)
    print(
        f"{_describe(settings)} {len(images)} images, half of them to calibrate on, a third of the others unspoilt.\n"
    )
    print("| spoilt | brightness found in | sharpness found in | median delay, brightness | sharpness |")
    print("| --- | ---: | ---: | ---: | ---: |")
    good = np.array([measure(to_frame(image, geometry).pixels)[:3:2] for image in images])
    for name, spoil in SPOILT.items():
        spoilt = np.array([measure(to_frame(spoil(image), geometry).pixels)[:3:2] for image in images])
        found: dict[str, list[int]] = {"brightness": [], "sharpness": []}
        for _ in range(runs):
            order = rng.permutation(len(images))
            calibrate, inspect = order[: len(order) // 2], order[len(order) // 2 :]
            before = len(inspect) // 3
            events: list[DriftEvent] = []
            monitor = DriftMonitor(
                "a", "1", Reference.of(good[calibrate, 0], *good[calibrate].T), settings, events.append
            )
            for values in np.concatenate([good[inspect[:before]], spoilt[inspect[before:]]]).tolist():
                monitor.observe(values[0], *values)
            for event in events:
                if event.quantity != "score" and event.kind == "drifted":
                    found[event.quantity].append(event.alarm.observation - before)
        shares = " | ".join(f"{len(delays) / runs:.0%}" for delays in found.values())
        medians = " | ".join(f"{np.median(delays):.0f}" if delays else "-" for delays in found.values())
        print(f"| {name} | {shares} | {medians} |", flush=True)


def _images(root: Path) -> list[UInt8Array]:
    images = [read_image(path) for path in sorted(root.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise DataError(f"there is no image below {root}")
    return images


def _blurred(image: UInt8Array, share: float) -> UInt8Array:
    """Out of focus by a share of the longer side."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), share * max(image.shape[:2])), np.uint8)


SPOILT: dict[str, Callable[[UInt8Array], UInt8Array]] = {
    "not at all": lambda image: image,
    "lamp 5 % darker": lambda image: (image * 0.95).astype(np.uint8),
    "lamp 10 % darker": lambda image: (image * 0.9).astype(np.uint8),
    "lamp 20 % darker": lambda image: (image * 0.8).astype(np.uint8),
    "blur of 0.2 % of the side": lambda image: _blurred(image, 0.002),
    "blur of 0.4 % of the side": lambda image: _blurred(image, 0.004),
    "blur of 0.8 % of the side": lambda image: _blurred(image, 0.008),
}


def _print_sharpness(root: Path, most: int, seed: int) -> None:
    images, geometry = _images(root)[:most], InputGeometry(color="mono")
    print(f"{len(images)} images below {root}. Share of pairs of images in which the blurred one is the less sharp.\n")
    print("| noise, grey values | blur, share of side | squared Laplacian | over variance | the same at 128 pixels |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for noise in (0.0, 2.0, 4.0):
        rng = np.random.default_rng(seed)

        def measured(blur: float, noise: float = noise, rng: np.random.Generator = rng) -> Values:
            return np.array([_sharpness(_worse(image, blur, noise, rng), geometry) for image in images])

        sharp = measured(0.0)
        for blur in (0.003, 0.006, 0.012):
            blurred = measured(blur)
            wins = (sharp[:, None] > blurred[None]).mean(axis=(0, 1))
            print(f"| {noise:g} | {blur:.1%} | " + " | ".join(f"{win:.3f}" for win in wins) + " |", flush=True)


def _worse(image: UInt8Array, blur: float, noise: float, rng: np.random.Generator) -> UInt8Array:
    """Out of focus, and then with a camera's noise: as much in the frame, whatever the resolution."""
    side = max(image.shape[:2])
    blurred = _blurred(image, blur) if blur else image
    return np.clip(blurred + rng.normal(0, noise * side / 256, image.shape), 0, 255).astype(np.uint8)


def _sharpness(image: UInt8Array, geometry: InputGeometry) -> tuple[float, float, float]:
    frame = to_frame(image, geometry)
    place = frame.placement
    grey = frame.pixels[place.top : place.top + place.height, place.left : place.left + place.width, 0]
    squared = float((cv2.Laplacian(np.ascontiguousarray(grey), cv2.CV_32F) ** 2).mean())
    return squared, squared / float(grey.var()), measure(frame.pixels).sharpness


def _print_cost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    monitor = DriftMonitor("a", "1", Reference.of(*rng.normal(size=(3, 200))))
    observations = rng.normal(size=(100_000, 3)).tolist()
    started = time.process_time()
    for values in observations:
        monitor.observe(*values)
    print(f"an observation: {(time.process_time() - started) / len(observations) * 1e6:.1f} us")
    cv2.setNumThreads(1)
    for color in get_args(Color):
        frame = to_frame(rng.integers(0, 256, (480, 640), dtype=np.uint8), InputGeometry(color=color)).pixels
        started = time.process_time()
        for _ in range(5000):
            measure(frame)
        print(f"measuring a {color} frame of 256x256: {(time.process_time() - started) / 5000 * 1e6:.0f} us")


def _generators(number: int, seed: int) -> Iterator[np.random.Generator]:
    return (np.random.default_rng((seed, index)) for index in range(number))


if __name__ == "__main__":
    run_program(main)
