"""Walks a decoder through the frames that are asked for, skipping to key packets where that saves work."""

from collections.abc import Iterator
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.video.index import PacketIndex
from common.video.losses import Losses

SEEK_GAP = 12  # packets: below it, decoding on is cheaper than a seek, which empties the decoder
Pictures = dict[int, NDArray[np.uint8]]


class Frame(Protocol):
    """A decoded frame."""

    @property
    def pts(self) -> int | None:
        """Presentation time in units of the stream's time base."""


FrameT = TypeVar("FrameT", bound=Frame)


class Decoder(Protocol[FrameT]):
    """What decodes one stream."""

    index: PacketIndex
    losses: Losses
    position: int

    def decode(self, start: int) -> Iterator[FrameT]:
        """Frames from the key packet at place `start` on, in the order of presentation."""

    def picture(self, frame: FrameT) -> NDArray[np.uint8]:
        """A frame as RGB, uint8 (H, W, 3)."""


class Walk:
    """One pass over a stream for certain frames.

    Args:
        decoder: of the stream.
        numbers: of the frames, ascending and different.

    Attributes:
        pictures: uint8 (H, W, 3) by number; what cannot be decoded is left out.
        suspect: numbers of those that may be damaged.
    """

    def __init__(self, decoder: Decoder[FrameT], numbers: list[int]) -> None:
        self.pictures: Pictures = {}
        self.suspect: set[int] = set()
        if decoder.index.exact:
            self._by_time(decoder, {int(decoder.index.times[i]): i for i in numbers})
        else:
            self._by_order(decoder, set(numbers))

    def _by_time(self, decoder: Decoder[FrameT], number_of: dict[int, int]) -> None:
        """Accepts a frame only by its exact time."""
        self._jump(decoder, number_of)
        if decoder.losses.entered_badly or len(self.pictures) < len(number_of):
            # An entry point that was none, or damage: once more, from the start and without a seek.
            decoder.losses.clear()
            self.suspect.clear()
            self._collect(decoder, decoder.decode(0), number_of, max(number_of))

    def _jump(self, decoder: Decoder[FrameT], number_of: dict[int, int]) -> None:
        decoder.losses.clear()
        stream = decoder.decode(decoder.index.key_before(min(number_of)))
        for time in sorted(number_of):
            if number_of[time] in self.pictures:
                continue
            key = decoder.index.key_before(time)
            if key > decoder.position + SEEK_GAP:
                stream = decoder.decode(key)
            self._collect(decoder, stream, number_of, time)
            if decoder.losses.entered_badly:
                return

    def _collect(
        self, decoder: Decoder[FrameT], stream: Iterator[FrameT], number_of: dict[int, int], until: int
    ) -> None:
        """Takes asked frames as they come out, up to time `until`."""
        for frame in stream:
            number = None if frame.pts is None else number_of.get(frame.pts)
            if number is not None:
                self._keep(decoder, frame, number)
            if frame.pts is not None and frame.pts >= until:
                return

    def _by_order(self, decoder: Decoder[FrameT], numbers: set[int]) -> None:
        """Counts frames from the start; only undamaged streams get here, so the count means something."""
        for number, frame in enumerate(decoder.decode(0)):
            if number in numbers:
                self._keep(decoder, frame, number)
                if len(self.pictures) == len(numbers):
                    return

    def _keep(self, decoder: Decoder[FrameT], frame: FrameT, number: int) -> None:
        if decoder.losses.is_suspect(frame.pts):
            self.suspect.add(number)
        self.pictures[number] = decoder.picture(frame)
