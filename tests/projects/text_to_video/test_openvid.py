"""OpenVid-1M: official columns, limits without opening a video, joined and extracted zips, a table that can grow."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from common.disk import DiskSpaceError
from projects.text_to_video import openvid_csv, zip_members, zip_parts
from projects.text_to_video.clips import Clip, ClipTableError, media_of, read_clips, record_of
from projects.text_to_video.limits import Limits
from projects.text_to_video.openvid_csv import HEADER, CsvError, group_of, read_openvid
from projects.text_to_video.zip_map import MappingError
from projects.text_to_video.zip_parts import ZipError
from tests.experiments import in_turn
from tests.projects.text_to_video.openvid_files import (
    content_of,
    csv_text,
    files_below,
    prepare,
    row,
    split,
    write_csv,
    write_zip,
)

ROOT = Path(__file__).resolve().parents[3]
NAMES = [f"clip{number:02d}_{number}_0to120.mp4" for number in range(20)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twenty rows, of which the odd ones are too short; ten videos each in a zip and in a zip of parts."""
    rows = [row(name, seconds=3.9 if number % 2 else 4.0) for number, name in enumerate(NAMES)]
    write_csv(tmp_path / "OpenVid-1M.csv", rows)
    write_zip(tmp_path / "OpenVid_part0.zip", NAMES[:10])
    split(write_zip(tmp_path / "OpenVid_part1.zip", NAMES[10:]), 1500)
    return tmp_path


def test_clips_within_the_limits_are_extracted_and_listed(root: Path) -> None:
    figures = prepare(root)
    assert figures["joined"] == 1
    assert figures["extracted"] == 10
    assert {key: figures[key] for key in ("rows", "missing", "dropped_seconds")} == {
        "rows": 20,
        "missing": 0,
        "dropped_seconds": 10,
    }
    assert sum(figures[split] for split in ("train", "val", "test")) == 10
    clips = list(read_clips(root / "clips"))
    assert [clip.video for clip in clips] == NAMES[::2]
    assert sorted(files_below(root / "video")) == sorted(NAMES[::2])
    assert all((root / "video" / clip.video).read_bytes() == content_of(clip.video) for clip in clips)
    assert clips[0].caption == row(NAMES[0])["caption"]
    assert (clips[0].seconds, clips[0].fps, clips[0].frames, clips[0].side) == (4.0, 30.0, 150, 512)
    assert (clips[0].aesthetic, clips[0].motion, clips[0].consistency, clips[0].camera) == (5.25, 3.5, 0.99, "pan_left")
    assert media_of(root / "clips") == (root / "video").resolve()
    assert record_of(root / "clips")["figures"]["rows"] == 20


def test_started_again_nothing_is_touched(root: Path) -> None:
    first = prepare(root)

    def state() -> dict[str, int]:
        places = [*(root / "video").iterdir(), root / "OpenVid_part1.zip", root / "clips/clips.jsonl"]
        return {str(path): path.stat().st_mtime_ns for path in [*places, root / "clips/clips.json"]}

    before = state()
    again = prepare(root)
    assert again == first | {"joined": 0, "extracted": 0}
    assert state() == before


@pytest.mark.parametrize("form", ["{stem}_part{letters}", "{stem}_part_{letters}", "{stem}.zip_part{letters}"])
def test_parts_are_joined_byte_for_byte(tmp_path: Path, form: str) -> None:
    whole = write_zip(tmp_path / "OpenVidHD_part_3.zip", NAMES)
    data = whole.read_bytes()
    assert len(split(whole, 1000, form)) > 3
    assert zip_parts.join_parts([tmp_path]) == 1
    assert whole.read_bytes() == data
    assert zip_parts.join_parts([tmp_path]) == 0


