"""The account of losses by itself: which frames are suspect after what."""

import pytest

from common.video.index import PacketIndex, PacketTimes, build
from common.video.losses import Losses

# Two closed groups of four: keys at 0 and 4.
INDEX: PacketIndex = build([PacketTimes(i, i, i % 4 == 0, False) for i in range(8)], reordered_avi=False)


@pytest.fixture
def losses() -> Losses:
    return Losses(INDEX)


def shown(losses: Losses, *times: int, corrupt: bool = False) -> list[int]:
    """Lets frames come out; gives those that are suspect when they do."""
    suspect = []
    for time in times:
        losses.show(time, corrupt=corrupt)
        suspect += [time] if losses.is_suspect(time) else []
    return suspect


def test_nothing_is_suspect_in_a_whole_stream(losses: Losses) -> None:
    assert shown(losses, *range(8)) == []
    assert (losses.bad_packets, losses.entered_badly) == (0, False)


def test_the_rest_of_a_group_is_suspect_after_a_refused_packet(losses: Losses) -> None:
    assert shown(losses, 0) == []
    losses.refuse(1)
    assert shown(losses, 2, 3, 4, 5, 6, 7) == [2, 3]
    assert losses.bad_packets == 1


def test_the_rest_of_a_group_is_suspect_after_a_flagged_frame(losses: Losses) -> None:
    assert shown(losses, 0) == []
    assert shown(losses, 1, corrupt=True) == [1]
    assert shown(losses, 2, 3, 4) == [2, 3]


def test_a_frame_passed_over_in_silence_is_a_loss(losses: Losses) -> None:
    assert shown(losses, 0, 1, 3, 4, 5) == [3]
    assert losses.bad_packets == 0


def test_after_a_seek_the_key_must_come_first(losses: Losses) -> None:
    losses.enter(4)
    assert shown(losses, 4, 5) == []
    assert not losses.entered_badly
    losses.enter(4)
    assert shown(losses, 6) == [6]
    assert losses.entered_badly
    losses.start()
    losses.clear()
    assert shown(losses, *range(8)) == []
    assert not losses.entered_badly
