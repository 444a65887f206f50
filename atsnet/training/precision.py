"""Where bfloat16 makes training faster: GPUs, and processors with instructions for it."""

from pathlib import Path

import torch


def bfloat16_pays(device: torch.device) -> bool:
    """Whether `device` computes convolutions in bfloat16 faster than in float32.

    Notes:
        The answer for GPUs has not been checked on one.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    info = Path("/proc/cpuinfo")  # elsewhere than on Linux, float32 is the safe choice
    flags = info.read_text() if info.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