def break_parts(root: Path, how: str) -> None:
    parts = sorted(root.glob("OpenVid_part1_part*"))
    if how == "middle":
        parts[1].unlink()
    elif how == "last":
        parts[-1].unlink()
    elif how == "first":
        parts[0].unlink()
    elif how == "short":
        parts[1].write_bytes(parts[1].read_bytes()[:-1])
    elif how == "short first":
        parts[0].write_bytes(parts[0].read_bytes()[:-1])
    elif how == "swapped":
        first, second = parts[0].read_bytes(), parts[1].read_bytes()
        parts[0].write_bytes(second)
        parts[1].write_bytes(first)
    elif how == "joined short":
        (root / "OpenVid_part1.zip").write_bytes(b"PK")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("middle", "part ab of OpenVid_part1.zip is missing"),
        ("first", "part aa of OpenVid_part1.zip is missing"),
        ("last", "a part after the last is missing"),
        ("short", "OpenVid_part1_partab has 1499 bytes, the first part 1500"),
        ("short first", "download"),
        ("swapped", "or one is damaged"),
        ("joined short", "has 2 bytes, its .* parts have"),
    ],
)
def test_parts_that_make_no_zip_are_named(root: Path, how: str, message: str) -> None:
    break_parts(root, how)
    with pytest.raises(ZipError, match=message):
        prepare(root)
    assert not list(root.glob(".*.joining"))
    assert not (root / "clips/clips.jsonl").exists()


def test_two_parts_of_which_the_first_is_cut_off(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "OpenVid_part5.zip", NAMES)
    first, last = split(whole, whole.stat().st_size - 300)
    first.write_bytes(first.read_bytes()[:-200])
    assert last.stat().st_size < first.stat().st_size
    with pytest.raises(ZipError, match="or one is damaged"):
        zip_parts.join_parts([tmp_path])


@pytest.mark.parametrize("module", [zip_parts, zip_members])
def test_what_does_not_fit_is_refused_before_it_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    monkeypatch.setattr(module, "shortage", lambda what, size, folder: f"{what} needs {size}")
    with pytest.raises(DiskSpaceError, match=r"(joining the parts|extracting 10 videos).* needs \d{4}"):
        prepare(root)
    assert not list((root / "video").glob("*"))


def test_what_is_missing_is_listed_with_the_zip_to_fetch(root: Path) -> None:
    for part in root.glob("OpenVid_part1_part*"):
        part.unlink()
    mapping = root / "video_mappings"
    for number, names in enumerate((NAMES[:10], NAMES[10:])):
        path = mapping / f"OpenVid_part{number}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("video,video_path\n" + "".join(f"{name},videos/{name}\n" for name in names))
    with pytest.raises(ClipTableError, match=r"5 of 10 clips within the limits are missing.*missing\.jsonl"):
        prepare(root)
    assert not (root / "clips/clips.jsonl").exists()
    figures = prepare(root, max_missing=0.5, mapping=str(mapping))
    assert figures["missing"] == 5
    listed = [json.loads(line) for line in (root / "clips/missing.jsonl").read_text().splitlines()]
    assert listed == [{"video": name, "reason": "not on disk; fetch OpenVid_part1.zip"} for name in NAMES[10::2]]


def test_after_more_zips_the_table_grows_and_what_was_held_out_stays_so(root: Path) -> None:
    later = {part: part.read_bytes() for part in root.glob("OpenVid_part1_part*")}
    for part in later:
        part.unlink()
    prepare(root, max_missing=0.5)
    before = {clip.id: clip.split for clip in read_clips(root / "clips")}
    for part, data in later.items():
        part.write_bytes(data)
    prepare(root)
    after = {clip.id: clip.split for clip in read_clips(root / "clips")}
    assert len(before) == 5
    assert len(after) == 10
    assert before.items() < after.items()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("video,zip\n{0},OpenVid_part7.zip\n", "OpenVid_part7.zip"),
        ("video,part_id\n{0},7\n", "OpenVid_part7.zip"),
        ('[{{"part1": []}}, {{"part12": ["{0}"]}}]', "OpenVidHD_part_12.zip"),
    ],
)
def test_other_lists_of_videos_by_zip(root: Path, text: str, expected: str) -> None:
    path = root / ("map.json" if text.startswith("[") else "map.csv")
    path.write_text(text.format(NAMES[18]))
    for part in root.glob("OpenVid_part1_part*"):
        part.unlink()
    prepare(root, max_missing=1.0, mapping=str(path))
    listed = [json.loads(line) for line in (root / "clips/missing.jsonl").read_text().splitlines()]
    assert listed[-1] == {"video": NAMES[18], "reason": f"not on disk; fetch {expected}"}
    path.write_text("[1]" if path.suffix == ".json" else "name,part\na,b\n")
    with pytest.raises(MappingError):
        prepare(root, max_missing=1.0, mapping=str(path))


