"""Index rules: the published table, and what must hold for every clip."""

import numpy as np
import pytest

from common.video import sample

# First indices, last index and count of different ones, for 100 frames of Video-ChatGPT's rule.
TABLE = {
    1: ([0], 0, 1),
    5: ([0, 1, 2, 2, 3], 3, 4),
    37: ([0, 1, 2, 3, 4], 35, 36),
    99: ([0, 1, 2, 3, 4], 97, 98),
    100: ([0, 1, 2, 3, 4], 98, 99),
    101: ([0, 1, 2, 3, 4], 99, 100),
    150: ([0, 2, 3, 5, 6], 148, 100),
    300: ([1, 4, 7, 10, 13], 297, 100),
    3000: ([15, 45, 75, 105, 135], 2984, 100),
}


def written_out(total: int, count: int) -> list[int]:
    """The rule of the reference, step by step."""
    k = min(total, count)
    seg = float(total - 1) / k
    return [(int(np.round(seg * i)) + int(np.round(seg * (i + 1)))) // 2 for i in range(k)]


@pytest.mark.parametrize("total", TABLE)
def test_midpoint_is_the_published_table(total: int) -> None:
    first, last, different = TABLE[total]
    frames = sample.midpoint(total, 100).tolist()
    assert frames[:5] == first
    assert frames[-1] == last
    assert len(frames) == min(total, 100)
    assert len(set(frames)) == different


def test_midpoint_is_the_rule_for_every_length() -> None:
    for total in range(1, 700):
        assert sample.midpoint(total, 100).tolist() == written_out(total, 100), total


def test_midpoint_never_takes_the_last_frame() -> None:
    assert all(sample.midpoint(total, 100).max() < total - 1 for total in range(2, 500))


def test_uniform_is_linspace_and_all_different() -> None:
    for total in range(1, 200):
        for count in {1, 2, 5, total}:
            if count > total:
                continue
            frames = sample.uniform(total, count)
            assert len(set(frames.tolist())) == count
            assert (np.diff(frames) > 0).all()
            if count > 1:
                assert (frames[0], frames[-1]) == (0, total - 1)
                exact = [i * (total - 1) // (count - 1) for i in range(count)]
                assert frames.tolist() == exact


def test_uniform_asks_for_no_more_than_there_is() -> None:
    with pytest.raises(ValueError, match="5 different frames asked of a clip of 4"):
        sample.uniform(4, 5)


def test_at_fps_takes_what_is_on_screen() -> None:
    seconds = np.arange(90) / 30
    assert sample.at_fps(seconds, 2).tolist() == [0, 15, 30, 45, 60, 75]
    assert sample.at_fps(seconds, 60).tolist() == list(range(90))
    assert sample.at_fps(np.array([0.0, 0.9, 2.5]), 1).tolist() == [0, 1]
    assert sample.at_fps(np.array([0.0]), 2).tolist() == [0]


@pytest.mark.parametrize("rate", [23.976, 24, 25, 29.97, 30, 60])
def test_at_its_own_rate_every_frame_is_taken(rate: float) -> None:
    assert sample.at_fps(np.arange(300) / rate, rate).tolist() == list(range(300))


def test_at_fps_with_a_cap_keeps_both_ends() -> None:
    frames = sample.at_fps(np.arange(300) / 30, 2, max_count=7).tolist()
    assert len(frames) == 7
    assert (frames[0], frames[-1]) == (0, 285)
    assert sample.at_fps(np.arange(30) / 30, 2, max_count=7).tolist() == [0, 15]


def test_nearest_to_times() -> None:
    seconds = np.array([0.0, 1.0, 2.0, 4.0])
    times = np.array([-1.0, 0.4, 0.5, 0.6, 2.9, 3.1, 99.0])
    assert sample.nearest_to_times(seconds, times).tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert sample.nearest_to_times(np.array([0.0]), times).tolist() == [0] * 7


def test_nearest_to_times_is_the_nearest() -> None:
    chance = np.random.default_rng(0)
    for _ in range(50):
        seconds = np.unique(chance.random(chance.integers(1, 40)))
        times = chance.random(20) * 1.2
        distance = np.abs(times - seconds[sample.nearest_to_times(seconds, times)])
        np.testing.assert_array_equal(distance, np.abs(times[:, None] - seconds).min(axis=1))


@pytest.mark.parametrize("rate", [16, 24, 25, 29.97, 30, 60])
def test_first_seconds_are_exact_and_different(rate: float) -> None:
    seconds = np.arange(int(rate * 5)) / rate
    frames = sample.first_seconds_at_fps(seconds, 4, 16)
    assert len(set(frames.tolist())) == 64
    assert np.abs(seconds[frames] - np.arange(64) / 16).max() <= 0.5 / rate + 1e-9


def test_first_seconds_need_a_clip_that_long() -> None:
    with pytest.raises(ValueError, match=r"ends at 3\.467 s, too short for the first 4 s at 16"):
        sample.first_seconds_at_fps(np.arange(105) / 30, 4, 16)


@pytest.mark.parametrize("rate", [8, 12, 15])
def test_first_seconds_never_repeat_a_frame(rate: float) -> None:
    with pytest.raises(ValueError, match="too far apart"):
        sample.first_seconds_at_fps(np.arange(int(rate * 6)) / rate, 4, 16)


def test_first_seconds_see_a_gap() -> None:
    seconds = np.arange(150) / 30
    with pytest.raises(ValueError, match="too far apart"):
        sample.first_seconds_at_fps(np.delete(seconds, range(40, 60)), 4, 16)


def test_triplets() -> None:
    assert sample.triplet(9).tolist() == [0, 4, 8]
    assert sample.triplet(10, start=1).tolist() == [1, 5, 9]
    assert sample.triplet(20, gap=3, start=2).tolist() == [2, 5, 8]


@pytest.mark.parametrize("arguments", [{"num_frames": 2}, {"num_frames": 9, "min_gap": 5}, {"num_frames": 6, "gap": 3}])
def test_triplets_keep_their_gap(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="too short for a triplet"):
        sample.triplet(**arguments)


def test_windows() -> None:
    assert sample.windows(6, 3).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert sample.windows(8, 3, stride=2, dilation=2).tolist() == [[0, 2, 4], [2, 4, 6]]
    assert sample.windows(4, 3, dilation=2).shape == (0, 3)
    assert sample.windows(100, 4, max_count=8)[[0, -1], 0].tolist() == [0, 96]
    assert len(sample.windows(100, 4, max_count=8)) == 8


def test_windows_stay_inside_and_are_whole() -> None:
    for total in range(1, 30):
        for length, stride, dilation in ((1, 1, 1), (3, 2, 1), (4, 1, 3), (21, 1, 1)):
            rows = sample.windows(total, length, stride=stride, dilation=dilation)
            assert (rows < total).all()
            assert (np.diff(rows, axis=1) == dilation).all()
            left_over = rows[-1, -1] + stride if len(rows) else (length - 1) * dilation
            assert left_over >= total


@pytest.mark.parametrize(
    "call",
    [
        lambda: sample.uniform(0, 1),
        lambda: sample.midpoint(5, 0),
        lambda: sample.at_fps(np.array([0.0]), 0),
        lambda: sample.windows(5, 2, stride=0),
        lambda: sample.at_fps(np.array([]), 1),
        lambda: sample.at_fps(np.array([0.0, 0.0]), 1),
    ],
)
def test_nonsense_is_refused(call: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        call()  # type: ignore[operator]
