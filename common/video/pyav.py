"""Reads video files with PyAV: an index of packets first, then frames accepted only by their exact time."""

from __future__ import annotations  # av.Packet takes a type argument in its stubs only

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from common.video import orientation
from common.video.clip import Clip, Indices, VideoInfo, VideoReadError, assemble, choose, mean_fps
from common.video.damage import explain
from common.video.index import PacketIndex, PacketTimes, build, hide
from common.video.losses import Losses
from common.video.walk import Walk

# Named one by one: a playlist called .mp4 would make FFmpeg open other files or addresses.
CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,ivf,obu,nut,mxf,h264,hevc,m4v,mp3,aac,wav,flac"
)
MAX_DEMUX_ERRORS = 100


def probe(path: Path) -> VideoInfo:
    """Facts of a video file; see `common.video.decode.probe`."""
    with closing(VideoFile(path)) as video:
        return video.info()


class Inspection(NamedTuple):
    """What must be known to judge whether another decoder can be trusted with a file."""

    info: VideoInfo
    packets: PacketIndex
    mirrored: bool


def inspect(path: Path) -> Inspection:
    """`probe` with the index of packets and whether the picture is shown mirrored."""
    with closing(VideoFile(path)) as video:
        return Inspection(video.info(), video.index, video.mirrored)


def read(path: Path, indices: Indices) -> Clip:
    """Frames of a video file; see `common.video.decode.read`."""
    with closing(VideoFile(path)) as video:
        info = video.info() if callable(indices) else video.outline()
        wanted = choose(path, indices, info)
        walk = Walk(video, np.unique(wanted).tolist())
        bad = video.losses.bad_packets + video.index.missing_packets
        corrupt = len(walk.suspect)
        return assemble(path, wanted, walk.pictures, info, bad_packets=bad, corrupt_frames=corrupt)