def test_a_zip_that_is_left_alone_is_the_reason(root: Path) -> None:
    with pytest.raises(ClipTableError, match="nothing is left for a table"):
        prepare(root, extraction="none")
    prepare(root)
    (root / "video" / NAMES[0]).unlink()
    figures = prepare(root, extraction="none", max_missing=0.1)
    assert (figures["missing"], figures["extracted"]) == (1, 0)
    assert "not extracted from OpenVid_part0.zip" in (root / "clips/missing.jsonl").read_text()


def test_all_videos_or_only_those_within_the_limits(root: Path) -> None:
    assert prepare(root, extraction="all")["extracted"] == 20
    assert prepare(root)["extracted"] == 0


def test_a_video_that_was_cut_off_is_extracted_again(root: Path) -> None:
    prepare(root)
    cut = root / "video" / NAMES[4]
    cut.write_bytes(cut.read_bytes()[:100])
    (root / "video" / f".{NAMES[2]}.extracting").write_bytes(b"of a run that was killed")
    assert prepare(root)["extracted"] == 1
    assert cut.read_bytes() == content_of(NAMES[4])
    assert sorted(files_below(root / "video")) == sorted(NAMES[::2])


def test_a_damaged_video_is_listed_and_the_others_are_there(root: Path) -> None:
    path = root / "OpenVid_part0.zip"
    path.write_bytes(path.read_bytes().replace(content_of(NAMES[6])[:80], b"?" * 80))
    figures = prepare(root, max_missing=0.1)
    assert (figures["extracted"], figures["missing"]) == (9, 1)
    assert "damaged in OpenVid_part0.zip (Bad CRC-32" in (root / "clips/missing.jsonl").read_text()
    assert not (root / "video" / NAMES[6]).exists()


def test_zips_that_are_cut_off_are_all_named(root: Path) -> None:
    for number in (3, 4):
        path = write_zip(root / f"OpenVid_part{number}.zip", ["a.mp4"])
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ZipError, match=r"2 zip files.*OpenVid_part3\.zip.*OpenVid_part4\.zip"):
        prepare(root)


def test_the_same_video_twice_is_one_and_different_ones_are_refused(root: Path) -> None:
    write_zip(root / "OpenVid_part2.zip", NAMES[:3])
    assert prepare(root)["extracted"] == 10
    write_zip(root / "OpenVid_part2.zip", NAMES[:3], size=500)
    with pytest.raises(ZipError, match=r"OpenVid_part0\.zip and .*OpenVid_part2\.zip hold different videos"):
        prepare(root)


def test_names_in_a_zip_lead_out_of_no_folder(root: Path) -> None:
    write_zip(root / "OpenVid_part2.zip", [f"../../../{NAMES[0]}"])
    prepare(root, extraction="all")
    assert (root / "video" / NAMES[0]).is_file()


# The CSV


def test_the_hd_file_tells_the_resolution(root: Path) -> None:
    extra = "other_0_0to90.mp4"
    hd = write_csv(root / "OpenVidHD.csv", [row(NAMES[4]), row(NAMES[10]), row(extra)])
    write_zip(root / "OpenVidHD_part_1.zip", [extra])
    prepare(root, hd_table=str(hd))
    sides = {clip.video: clip.side for clip in read_clips(root / "clips")}
    assert [*sides] == [*NAMES[::2], extra]
    assert {name for name, side in sides.items() if side == 1080} == {NAMES[4], NAMES[10], extra}
    figures = prepare(root, hd_table=str(hd), limits=Limits(side=[1080, None]), folder=str(root / "hd"))
    assert figures["rows"] == 21
    assert figures["dropped_side"] == 18
    prepare(root, table=None, hd_table=str(hd), folder=str(root / "alone"))
    assert [clip.video for clip in read_clips(root / "alone")] == [NAMES[4], NAMES[10], extra]


