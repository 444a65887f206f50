"""How often the alert RejectRateJump is wrong, and how soon it is right, by simulation.

    python -m benchmarks.reject_alert_study

Parts come at random at a steady rate, and are rejected at random; the rules of `docker/prometheus/rules` are evaluated
every 15 s as Prometheus does.
"""

import argparse
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.program import run_program

_STEP_S: Final = 15
_HOUR: Final = 3600 // _STEP_S
_SHIFT: Final = 8 * _HOUR
_SHIFTS: Final = 500
_JUMPS: Final = 100

Counts = npt.NDArray[np.int64]


def firing(parts: Counts, rejects: Counts) -> npt.NDArray[np.intp]:
    """The steps at which the alert begins to fire, of counts a step."""
    parts_5m, parts_1h = (_last(parts, span) for span in (_HOUR // 12, _HOUR))
    rejects_5m, rejects_1h = (_last(rejects, span) for span in (_HOUR // 12, _HOUR))
    usual = np.full(len(parts), np.nan)
    offset = _HOUR // 6
    usual[offset:] = np.maximum((rejects_1h / np.maximum(parts_1h, 1))[:-offset], 0.005)
    some = np.maximum(parts_5m, 1)
    over = (rejects_5m / some > usual + 5 * np.sqrt(usual * (1 - usual) / some)) & (parts_5m >= 50)
    # `for: 2m` is eight further evaluations.
    lasting = np.convolve(over, np.ones(9, np.int64))[: len(over)]
    return np.flatnonzero(over & (lasting == 9) & ~np.concatenate([[False], (over & (lasting == 9))[:-1]]))


def _last(counts: Counts, span: int) -> Counts:
    sums = np.cumsum(counts)
    within: Counts = sums - np.concatenate([np.zeros(span, np.int64), sums[:-span]])
    return within


def main() -> None:
    """Print the table of docs/alerts.md."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    random = np.random.default_rng(1)
    print("| parts a second | usual rejects | false alarms | jump to | found within the hour | after, median |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for rate in (0.2, 1.0, 10.0):
        for usual in (0.0, 0.002, 0.01, 0.05):
            parts = random.poisson(rate * _STEP_S, _SHIFTS * _SHIFT)
            false = len(firing(parts, random.binomial(parts, usual)))
            for jump in (3 * usual, 10 * usual) if usual else (0.02, 0.05):
                delays = []
                for _ in range(_JUMPS):
                    parts = random.poisson(rate * _STEP_S, 4 * _HOUR)
                    shares = np.where(np.arange(4 * _HOUR) < 3 * _HOUR, usual, jump)
                    begins = firing(parts, random.binomial(parts, shares)) - 3 * _HOUR
                    delays += [int(begin) for begin in begins[begins >= 0][:1]]
                after = f"{np.median(delays) * _STEP_S / 60:.1f} min" if delays else ""
                print(f"| {rate:g} | {usual:.1%} | {false} | {jump:.1%} | {len(delays) / _JUMPS:.0%} | {after} |")


if __name__ == "__main__":
    run_program(main)
