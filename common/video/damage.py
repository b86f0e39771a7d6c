"""Says in plain words why a file cannot be opened as video."""

from pathlib import Path

TEXT_STARTS = (b"<", b"{", b"version https://git-lfs", b"#")


def explain(path: Path) -> str:
    """Looks at the bytes of a file that no demuxer accepts.

    Returns:
        The likeliest reason, with the remedy.
    """
    size = path.stat().st_size
    if size == 0:
        return "the file is empty; fetch it again"
    with open(path, "rb") as file:
        head = file.read(512)
    if head.lstrip().startswith(TEXT_STARTS):
        return "the file is text (an error page, a pointer or a playlist?), not video; fetch it again"
    if head[4:8] == b"ftyp" and b"moov" not in _boxes(path, size):
        return "its index (the moov box) is missing: the recording or the download was not finished"
    return "no known video container, or its header is damaged"


def _boxes(path: Path, size: int) -> list[bytes]:
    """Types of the top-level boxes of an MP4 file (ISO 14496-12, 4.2)."""
    kinds: list[bytes] = []
    with open(path, "rb") as file:
        place = 0
        while place + 8 <= size:
            file.seek(place)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            if length < 8:  # 0 means "to the end of the file"; smaller numbers are damage
                return [*kinds, header[4:8]]
            kinds.append(header[4:8])
            place += length
    return kinds