def broken(how: str) -> str:
    rows = [row(name) for name in NAMES[:3]]
    whole = csv_text(rows)
    return {
        "guide": csv_text([{"path": "a", "text": "b"}], ["path", "text"]),
        "order": csv_text(rows, [HEADER[1], HEADER[0], *HEADER[2:]]),
        "number": whole.replace("5.25", "high", 1),
        "negative": whole.replace(",5.0\n", ",-5.0\n", 1),
        "nan": whole.replace("3.5", "nan", 1),
        "cut in a number": whole[:-2],
        "cut in a caption": whole[: whole.rindex("walks")] + "\n",
        "cut in a row": whole[: whole.rindex(",30.0")] + "\n",
        "cell": whole.replace("pan_left", "pan,left", 1),
        "empty": "",
        "path": whole.replace(NAMES[1], f"../{NAMES[1]}"),
        "no caption": csv_text([row("a.mp4", caption=" ")]),
    }[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("guide", r"has the columns path, text; those of OpenVid-1M are video, caption, .*task=video_table"),
        ("order", "has the columns caption, video"),
        ("number", r"line 3: aesthetic score is 'high', which is not a number"),
        ("negative", r"line 3: seconds is '-5\.0', which is not a number above 0"),
        ("nan", r"line 3: motion score is 'nan'"),
        ("cut in a number", "does not end in a line break: it is cut off"),
        ("cut in a caption", r"after line \d: unexpected end of data; the file is cut off"),
        ("cut in a row", r"line 7: 7 cells where the header has 9"),
        ("cell", r"line 3: 10 cells where the header has 9"),
        ("empty", "does not end in a line break"),
        ("path", "is not the name of a file"),
        ("no caption", r"line 2: the caption of a\.mp4 is empty"),
    ],
)
def test_a_csv_that_is_not_whole_or_not_openvid_is_an_error(tmp_path: Path, how: str, message: str) -> None:
    path = tmp_path / "OpenVid-1M.csv"
    path.write_text(broken(how))
    with pytest.raises(CsvError, match=message):
        list(read_openvid(path, hd=set()))


def test_a_part_of_a_published_file_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    list(read_openvid(write_csv(tmp_path / "OpenVidHD.csv", [row("a.mp4")]), hd=set()))
    assert f"the published file has {openvid_csv.PUBLISHED['OpenVidHD.csv']}" in caplog.text


def test_a_video_that_is_listed_twice_is_an_error(root: Path) -> None:
    write_csv(root / "OpenVid-1M.csv", [row(NAMES[0]), row(NAMES[2]), row(NAMES[0], caption="Another.")])
    with pytest.raises(ClipTableError, match=f"two rows of the source are about {NAMES[0][:6]}"):
        prepare(root)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("---_iRTHryQ_13_0to241.mp4", "---_iRTHryQ"),
        ("---_iRTHryQ_0to241.mp4", "---_iRTHryQ"),
        ("celebv_-_Bdf9C0SAU_0.mp4", "celebv_-_Bdf9C0SAU"),
        ("pexels_1234.mp4", "pexels_1234"),
        ("_1_0to5.mp4", "_1_0to5"),
    ],
)
def test_clips_of_one_video_are_one_group(name: str, group: str) -> None:
    assert group_of(name) == group


def test_splits_depend_on_groups_and_the_seed_alone(root: Path) -> None:
    names = [f"video{number:03d}_{scene}_0to99.mp4" for number in range(100) for scene in range(3)]
    (root / "video").mkdir()
    for name in names:
        (root / "video" / name).touch()

    def splits(rows: list[str], folder: str, seed: int = 0) -> dict[str, str]:
        write_csv(root / "OpenVid-1M.csv", [row(name) for name in rows])
        prepare(root, zips=[], folder=str(root / folder), seed=seed)
        return {clip.id: clip.split for clip in read_clips(root / folder)}

    every = splits(names, "all")
    assert splits(names[::-3], "some").items() < every.items()
    assert len({(group_of(name), split) for name, split in every.items()}) == 100
    counts = [sum(split == wanted for split in every.values()) for wanted in ("train", "val", "test")]
    assert all(30 <= count <= 90 for count in counts[1:])  # 60 expected, in groups of three
    assert splits(names, "seed", seed=1) != every


