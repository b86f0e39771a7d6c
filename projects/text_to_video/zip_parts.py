"""Zip files that were cut into parts for downloading, joined into one again.

OpenVid-1M names them `OpenVid_part73_partaa`, `OpenVid_part73_partab`, ... and `OpenVidHD_part_15_part_aa`, ...;
`OpenVid_part73.zip_partaa` is read too. The parts stay; they may be removed once the joined file is there.
"""

import logging
import os
import re
import string
import zipfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from common.disk import DiskSpaceError, human, shortage
from common.progress import track

log = logging.getLogger(__name__)
PART = re.compile(r"(?P<stem>.+?)(?:\.zip)?_part_?(?P<letters>[a-z]{2})\Z")
ORDER = ["".join(pair) for pair in product(string.ascii_lowercase, repeat=2)]  # aa, ab, ...
CHUNK = 1 << 24  # bytes


class ZipError(ValueError):
    """A zip or a part of one is missing, cut off or damaged; names the file and the remedy."""


def find_parts(folder: Path) -> dict[Path, list[Path]]:
    """Parts by the zip that they make, in order.

    Raises:
        ZipError: a part in the middle is missing, or has another size than the first: `split` makes all but the last
            alike.
    """
    found: dict[Path, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = PART.match(path.name)
        if match is not None and path.is_file():
            parts = found.setdefault(folder / f"{match['stem']}.zip", {})
            if match["letters"] in parts:
                raise ZipError(f"{parts[match['letters']]} and {path} are the same part; remove one")
            parts[match["letters"]] = path
    for target, parts in found.items():
        _check(target, parts)
    return {target: [parts[letters] for letters in sorted(parts)] for target, parts in found.items()}


def join_parts(folders: Sequence[Path]) -> int:
    """Joins what is in parts; a zip that is there and as long as its parts is kept. Returns how many were joined.

    Raises:
        ZipError: parts are missing, or what they make is no zip.
        DiskSpaceError: the joined files do not fit; nothing was written.
    """
    joined = 0
    for folder in folders:
        parts = find_parts(folder)
        for leftover in folder.glob(".*.zip.joining"):  # of a run that was killed
            leftover.unlink()
        open_ones = {target: each for target, each in parts.items() if not _joined(target, each)}
        if not open_ones:
            continue
        _check_space(folder, open_ones)
        for target, each in track(open_ones.items(), description="joining parts", total=len(open_ones)):
            _join(target, each)
        joined += len(open_ones)
    return joined


def _check(target: Path, parts: Mapping[str, Path]) -> None:
    letters = sorted(parts)
    missing = [each for each in ORDER[: ORDER.index(letters[-1]) + 1] if each not in parts]
    if missing:
        raise ZipError(f"part {missing[0]} of {target.name} is missing in {target.parent}; download it")
    sizes = [parts[each].stat().st_size for each in letters]
    for each, size in zip(letters[:-1], sizes, strict=False):
        if size != sizes[0] or size == 0:
            raise ZipError(f"{parts[each]} has {size} bytes, the first part {sizes[0]}; download it again")
    if sizes[-1] > sizes[0] or sizes[-1] == 0:
        raise ZipError(
            f"{parts[letters[-1]]} has {sizes[-1]} bytes, the first part {sizes[0]}; download the parts again"
        )


def _joined(target: Path, parts: Sequence[Path]) -> bool:
    total = sum(part.stat().st_size for part in parts)
    if not target.exists():
        return False
    if target.stat().st_size != total:
        raise ZipError(
            f"{target} has {target.stat().st_size} bytes, its {len(parts)} parts have {total}; "
            "remove what is incomplete"
        )
    return True


def _check_space(folder: Path, parts: Mapping[Path, Sequence[Path]]) -> None:
    size = sum(part.stat().st_size for each in parts.values() for part in each)
    if (problem := shortage(f"joining the parts of {len(parts)} zip files", size, folder)) is not None:
        raise DiskSpaceError(f"{problem}; the first is {next(iter(parts))}")


def _join(target: Path, parts: Sequence[Path]) -> None:
    temporary = target.with_name(f".{target.name}.joining")
    try:
        with open(temporary, "wb") as whole:
            for part in parts:
                with open(part, "rb") as file:
                    while chunk := file.read(CHUNK):
                        whole.write(chunk)
            whole.flush()
            os.fsync(whole.fileno())
        _open_both_ends(temporary)
        temporary.replace(target)
    except zipfile.BadZipFile as error:
        raise ZipError(
            f"{target.name} out of {parts[0].name} to {parts[-1].name} is no whole zip ({error}): "
            "a part after the last is missing, or one is damaged; download the parts again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    log.info("%s: %s out of %d parts", target, human(target.stat().st_size), len(parts))


def _open_both_ends(path: Path) -> None:
    """Opens the first and the last member: the directory, at the end, alone does not show that bytes are missing."""
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        for info in (members[:1] + members[-1:]) if members else ():
            file.open(info).close()
