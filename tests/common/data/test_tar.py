"""Tars as samples: read at random through an index, and refused where something would be lost."""

import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.data.tar import SUFFIX, TarError, TarSamples, find_tars, read_index, split_name, write_members

MEMBERS = [
    (f"{number:04d}.{part}", f"{part} of {number}".encode() * (number + 1))
    for number in range(5)
    for part in ("jpg", "txt")
]


def write(path: Path, members: Sequence[tuple[str, bytes]] = MEMBERS) -> Path:
    with open(path, "wb") as file:
        write_members(file, members)
    return path


def test_every_part_of_every_sample_is_read_in_any_order(tmp_path: Path) -> None:
    samples = TarSamples([write(tmp_path / "a.tar")])
    assert len(samples) == 5
    for number in (4, 0, 3, 1, 2):
        assert samples.key(number) == f"{number:04d}"
        assert samples.parts(number) == ["jpg", "txt"]
        for part in ("txt", "jpg"):
            assert samples.read(number, part) == f"{part} of {number}".encode() * (number + 1)


def test_it_agrees_with_a_tar_made_by_others(tmp_path: Path) -> None:
    for name, content in MEMBERS:
        (tmp_path / "files" / "0").mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / "0" / name).write_bytes(content)
    shutil.make_archive(str(tmp_path / "other"), "tar", tmp_path / "files")
    samples = TarSamples([tmp_path / "other.tar"])
    found = {samples.key(number): samples.read(number, "jpg") for number in range(len(samples))}
    assert found == {f"0/{name[:4]}": content for name, content in MEMBERS if name.endswith("jpg")}


def test_members_of_a_sample_belong_together_wherever_they_lie(tmp_path: Path) -> None:
    names = ["a.0.jpg", "b.0.jpg", "a.1.jpg", "b.1.jpg", "b.json", "a.json"]
    samples = TarSamples([write(tmp_path / "a.tar", [(name, name.encode()) for name in names])])
    assert [samples.key(number) for number in range(2)] == ["a", "b"]
    assert [samples.parts(number) for number in range(2)] == [["0.jpg", "1.jpg", "json"], ["0.jpg", "1.jpg", "json"]]
    assert samples.read(1, "1.jpg") == b"b.1.jpg"


def test_samples_of_several_tars_follow_one_another(tmp_path: Path) -> None:
    first = write(tmp_path / "0.tar", MEMBERS[:4])
    second = write(tmp_path / "1.tar", MEMBERS[4:])
    samples = TarSamples([first, second])
    assert [samples.key(number) for number in range(5)] == [f"{number:04d}" for number in range(5)]
    assert [samples.tar(number) for number in (1, 2)] == [first, second]
    assert samples.read(3, "txt") == MEMBERS[7][1]


def test_the_index_is_kept_beside_the_tar_and_used(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar")
    made = read_index(path)
    beside = tmp_path / f"a.tar{SUFFIX}"
    record = json.loads(beside.read_text())
    assert [tuple(member) for member in record["members"]] == made
    record["members"] = record["members"][:2]
    beside.write_text(json.dumps(record))
    assert read_index(path) == made[:2]


@pytest.mark.parametrize("keep_size", [True, False])
def test_a_stale_index_is_made_anew(tmp_path: Path, keep_size: bool) -> None:
    path = write(tmp_path / "a.tar")
    read_index(path)
    other = [(f"9{name[1:]}", content) for name, content in (MEMBERS if keep_size else MEMBERS[:6])]
    write(path, other)
    assert [member.name for member in read_index(path)] == [name for name, _ in other]


def test_reading_goes_on_in_another_process(tmp_path: Path) -> None:
    samples = TarSamples([write(tmp_path / "a.tar")])
    samples.read(0, "jpg")
    assert pickle.loads(pickle.dumps(samples)).read(0, "jpg") == MEMBERS[0][1]


def test_the_fingerprint_tells_contents_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar")
    before = TarSamples([path]).fingerprint
    assert TarSamples([path]).fingerprint == before
    write(path, MEMBERS[2:])
    assert TarSamples([path]).fingerprint != before


def test_the_same_members_are_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.tar").read_bytes() == write(tmp_path / "b.tar").read_bytes()


# What is refused


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("video/txt", "no extension"),  # WebDataset drops it: the labels are lost
        (".hidden.jpg", "begins with a dot"),
        ("../a.jpg", "leaves the archive"),
        ("/etc/a.jpg", "leaves the archive"),
        ("a/../../b.jpg", "leaves the archive"),
    ],
)
def test_names_that_are_unsafe_or_would_be_dropped(tmp_path: Path, name: str, message: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(TarError, match=message):
        TarSamples([tmp_path / "a.tar"])
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "b.tar", [(name, b"x")])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = kind, "b.jpg"
        tar.addfile(info)
    with pytest.raises(TarError, match=r"a\.jpg is a link"):
        TarSamples([tmp_path / "a.tar"])


def test_a_tar_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    content = write(tmp_path / "whole.tar").read_bytes()
    data = 1024 * len(MEMBERS)  # a header and a block of content each
    for size in (100, 512, 700, 1024, 1500, data - 1, data):
        (tmp_path / "cut.tar").write_bytes(content[:size])
        with pytest.raises(TarError, match=r"cut\.tar .*fetch it again"):
            TarSamples([tmp_path / "cut.tar"])


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.add(write(tmp_path / "b.tar"), "b.jpg")
    with pytest.raises(TarError, match="uncompressed"):
        TarSamples([tmp_path / "a.tar"])


@pytest.mark.parametrize("names", [["a.jpg", "a.jpg"], ["a.jpg", "a.JPG"]])
def test_a_part_that_a_sample_has_twice_is_refused(tmp_path: Path, names: list[str]) -> None:
    path = write(tmp_path / "a.tar", [("b.jpg", b""), *((name, b"x") for name in names)])
    with pytest.raises(TarError, match="twice"):
        TarSamples([path])


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    samples = TarSamples([write(tmp_path / "a.tar", [("a.jpg", b"x"), ("b.json", b"x")])])
    with pytest.raises(TarError, match=r"sample a has no \.json, only \['jpg'\]"):
        samples.read(0, "json")


def test_a_tar_that_has_become_shorter_is_named(tmp_path: Path) -> None:
    samples = TarSamples([write(tmp_path / "a.tar")])
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(TarError, match="shorter"):
        samples.read(1, "jpg")


def test_no_tar_at_all(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(TarError, match=r"holds no \.tar"):
            find_tars(folder)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.jpg", ("a", "jpg")), ("x.y/a.0.JPG", ("x.y/a", "0.jpg")), ("0/1/a.tar.gz", ("0/1/a", "tar.gz"))],
)
def test_a_key_ends_at_the_first_dot_of_its_base_name(name: str, expected: tuple[str, str]) -> None:
    assert split_name(name) == expected
