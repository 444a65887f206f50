"""How a student learns to see as the frozen trunk does, on normal frames alone."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from atsnet.baselines.features import FrameTrunk
from atsnet.imaging import UInt8Array
from atsnet.progress import Reporter
from atsnet.training.precision import bfloat16_pays

Loss = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], Tensor]
"""From the teacher's and the student's features of each scale, and the mask `[N, 1, H, W]`, to a scalar."""


class DistillationError(RuntimeError):
    """The loss became NaN or infinite; the message names the step."""


def distil(
    trunk: FrameTrunk,
    student: nn.Module,
    frames: UInt8Array,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    report: Reporter,
) -> list[float]:
    """Train `student` for `steps` batches; it is left in eval mode.

    Forward passes are in bfloat16 where that is faster, losses and weights in float32.

    Args:
        trunk: The teacher, frozen.
        student: Takes images as the trunk does and answers features of the same shapes; on the trunk's device.
        frames: Normal frames, `uint8 [N, H, W, C]`.
        loss: What to minimise.
        optimizer: Of the student's parameters.
        steps: Batches to train on; the last one is the end, whatever the loss.
        batch_size: Frames a batch; all of them where there are fewer.
        seed: Of the frames' order.
        report: Told of the loss after each step.

    Returns:
        The loss of each step.

    Raises:
        ValueError: There are no frames.
        DistillationError: The loss is not finite.
    """
    if not len(frames):
        raise ValueError("there are no frames to learn from")
    device = trunk.device.type
    losses = []
    student.train()
    for step, chosen in zip(range(steps), _batches(len(frames), batch_size, seed), strict=False):
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16_pays(trunk.device)):
            images, mask = trunk.unpack(frames[chosen])
            with torch.no_grad():
                teacher = trunk.trunk(images)
            answer = student(images)
        value = loss([x.float() for x in teacher], [x.float() for x in answer], mask)
        losses.append(value.item())
        if not np.isfinite(losses[-1]):
            raise DistillationError(f"the loss is {losses[-1]} at step {step + 1}; training diverged")
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        report("distilling", step + 1, steps, {"loss": losses[-1]})
    student.eval()
    return losses


def _batches(count: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Endless batches of indices: whole random orders of all frames, one after the other."""
    rng = np.random.default_rng(seed)
    order = np.empty(0, np.int64)
    while True:
        while len(order) < size:
            order = np.concatenate([order, rng.permutation(count)])
        yield order[:size]
        order = order[size:]
