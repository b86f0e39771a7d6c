"""Keeps account of what a decoder loses, and so of which frames must not be trusted."""

from common.video.index import PacketIndex


class Losses:
    """Bad packets, lost frames, and the groups of pictures that they spoil, on a walk through one stream.

    Decoders flag few of the frames that refer to a damaged or lost one; here everything that comes out of a group of
    pictures after a loss in it is suspect.

    Args:
        index: of the stream.
    """

    def __init__(self, index: PacketIndex) -> None:
        self.index = index
        self.bad_packets = 0
        self.entered_badly = False  # the frame for which a key packet was sought did not come first
        self._groups: set[int] = set()  # spoiled groups, by the place of their key packet
        self._next = 0  # number of the frame that should come out next
        self._entering = False  # a seek has been made, and no frame has come out since

    def clear(self) -> None:
        """Begins the account anew."""
        self.bad_packets = 0
        self._groups.clear()

    def start(self) -> None:
        """The decoder is at the start of the stream."""
        self._next = 0
        self._entering = self.entered_badly = False

    def enter(self, position: int) -> None:
        """The decoder goes on at the key packet at `position`."""
        self._next = self.index.frames_before(position)
        self._entering = True

    def refuse(self, pts: int | None) -> None:
        """The decoder has refused the packet to be shown at `pts`, or the container calls it damaged."""
        self.bad_packets += 1
        self._groups.add(self._group(pts))

    def show(self, pts: int | None, *, corrupt: bool) -> None:
        """A frame has come out; `corrupt` if the decoder has flagged it."""
        if corrupt:
            self._groups.add(self._group(pts))
        number = self.index.numbers.get(pts) if self.index.exact and pts is not None else None
        if number is None or number < self._next:
            return
        lost = self.index.times[self._next : number]  # passed over without an error
        self._groups |= {self._group(int(time)) for time in lost}
        # Some packets are marked as key where only a gradual refresh begins: decoding must start before them.
        self.entered_badly = self.entered_badly or (self._entering and len(lost) > 0)
        self._entering = False
        self._next = number + 1

    def is_suspect(self, pts: int | None) -> bool:
        """Whether the frame shown at `pts`, which has just come out, may be damaged."""
        return self._group(pts) in self._groups

    def _group(self, pts: int | None) -> int:
        return 0 if pts is None else self.index.key_before(pts)