def test_limits() -> None:
    clip = Clip(id="a", video="a.mp4", caption="A.", seconds=4.0, motion=2.0, camera="static")
    assert Limits(seconds=[4, None], motion=[None, 2.0], camera=["static"]).broken_by(clip) is None
    assert Limits(seconds=[4.001, None], motion=[None, 1]).broken_by(clip) == "seconds"
    assert Limits(motion=[2.5, None]).broken_by(clip) == "motion"
    assert Limits(camera=["pan_left"]).broken_by(clip) == "camera"
    with pytest.raises(ValueError, match=r"task\.limits\.aesthetic is set, but the aesthetic of a is not known"):
        Limits(aesthetic=[5, None]).broken_by(clip)
    for wrong in ([4], [5, 4], [4, float("nan")]):
        with pytest.raises(ValueError, match=r"task\.limits\.seconds=.*lowest and the highest"):
            Limits(seconds=wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"holdout": {"train": 0.1}}, "shares of val and test"),
        ({"holdout": {"val": 0.5, "test": 0.5}}, "below 1 together"),
        ({"max_missing": 2}, "a share from 0 to 1"),
        ({"extraction": "some"}, "selected, all or none"),
        ({"table": None}, "are both null"),
        ({"table": "nowhere.csv"}, "data/train/nowhere.csv of the data set"),
        ({"zips": ["nowhere"]}, "nowhere is no folder"),
        ({"workers": 0}, "1 or more"),
        ({"limits": Limits(seconds=[400, None])}, "nothing is left for a table"),
    ],
)
def test_bad_settings_are_named(root: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(root, **changes)


def test_other_limits_do_not_replace_a_table(root: Path) -> None:
    prepare(root)
    before = files_below(root / "clips")
    with pytest.raises(ClipTableError, match=r"other settings \(limits, seed\); remove it or choose another"):
        prepare(root, limits=Limits(), seed=1)
    assert files_below(root / "clips") == before


def test_a_table_that_is_damaged_is_named(root: Path) -> None:
    prepare(root)
    table = root / "clips/clips.jsonl"
    with pytest.raises(ClipTableError, match="no table of clips at"):
        list(read_clips(root / "nowhere"))
    with pytest.raises(ValueError, match="no split training"):
        list(read_clips(table, splits=["training"]))
    table.write_text(table.read_text()[:-40])
    with pytest.raises(ClipTableError, match=r"clips\.jsonl line 10: not a row"):
        list(read_clips(table))


# Killed for real


@in_turn(3)
def test_killed_while_joining_and_extracting_it_ends_with_the_same_files(tmp_path: Path) -> None:
    names = [f"v{number}_0to99.mp4" for number in range(3000)]

    def lay_out(root: Path) -> list[str]:
        write_csv(root / "openvid/data/train/OpenVid-1M.csv", [row(name) for name in names])
        split(write_zip(root / "openvid/OpenVid_part0.zip", names, size=20_000), 7_000_000)
        task = ["task=openvid", "task.hd_table=null", f"paths.data={root}", f"paths.outputs={root}"]
        return [sys.executable, "-m", "launchers.prepare", *task, "task.workers=1"]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(lay_out(whole), cwd=ROOT, check=True)
    command = lay_out(killed)
    for seen in (lambda: any(killed.rglob(".*.joining")), lambda: any(killed.glob("openvid/video/*.mp4"))):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while not seen():
                assert process.poll() is None, "it ended before it could be killed"
                time.sleep(0.001)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
    assert not (killed / "openvid/clips/clips.jsonl").exists()
    subprocess.run(command, cwd=ROOT, check=True)
    logs = {"prepare.log"}
    expected = {name: data for name, data in files_below(whole).items() if Path(name).name not in logs}
    assert {name: data for name, data in files_below(killed).items() if Path(name).name not in logs} == expected
