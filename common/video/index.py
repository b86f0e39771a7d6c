"""Which frames a file has, found from its packets alone: frame i is the i-th presentation time.

Containers count packets; players show frames. The two differ in clips that were cut without re-encoding:
packets before the cut are kept because later frames refer to them, and an edit list hides them. Here a frame
is a packet that is not marked to be discarded, and its number is its place in the order of presentation.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class PacketTimes(NamedTuple):
    """One packet in decoding order; times in units of the stream's time base, None where there is none."""

    pts: int | None
    dts: int | None
    is_key: bool
    is_hidden: bool


@dataclass(frozen=True)
class PacketIndex:
    """Presentation times and entry points of one video stream.

    Attributes:
        times: int64 (num_frames,), ascending, presentation times of the frames that are shown.
        packets: every packet of the stream, in decoding order.
        exact: whether `times` identify frames. False where the container stores no presentation times (AVI
            with reordered frames, raw streams) or repeats them: then frame i is the i-th that the decoder
            puts out.
        missing_packets: packets that the header announces but a cut-off file does not hold.
    """

    times: NDArray[np.int64]
    packets: list[PacketTimes]
    exact: bool
    missing_packets: int = 0
    positions: dict[tuple[int | None, int | None], int] = field(init=False, repr=False)
    keys: list[tuple[int, int]] = field(init=False, repr=False)
    numbers: dict[int, int] = field(init=False, repr=False)
    first_key: int = field(init=False)

    def __post_init__(self) -> None:
        positions = {(p.pts, p.dts): i for i, p in enumerate(self.packets)}
        keys = sorted((p.pts, i) for i, p in enumerate(self.packets) if p.is_key and p.pts is not None)
        object.__setattr__(self, "positions", positions)
        object.__setattr__(self, "first_key", next((i for i, p in enumerate(self.packets) if p.is_key), 0))
        object.__setattr__(self, "numbers", {int(time): i for i, time in enumerate(self.times)})
        object.__setattr__(self, "keys", keys)

    @property
    def num_hidden(self) -> int:
        """Packets that are decoded but never shown."""
        return sum(p.is_hidden for p in self.packets)

    @property
    def starts_within_group(self) -> bool:
        """Whether some packets may lack what they refer to: a stream cut out of another, or received midway.

        Those before the first key packet do; those shown before it, but stored after it, may.
        """
        first = self.packets[self.first_key].pts if self.packets else None
        return self.first_key > 0 or (first is not None and any(time < first for time in self.times[:1]))

    @property
    def num_open_groups(self) -> int:
        """Key packets followed, in decoding order, by pictures shown before them.

        Such pictures need the group before (H.264's and HEVC's open groups, MPEG-4's B frames).
        """
        count, earliest = 0, None
        for packet in reversed(self.packets):
            if packet.pts is None:
                continue
            count += packet.is_key and earliest is not None and packet.pts > earliest
            earliest = packet.pts if earliest is None else min(earliest, packet.pts)
        return count

    def key_before(self, time: int) -> int:
        """Position of the last key packet whose frame is shown at or before `time`; 0 where there is none."""
        place = bisect_right(self.keys, (time, len(self.packets)))
        return self.keys[place - 1][1] if place else 0

    def frames_before(self, position: int) -> int:
        """How many frames are shown before the one whose packet lies at `position`."""
        time = self.packets[position].pts
        return 0 if position == 0 or time is None else bisect_left(self.times, time)

    def position_of(self, pts: int | None, dts: int | None) -> int | None:
        """Place of a packet in decoding order; None for a packet that the index does not know."""
        return self.positions.get((pts, dts))

    def is_key(self, position: int) -> bool:
        """Whether decoding can start at this packet."""
        return position == 0 or self.packets[position].is_key


def hide(index: PacketIndex, shown: set[int]) -> PacketIndex:
    """The index in which only packets with these presentation times are shown."""
    packets = [p._replace(is_hidden=p.is_hidden or p.pts not in shown) for p in index.packets]
    return build(packets, reordered_avi=False, missing_packets=index.missing_packets)


def build(packets: list[PacketTimes], *, reordered_avi: bool, missing_packets: int = 0) -> PacketIndex:
    """Makes the index of a stream.

    Args:
        packets: in decoding order.
        reordered_avi: the container is AVI and the codec reorders frames: AVI stores decoding times only, and
            the presentation times that a demuxer derives from them are wrong for some streams.
        missing_packets: packets announced but not found.
    """
    shown = [p.pts for p in packets if not p.is_hidden]
    known = sorted(time for time in shown if time is not None)
    exact = len(known) == len(shown) and len(set(known)) == len(known) and not reordered_avi
    return PacketIndex(np.array(known, np.int64), packets, exact, missing_packets)
