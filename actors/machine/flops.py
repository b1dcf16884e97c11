"""Model FLOPs utilisation: what a layer's step needs over what the GPU could do. Pure arithmetic.

Six FLOPs per parameter and token for forward and backward (two and four). Attention is left out, so
the figure is a little low for long windows. Source: PaLM (arXiv 2204.02311), appendix B.
"""

from __future__ import annotations

FLOPS_PER_PARAMETER = 6
# Dense peak of one GPU, FLOP/s, by its name in CUDA: bf16, and float32 (TF32 off).
PEAKS: dict[str, tuple[float, float]] = {
    "H200": (989e12, 67e12),
    "H100": (989e12, 67e12),
    "GH200": (989e12, 67e12),
    "B200": (2250e12, 80e12),
    "A100": (312e12, 19.5e12),
    "A40": (149.7e12, 37.4e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
    "A10G": (70e12, 31.2e12),
    "V100": (125e12, 15.7e12),
    "T4": (65e12, 8.1e12),
}


def peak(device: str, precision: str) -> float | None:
    """Peak FLOP/s of a GPU; None for unknown names, CPUs among them.

    Args:
        device: e.g. "NVIDIA H100 80GB HBM3".
        precision: `bf16` or `fp32`.
    """
    words = device.replace("-", " ").split()
    for name, (half, full) in PEAKS.items():
        if name in words:
            return half if precision == "bf16" else full
    return None


def utilisation(
    num_parameters: int, num_tokens: int, seconds: float, peak_flops: float | None
) -> float | None:
    """Share of a worker's peak FLOP/s that its steps used; None if the peak is unknown.

    Args:
        num_parameters: of the layer that is trained.
        num_tokens: that this worker trained on.
        seconds: of its steps.
        peak_flops: of its GPU.
    """
    if peak_flops is None or seconds <= 0:
        return None
    return FLOPS_PER_PARAMETER * num_parameters * num_tokens / seconds / peak_flops
