"""Memory stays flat over many opens: the slope of the resident size, not its level."""

import gc

import numpy as np
import psutil
import pytest

from common.video.decode import VideoReadError, read
from tests.common.video.files import Made

WARM_UP = 60
BYTES_PER_OPEN = 6 * 1024


def slope(made: dict[str, Made], opens: int) -> float:
    """Growth in bytes an open, by a line through the resident sizes after a warm-up."""
    process = psutil.Process()
    sources = [made[name].path for name in ("ordinary.mp4", "cut_sound.mp4", "copied.mkv", "vp9.webm")]
    broken = made["ordinary.mp4"].path.with_name("broken.mp4")
    broken.write_bytes(made["ordinary.mp4"].path.read_bytes()[:3000])
    sizes = []
    for i in range(WARM_UP + opens):
        read(sources[i % len(sources)], [0, 40])
        with pytest.raises(VideoReadError):
            read(broken, [0])
        if i >= WARM_UP and i % 10 == 0:
            gc.collect()
            sizes.append(process.memory_info().rss)
    return float(np.polyfit(np.arange(len(sizes)) * 10, sizes, 1)[0])


def test_memory_is_flat_over_300_opens(made: dict[str, Made]) -> None:
    assert slope(made, 300) < BYTES_PER_OPEN


@pytest.mark.nightly
def test_memory_is_flat_over_10000_opens(made: dict[str, Made]) -> None:
    assert slope(made, 10_000) < BYTES_PER_OPEN / 20
