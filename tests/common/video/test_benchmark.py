"""The decoder benchmark: its figures, and files that a decoder does not read."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from common.video.benchmark import decode_benchmark
from tests.common.video.files import Made


@pytest.mark.skipif(find_spec("decord") is None, reason="decord has no wheel for this machine")
def test_two_backends_on_good_and_refused_files(
    made: dict[str, Made], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deeper").mkdir()
    for name in ("ordinary.mp4", "cut_gop30.mp4"):
        shutil.copy(made[name].path, tmp_path / "deeper" / name)
    (tmp_path / "page.mp4").write_text("<html></html>")
    figures = decode_benchmark(folder=tmp_path, backends=["pyav", "decord"], frames=4, rounds=2)
    assert (figures["pyav/files"], figures["pyav/refused"]) == (2, 1)
    assert (figures["decord/files"], figures["decord/refused"]) == (1, 2)
    assert figures["pyav/ratio_to_pyav"] == 1
    assert figures["pyav/frames_per_second"] > 0
    assert figures["decord/frames_per_second"] > 0
    printed = capsys.readouterr().out
    assert "decord refused" in printed
    assert "hidden packets" in printed
    assert "is text" in printed


def test_a_backend_that_reads_nothing_has_no_speed(tmp_path: Path) -> None:
    (tmp_path / "page.mp4").write_text("<html></html>")
    figures = decode_benchmark(folder=tmp_path, backends=["pyav"], rounds=1)
    assert figures == {"pyav/files": 0, "pyav/refused": 1}


def test_what_cannot_be_measured_is_refused(made: dict[str, Made], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no video"):
        decode_benchmark(folder=tmp_path, backends=["pyav"])
    shutil.copy(made["one_frame.mp4"].path, tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="none may be empty"):
        decode_benchmark(folder=tmp_path, backends=[])
    with pytest.raises(ValueError, match="is not one of"):
        decode_benchmark(folder=tmp_path, backends=["opencv"])
