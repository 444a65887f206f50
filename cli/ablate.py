"""`atsnet ablate`: what each part of the network earns."""

from cli import benchmark, options
from cli.devices import DeviceChoice

EXAMPLES = "Example:\n  atsnet ablate data/tiles --out runs/ablation --seeds 3"


def ablate(
    root: benchmark.Root,
    out: benchmark.Out,
    backbone: benchmark.Backbone = "imagenet",
    seeds: benchmark.Seeds = 3,
    config: benchmark.Config = None,
    assignments: benchmark.Assignments = None,
    jobs: benchmark.Jobs = None,
    device: options.Device = DeviceChoice.AUTO,
    registry: options.Registry = options.REGISTRY,
    cache: options.Cache = options.CACHE,
    json: options.Json = False,
) -> None:
    """Build the network up part by part, and say what each part gives.

    MKD, + asymmetric student, + EMA normalisation, + coupling, + dual-scale context, + memory of prototypes, + evidence
    head: each step switches on one more by configuration. The rest is as in `atsnet benchmark`.
    """
    from itertools import pairwise

    from atsnet.benchmark.plan import LADDER

    request = benchmark.Request(
        root, out, backbone, seeds, config, tuple(assignments or ()), jobs, device, registry, cache.expanduser(), json
    )
    compared = [(after.name, before.name) for before, after in pairwise(LADDER)]
    compared.append((LADDER[-1].name, LADDER[0].name))
    benchmark.run(request, "Ablation", request.command("ablate"), LADDER, compared)
