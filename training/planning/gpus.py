"""GPUs that a run can be planned for."""

from dataclasses import dataclass

from training.errors import PlanError


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_gib: float
    """All of it, as the driver reports it."""
    peak_tflops: float
    """bfloat16 on tensor cores, without sparsity."""
    source: str
    """Where the rate is from; a data sheet of NVIDIA."""
    device_names: tuple[str, ...] = ()
    """What the driver calls those that reach this rate."""


_GPUS = (
    Gpu(
        *("a100-40gb", 40960 / 1024, 312, "A100 data sheet, 624 with sparsity"),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
    ),
    Gpu(
        *("a100-80gb", 81920 / 1024, 312, "A100 data sheet, 624 with sparsity"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
    ),
    Gpu(
        "h100",
        81559 / 1024,
        989,
        "H100 data sheet, SXM, 1979 with sparsity",
        ("NVIDIA H100 80GB HBM3",),
    ),
    Gpu("h200", 143771 / 1024, 989, "H200 data sheet, SXM, 1979 with sparsity", ("NVIDIA H200",)),
    # What the driver reports was not found; 180 GB of the data sheet, as powers of ten.
    Gpu("b200", 180e9 / 2**30, 2250, "HGX B200 data sheet, 4500 with sparsity", ("NVIDIA B200",)),
    Gpu("l40s", 46068 / 1024, 362, "L40S data sheet, 733 with sparsity", ("NVIDIA L40S",)),
    Gpu("l4", 23034 / 1024, 121, "L4 data sheet, 242 with sparsity", ("NVIDIA L4",)),
    Gpu(
        *("rtx4090", 24564 / 1024, 165, "Ada architecture paper, float32 sums, 330 with sparsity"),
        ("NVIDIA GeForce RTX 4090",),
    ),
)

GPUS: dict[str, Gpu] = {gpu.name: gpu for gpu in _GPUS}
"""By name."""


def gpu_of(name: str) -> Gpu:
    """The GPU of this name.

    Raises:
        PlanError: there is none.
    """
    if name not in GPUS:
        raise PlanError(f"--gpu {name}: no such GPU; valid: {', '.join(GPUS)}")
    return GPUS[name]


def peak_of_device(device_name: str) -> float | None:
    """TFLOP/s in bfloat16 of the GPU that the driver calls so; None for one that is not known here."""
    return next((gpu.peak_tflops for gpu in _GPUS if device_name in gpu.device_names), None)