class VideoFile:
    """One open video file: its index, and its frames from any key packet on.

    Args:
        path: a file in one of `CONTAINERS`.

    Raises:
        VideoReadError: it cannot be opened, holds no video, or none of its frames can be told.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mirrored = False  # known once `info` has decoded a frame
        self._demux_errors = 0
        self.position = 0  # place in decoding order of the next packet
        self.container, self.stream = _open(path)
        try:
            self._use(self._scan())
        except BaseException:
            self.close()
            raise

    def _use(self, index: PacketIndex) -> None:
        self.index = index
        self.losses = Losses(index)

    def close(self) -> None:
        """Frees the decoder and the file."""
        self.container.close()

    def outline(self) -> VideoInfo:
        """What the index alone tells: height, width and rotation are as stored, not yet turned."""
        stream, times = self.stream, self.index.times
        rate = float(stream.average_rate or 0)
        # Without presentation times the rate is all there is; AVI and raw streams have a constant one.
        step = float(stream.time_base or 0) if self.index.exact else 1 / (rate or 1.0)
        seconds = (times - times[0]) * step
        return VideoInfo(
            num_frames=len(times),
            seconds=seconds,
            fps=mean_fps(seconds, rate),
            height=stream.height,
            width=stream.width,
            codec=stream.codec_context.codec.canonical_name,
            container=self.container.format.name,
            rotation=0,
        )

    def info(self) -> VideoInfo:
        """`outline` with the size and rotation of the first frame that decodes."""
        info = self.outline()
        first = next(self.decode(0), None)
        if first is None:
            raise VideoReadError(self.path, f"none of its {info.num_frames} frames can be decoded")
        matrix = _matrix(first)
        self.mirrored = orientation.is_mirrored(matrix)
        height, width, _ = self.picture(first).shape
        return info._replace(height=height, width=width, rotation=orientation.rotation(matrix))

    def picture(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """RGB, uint8 (H, W, 3), upright."""
        # One thread here too: parallelism belongs to the data loader's workers.
        picture = np.asarray(frame.to_ndarray(format="rgb24", threads=1), dtype=np.uint8)
        try:
            return orientation.upright(picture, _matrix(frame))
        except ValueError as error:
            raise VideoReadError(self.path, str(error)) from error

    def decode(self, start: int) -> Iterator[VideoFrame]:
        """Frames from the key packet at place `start` on, in the order of presentation."""
        for position, packet in self._packets(start):
            self.position = position + 1
            try:
                shown = packet.decode()
            except av.FFmpegError as error:
                if isinstance(error, MemoryError):  # says nothing about the packet
                    raise
                if not _is_last(packet):
                    self.losses.refuse(packet.pts)
                continue
            if packet.is_corrupt:
                self.losses.refuse(packet.pts)
            for frame in shown:
                self.losses.show(frame.pts, corrupt=frame.is_corrupt)
                yield frame

    def _packets(self, start: int) -> Iterator[tuple[int, Packet[VideoStream]]]:
        """Packets from place `start` on, with their places; last the empty one that flushes the decoder."""
        position = self._seek(start)
        for packet in self._demux():
            if position is None:
                position = self.index.position_of(packet.pts, packet.dts)
                if _is_last(packet) or (position is not None and position > start):
                    self._reopen()  # the seek went past the place
                    yield from self._packets(0)
                    return
                if position is None or not self.index.is_key(position):
                    position = None
                    continue
                self.losses.enter(position)
            if position >= self.index.first_key:  # those before it refer to what is not there
                yield position, packet
            position += 1

    def _seek(self, start: int) -> int | None:
        """Goes to place `start`; returns the place of the next packet, None where that must be looked up."""
        goal = self.index.packets[start].dts if start else None
        if goal is None:
            self._reopen()
            return 0
        self.container.seek(goal, stream=self.stream, backward=True)
        return None

    def _reopen(self) -> None:
        self.container.close()
        self.container, self.stream = _open(self.path)
        self.losses.start()

    def _demux(self) -> Iterator[Packet[VideoStream]]:
        """Packets of the stream; goes on after a damaged place, as a player would."""
        for _ in range(MAX_DEMUX_ERRORS):
            try:
                for packet in self.container.demux(self.stream):
                    if packet.size or _is_last(packet):  # an empty one in mid-stream would end it
                        yield packet
                return
            except av.FFmpegError:
                self._demux_errors += 1
        raise VideoReadError(self.path, f"more than {MAX_DEMUX_ERRORS} damaged places in the container")

    def _scan(self) -> PacketIndex:
        """Reads all packets once, without decoding them."""
        codec = self.stream.codec_context.codec.canonical_name
        packets, cut_off = [], False
        for packet in self._demux():
            if not _is_last(packet):
                hidden = packet.is_discard or (codec == "vp8" and _is_unseen_vp8(packet))
                packets.append(PacketTimes(packet.pts, packet.dts, packet.is_keyframe, hidden))
                cut_off = packet.is_corrupt
        if cut_off:  # the file ends within its last packet, which is no frame then
            packets[-1] = packets[-1]._replace(is_hidden=True)
        container = self.container.format.name
        # Only MP4 announces every packet in its header; other containers index some of them.
        announced = len(self.stream.index_entries) if container.startswith("mov") else 0
        missing = max(cut_off, announced - len(packets)) + self._demux_errors
        reordered = container == "avi" and self.stream.codec_context.has_b_frames
        index = build(packets, reordered_avi=bool(reordered), missing_packets=missing)
        self._use(index)
        if not index.exact:
            return self._counted(index, reordered=bool(reordered))
        if index.starts_within_group:
            first = next((frame.pts for frame in self.decode(0) if frame.pts in index.numbers), None)
            index = hide(index, {time for time in index.numbers if first is not None and time >= first})
        if not len(index.times):
            raise VideoReadError(self.path, "its video track holds no frames that are shown")
        return index

    def _counted(self, index: PacketIndex, *, reordered: bool) -> PacketIndex:
        """The index of a stream whose packets lack usable times: decodes all of it to see what is shown."""
        shown = [frame.pts for frame in self.decode(0)]
        if not shown:
            raise VideoReadError(self.path, "its video track holds no frames that are shown")
        known = [time for time in shown if time is not None]
        stored = {p.pts for p in index.packets if p.pts is not None and not p.is_hidden}
        if known and not reordered and known == shown == sorted(set(known)) and stored == set(known):
            return hide(index, set(known))  # only packets that are never shown had no time
        expected = len(index.packets) - index.num_hidden
        if self.losses.bad_packets or index.missing_packets or len(shown) != expected:
            raise VideoReadError(
                self.path,
                f"{expected + index.missing_packets} packets give {len(shown)} frames, and without presentation "
                "times these cannot be told apart; re-encode it",
            )
        return replace(index, times=np.arange(len(shown), dtype=np.int64))


def _open(path: Path) -> tuple[InputContainer, VideoStream]:
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        # An absolute path: FFmpeg would take the part before a colon for a protocol.
        container = av.open(str(path.absolute()), options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoReadError(path, explain(path)) from error
    stream = _video_stream(container)
    if stream is None:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "no"
        container.close()
        raise VideoReadError(path, f"it holds no video ({kinds} streams only)")
    try:
        stream.codec_context.open(strict=False)
    except (av.FFmpegError, ValueError) as error:
        container.close()
        raise VideoReadError(path, f"no decoder opens its codec: {error}") from error
    return container, stream


def _video_stream(container: InputContainer) -> VideoStream | None:
    """The stream that players show; cover pictures of audio files are none."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    stream = next((s for s in streams if s is best), streams[0] if streams else None)
    if stream is not None:
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
    return stream


def _is_last(packet: Packet[VideoStream]) -> bool:
    """The empty packet that ends a stream."""
    return packet.size == 0 and packet.pts is None and packet.dts is None


def _is_unseen_vp8(packet: Packet[VideoStream]) -> bool:
    """A VP8 packet that is only a reference for others: the show_frame bit is clear (RFC 6386, 9.1)."""
    return not memoryview(packet)[0] & 0x10


def _matrix(frame: VideoFrame) -> tuple[int, ...]:
    data = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(data, SideData):
        return orientation.IDENTITY
    return tuple(np.frombuffer(bytes(data), "=i4").tolist())
