"""The row *GPU* of the dashboard *Station*: what dcgm-exporter tells by `docker/dcgm-counters.csv`."""

from grafana_foundation_sdk.builders import dashboard as dashboards

from atsnet_dashboards.style import BAD, over_time, query, row


def add(made: dashboards.Dashboard) -> None:
    """Add the row; its panels are empty where there is no GPU."""
    made.with_row(row("GPU"))
    panels = (
        over_time(
            "GPU: busy",
            "Share of the time in which the GPU computes, and in which its memory is read or written.",
            "percent",
            query("DCGM_FI_DEV_GPU_UTIL", "GPU {{gpu}} computes"),
            query("DCGM_FI_DEV_MEM_COPY_UTIL", "GPU {{gpu}} memory"),
            most=100,
            span=6,
        ),
        over_time(
            "GPU: memory",
            "Memory that is taken and free; MiB as NVIDIA counts them.",
            "mbytes",
            query("DCGM_FI_DEV_FB_USED", "GPU {{gpu}} taken"),
            query("DCGM_FI_DEV_FB_FREE", "GPU {{gpu}} free"),
            stacked=True,
            span=6,
        ),
        over_time(
            "GPU: temperature",
            "From 85 °C on the GPU is the alert GpuHot, and clocks down soon.",
            "celsius",
            query("DCGM_FI_DEV_GPU_TEMP", "GPU {{gpu}}"),
            steps=((None, "transparent"), (85, BAD)),
            span=6,
        ),
        over_time(
            "GPU: power",
            "What the board draws.",
            "watt",
            query("DCGM_FI_DEV_POWER_USAGE", "GPU {{gpu}}"),
            span=6,
        ),
        over_time(
            "GPU: clocks",
            "A clock that falls under load means heat or a power limit.",
            "hertz",
            query("1e6 * DCGM_FI_DEV_SM_CLOCK", "GPU {{gpu}} computing"),
            query("1e6 * DCGM_FI_DEV_MEM_CLOCK", "GPU {{gpu}} memory"),
        ),
        over_time(
            "GPU: errors",
            "Number of the driver's last error (XID), 0 for none, and retries on the bus since the driver started.",
            "short",
            query("DCGM_FI_DEV_XID_ERRORS", "GPU {{gpu}} XID"),
            query("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "GPU {{gpu}} retries"),
            steps=((None, "transparent"), (1, BAD)),
        ),
    )
    for panel in panels:
        made.with_panel(panel)
