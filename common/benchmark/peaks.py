"""What devices can do at most, from their makers' data sheets."""

import re

# Dense TFLOP/s: bfloat16 products summed in float32, and float32 without TensorFloat-32 (torch's own choice).
PEAKS = {
    r"RTX 3090": (71.0, 35.6),
    r"RTX 4090": (165.2, 82.6),
    r"A100": (312.0, 19.5),
    r"L40S": (362.0, 91.6),
    r"H100 NVL": (835.0, 60.0),
    r"H100 PCIe": (756.0, 51.0),
    r"H100|H200": (989.0, 67.0),
}


def peak(device: str, precision: str) -> float | None:
    """FLOP/s of a device at most; None where it is not known, as of CPUs.

    Args:
        device: its name, as CUDA tells it.
        precision: of the trainer: bf16-mixed, bf16-true, or another, which is taken for float32.
    """
    for pattern, (half, single) in PEAKS.items():
        if re.search(pattern, device):
            return 1e12 * (half if precision.startswith("bf16") else single)
    return None
