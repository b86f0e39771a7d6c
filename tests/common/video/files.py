"""Video files made on the spot: every picture carries its number in blocks that survive encoding."""

import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 64, 96
BLOCK, ACROSS, BITS = 16, 4, 12
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-crf", "18")


class Made(NamedTuple):
    """A file, and the numbers that FFmpeg's own program shows when it plays it."""

    path: Path
    numbers: list[int]


def draw(number: int, *, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """A picture, uint8 (H, W, 3), with `number` as 12 black or white blocks over a moving texture."""
    y, x = np.mgrid[:height, :width]
    picture = np.full((height, width, 3), 60, np.uint8)
    picture[..., 0] = (x * 2 + number * 3) % 256 // 2
    picture[..., 1] = (y * 3 + number) % 256 // 2
    for bit in range(BITS):
        top, left = bit // ACROSS * BLOCK, bit % ACROSS * BLOCK
        picture[top : top + BLOCK, left : left + BLOCK] = 235 if number >> bit & 1 else 16
    return picture


def number_of(picture: NDArray[np.uint8]) -> int:
    """Reads the number back from the middles of the blocks."""
    number = 0
    for bit in range(BITS):
        top, left = bit // ACROSS * BLOCK + 4, bit % ACROSS * BLOCK + 4
        number |= int(picture[top : top + 8, left : left + 8].mean() > 128) << bit
    return number


def ffmpeg(*arguments: str | Path, data: bytes | None = None) -> bytes:
    """Runs FFmpeg; returns its standard output."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    return done.stdout


def encoders() -> set[str]:
    """Names of the encoders that this FFmpeg has."""
    lines = ffmpeg("-encoders").decode().splitlines()
    return {line.split()[1] for line in lines if len(line.split()) > 1}


def encode(path: Path, count: int, *arguments: str, height: int = HEIGHT, width: int = WIDTH, turns: int = 0) -> Path:
    """Encodes pictures 0..count-1 at 30 a second, turned before as a tilted camera stores them."""
    pictures = [np.rot90(draw(i, height=height, width=width), turns) for i in range(count)]
    stored = "x".join(map(str, pictures[0].shape[1::-1]))
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", stored, "-r", "30", "-i", "-")
    ffmpeg(*raw, *arguments, path, data=b"".join(picture.tobytes() for picture in pictures))
    return path


def played(path: Path) -> list[int]:
    """The numbers that FFmpeg's program shows: hidden packets hidden, rotation applied."""
    stream = ffmpeg("-i", path, "-fps_mode", "passthrough", "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-")
    numbers, place = [], 0
    while place < len(stream):
        magic, size, depth, _ = stream[place : place + 64].split(b"\n", 3)
        width, height = map(int, size.split())
        place += len(magic) + len(size) + len(depth) + 3
        count = width * height * 3
        numbers.append(number_of(np.frombuffer(stream, np.uint8, count, place).reshape(height, width, 3)))
        place += count
    return numbers


def copy_part(source: Path, target: Path, start: float, *arguments: str) -> None:
    """Cuts by stream copy, as most clips of public data sets were cut."""
    ffmpeg("-ss", str(start), "-i", source, "-c", "copy", *arguments, target)


def retimed(expression: str) -> tuple[str, ...]:
    """Arguments that give frame N the presentation time `expression`, in milliseconds."""
    return (
        "-vf",
        f"settb=1/1000,setpts={expression}",
        "-fps_mode",
        "passthrough",
        "-enc_time_base",
        "1/1000",
    )


def _turned(folder: Path, name: str, degrees: int, *options: str) -> None:
    encode(folder / f"{name}_stored.mp4", 40, *X264, turns=-degrees // 90)
    display = ("-display_rotation:v:0", str(degrees), *options)
    ffmpeg(*display, "-i", folder / f"{name}_stored.mp4", "-c", "copy", folder / f"{name}.mp4")


Maker = Callable[[Path], object]


def _plain(name: str, count: int, *arguments: str, **size: int) -> Maker:
    return lambda folder: encode(folder / name, count, *arguments, **size)


def _cut(source: str, name: str, start: float, *arguments: str) -> Maker:
    return lambda folder: copy_part(folder / source, folder / name, start, *arguments)


def _with_sound(folder: Path) -> None:
    sound = ("-f", "lavfi", "-i", "sine=d=6.6")
    streams = ("-map", "1:v", "-map", "0:a", "-c:v", "copy", "-c:a", "aac")
    ffmpeg(*sound, "-i", folder / "gop250.mp4", *streams, folder / "sound.mp4")


def _with_unseen_references(folder: Path) -> None:
    """VP8 makes them in its second pass only."""
    vp8 = ("-c:v", "libvpx", "-b:v", "300k", "-auto-alt-ref", "1", "-lag-in-frames", "25", "-cpu-used", "2")
    for number in ("1", "2"):
        passes = ("-pass", number, "-passlogfile", str(folder / "passes"))
        encode(folder / "vp8_hidden.webm", 120, *vp8, "-arnr-maxframes", "7", *passes)


def _received_midway(folder: Path) -> None:
    data = (folder / "copied.ts").read_bytes()
    (folder / "midway.ts").write_bytes(data[188 * 40 :])  # TS packets have 188 bytes


X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params")
VP9 = ("-c:v", "libvpx-vp9", "-crf", "20", "-b:v", "0", "-deadline", "realtime", "-cpu-used", "8")
MPEG4 = ("-c:v", "mpeg4", "-q:v", "2", "-bf", "2", "-g", "24")

# In order: cuts and copies come after what they are made of. The encoder is None where every FFmpeg has it.
GOOD: dict[str, tuple[str | None, Maker]] = {
    "ordinary.mp4": ("libx264", _plain("ordinary.mp4", 200, *X264, "-g", "30", "-bf", "3")),
    "gop250.mp4": ("libx264", _plain("gop250.mp4", 200, *X264, "-g", "250", "-sc_threshold", "0")),
    "sound.mp4": ("libx264", _with_sound),
    "cut_gop250.mp4": ("libx264", _cut("gop250.mp4", "cut_gop250.mp4", 3.1)),
    "cut_gop30.mp4": ("libx264", _cut("ordinary.mp4", "cut_gop30.mp4", 2.5)),
    "cut_sound.mp4": ("libx264", _cut("sound.mp4", "cut_sound.mp4", 3.3)),
    "cut_to_zero.mp4": (
        "libx264",
        _cut("ordinary.mp4", "cut_to_zero.mp4", 2.5, "-avoid_negative_ts", "make_zero"),
    ),
    "variable_rate.mp4": ("libx264", _plain("variable_rate.mp4", 90, *X264, *retimed("N*40+mod(N\\,7)*5"))),
    "rate_change.mp4": (
        "libx264",
        _plain("rate_change.mp4", 90, *X264, *retimed("if(lt(N\\,45)\\,N*40\\,1800+(N-45)*100)")),
    ),
    "open_gop.mp4": (
        "libx264",
        _plain("open_gop.mp4", 90, *X264, "-x264-params", "open-gop=1:keyint=20:bframes=3"),
    ),
    "fragmented.mp4": (
        "libx264",
        _plain("fragmented.mp4", 60, *X264, "-g", "20", "-movflags", "frag_keyframe+empty_moov"),
    ),
    "b_frames.avi": (None, _plain("b_frames.avi", 90, *MPEG4)),
    "no_b_frames.avi": (None, _plain("no_b_frames.avi", 60, "-c:v", "mpeg4", "-q:v", "2", "-g", "20")),
    "h264.avi": ("libx264", _plain("h264.avi", 90, *X264, "-g", "24")),
    "mpeg4.mp4": (None, _plain("mpeg4.mp4", 60, *MPEG4)),
    "copied.ts": ("libx264", _cut("ordinary.mp4", "copied.ts", 0)),
    "intra_refresh.ts": (
        "libx264",
        _plain("intra_refresh.ts", 60, *X264, "-x264-params", "intra-refresh=1:keyint=20"),
    ),
    "copied.mkv": ("libx264", _cut("ordinary.mp4", "copied.mkv", 0)),
    "program.mpg": (None, _plain("program.mpg", 60, "-c:v", "mpeg2video", "-q:v", "2", "-bf", "2")),
    "hevc.mp4": ("libx265", _plain("hevc.mp4", 60, *X265, "log-level=error:keyint=20:bframes=3")),
    "cut_open_gop.mkv": ("libx264", _cut("open_gop.mp4", "cut_open_gop.mkv", 1.6)),
    "cut_hevc.ts": ("libx265", _cut("hevc.mp4", "cut_hevc.ts", 0.8)),
    "cut_hevc.mkv": ("libx265", _cut("hevc.mp4", "cut_hevc.mkv", 0.8)),
    "midway.ts": ("libx264", _received_midway),
    "raw.h264": ("libx264", _plain("raw.h264", 60, *X264)),
    "vp9.webm": ("libvpx-vp9", _plain("vp9.webm", 60, *VP9, "-g", "25")),
    "vp8_hidden.webm": ("libvpx", _with_unseen_references),
    "av1.mp4": ("libsvtav1", _plain("av1.mp4", 40, "-c:v", "libsvtav1", "-preset", "12", "-crf", "25")),
    "ten_bit.mp4": (
        "libx264",
        _plain("ten_bit.mp4", 40, "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p10le"),
    ),
    "rotated_90.mp4": ("libx264", lambda folder: _turned(folder, "rotated_90", 90)),
    "rotated_180.mp4": ("libx264", lambda folder: _turned(folder, "rotated_180", 180)),
    "rotated_270.mp4": ("libx264", lambda folder: _turned(folder, "rotated_270", 270)),
    "mirrored.mp4": ("libx264", lambda folder: _turned(folder, "mirrored", 90, "-display_hflip:v:0")),
    "portrait.mp4": ("libx264", _plain("portrait.mp4", 40, *X264, height=96, width=64)),
    "odd_size.mp4": (
        "libx264",
        _plain("odd_size.mp4", 40, "-c:v", "libx264", "-pix_fmt", "yuv444p", height=65, width=99),
    ),
    "one_frame.mp4": ("libx264", _plain("one_frame.mp4", 1, *X264)),
}


def make(folder: Path) -> dict[str, Made]:
    """Makes every file of `GOOD` for which there is an encoder."""
    known = encoders()
    made = {}
    for name, (encoder, maker) in GOOD.items():
        if encoder is None or encoder in known:
            maker(folder)
            made[name] = Made(folder / name, played(folder / name))
    return made


def cut_off(source: Path, target: Path, share: float) -> None:
    """The first part of a file, as an interrupted download leaves it."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])


def zero(source: Path, target: Path, count: int) -> None:
    """A hole of `count` zero bytes in the middle of the pictures."""
    data = bytearray(source.read_bytes())
    start = data.find(b"mdat")
    middle = start + (len(data) - start) // 2
    data[middle : middle + count] = bytes(count)
    target.write_bytes(data)


def flip_bits(source: Path, target: Path, count: int) -> None:
    """Flipped bits in the middle third of the pictures."""
    data = bytearray(source.read_bytes())
    start = data.find(b"mdat")
    third = (len(data) - start) // 3
    chance = random.Random(0)
    for _ in range(count):
        data[start + third + chance.randrange(third)] ^= 1 << chance.randrange(8)
    target.write_bytes(data)
