"""H.264 files hold the frames that were given."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from common.video.write import encode_h264, write_h264


def moving(frames: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    picture = np.zeros((frames, height, width, 3), dtype=np.uint8)
    for index in range(frames):
        picture[index, 8:24, 4 * index : 4 * index + 16] = (220, 40, 60)
        picture[index, 30:46, :16] = 20 * index
    return picture


def test_all_frames_come_back_in_order_at_the_given_rate(tmp_path: Path) -> None:
    frames = moving()
    write_h264(tmp_path / "a.mp4", frames, fps=8.0, crf=10)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == 8
        decoded = list(container.decode(stream))
    times = [frame.pts * frame.time_base for frame in decoded]
    assert times == [Fraction(index, 8) for index in range(12)]
    back = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded]).astype(int)
    assert back.shape == frames.shape
    errors = [[np.abs(one - two).mean() for two in frames.astype(int)] for one in back]
    assert np.argmin(errors, axis=1).tolist() == list(range(12))
    assert np.diag(errors).max() < 4  # grey levels; 4:2:0 blurs the edges of colour


def test_the_same_frames_give_the_same_bytes_and_crf_matters() -> None:
    frames = moving()
    assert encode_h264(frames) == encode_h264(frames)
    assert len(encode_h264(frames, crf=40)) < len(encode_h264(frames, crf=5))


@pytest.mark.parametrize(
    ("frames", "settings", "message"),
    [
        (moving(width=63), {}, "even"),
        (moving()[0], {}, r"\(T, H, W, 3\)"),
        (moving().astype(np.float32), {}, "uint8"),
        (moving()[:0], {}, "T >= 1"),
        (moving(), {"fps": 0.0}, "fps"),
        (moving(), {"crf": 52}, "crf"),
    ],
)
def test_what_cannot_be_encoded_is_refused(frames: np.ndarray, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_h264(frames, **settings)  # type: ignore[arg-type]
