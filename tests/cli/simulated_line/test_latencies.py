import numpy as np
import pytest

from cli.simulated_line.latencies import Latencies


@pytest.mark.parametrize("percent", [1, 50, 95, 99, 100])
def test_percentiles_are_exact_within_one_percent(percent: float) -> None:
    seconds = np.random.default_rng(1).lognormal(-3, 1, 5000)
    latencies = Latencies()
    for each in seconds:
        latencies.add(float(each))
    exact = float(np.percentile(seconds, percent, method="inverted_cdf"))
    assert latencies.percentile_s(percent) == pytest.approx(exact, rel=0.0101)
    assert (latencies.count, latencies.longest_s) == (5000, seconds.max())


def test_what_is_out_of_range_is_counted() -> None:
    latencies = Latencies()
    assert latencies.percentile_s(50) is None
    for seconds in (-0.001, 0.0, 1e9):
        latencies.add(seconds)
    assert (latencies.count, latencies.longest_s) == (3, 1e9)
    assert latencies.percentile_s(50) == pytest.approx(1e-4, rel=0.02)
