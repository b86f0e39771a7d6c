"""The packet index by itself."""

import pytest

from common.video.index import PacketTimes, build, hide

# Decoding order I P B B I P: presentation 0 3 1 2 4 5; the group from 4 on can be entered at place 4.
STREAM = [
    PacketTimes(0, -2, True, False),
    PacketTimes(3, -1, False, False),
    PacketTimes(1, 0, False, False),
    PacketTimes(2, 1, False, False),
    PacketTimes(4, 2, True, False),
    PacketTimes(5, 3, False, False),
]


def test_frames_are_numbered_in_the_order_of_presentation() -> None:
    index = build(STREAM, reordered_avi=False)
    assert index.times.tolist() == [0, 1, 2, 3, 4, 5]
    assert index.exact
    assert index.num_hidden == 0


def test_hidden_packets_are_no_frames_but_can_be_entered() -> None:
    hidden = [packet._replace(is_hidden=packet.pts in (0, 1)) for packet in STREAM]
    index = build(hidden, reordered_avi=False)
    assert index.times.tolist() == [2, 3, 4, 5]
    assert index.num_hidden == 2
    assert index.key_before(2) == 0


@pytest.mark.parametrize(("time", "key"), [(0, 0), (3, 0), (4, 4), (5, 4), (99, 4), (-5, 0)])
def test_decoding_starts_at_the_last_key_shown_at_or_before(time: int, key: int) -> None:
    assert build(STREAM, reordered_avi=False).key_before(time) == key


def test_frames_before_a_key() -> None:
    index = build(STREAM, reordered_avi=False)
    assert (index.frames_before(0), index.frames_before(4)) == (0, 4)


def test_places_are_found_by_both_times() -> None:
    index = build(STREAM, reordered_avi=False)
    assert index.position_of(1, 0) == 2
    assert index.position_of(1, 1) is None
    assert [index.is_key(i) for i in range(6)] == [True, False, False, False, True, False]


@pytest.mark.parametrize(
    "packets",
    [
        [packet._replace(pts=None) for packet in STREAM],
        [*STREAM, PacketTimes(5, 9, False, False)],
        [*STREAM[:-1], PacketTimes(None, 9, False, False)],
    ],
)
def test_missing_or_repeated_times_are_not_trusted(packets: list[PacketTimes]) -> None:
    assert not build(packets, reordered_avi=False).exact


def test_avi_with_reordered_frames_is_not_trusted() -> None:
    assert not build(STREAM, reordered_avi=True).exact


def test_open_groups_are_counted() -> None:
    assert build(STREAM, reordered_avi=False).num_open_groups == 0
    late = [*STREAM, PacketTimes(8, 4, True, False), PacketTimes(6, 5, False, False), PacketTimes(7, 6, False, False)]
    assert build(late, reordered_avi=False).num_open_groups == 1


def test_a_stream_may_start_within_a_group() -> None:
    assert not build(STREAM, reordered_avi=False).starts_within_group
    assert build(STREAM[1:], reordered_avi=False).starts_within_group
    leading = [PacketTimes(9, 0, True, False), PacketTimes(8, 1, False, False)]
    assert build(leading, reordered_avi=False).starts_within_group
    hidden = [leading[0], leading[1]._replace(is_hidden=True)]
    assert not build(hidden, reordered_avi=False).starts_within_group


def test_hiding_keeps_what_is_shown() -> None:
    index = hide(build(STREAM, reordered_avi=False), {3, 4})
    assert index.times.tolist() == [3, 4]
    assert index.num_hidden == 4
    assert len(index.packets) == 6
