"""GIFs, folders, lists and single images by the same two functions."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.video.decode import VideoReadError, probe, read
from tests.common.video.files import draw, number_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "frames").mkdir()
    for i in range(12):
        Image.fromarray(draw(i)).save(tmp_path / "frames" / f"frame_{i}.png")
    (tmp_path / "frames" / "notes.txt").write_text("not a frame")
    (tmp_path / "frames" / ".hidden.png").write_text("not a frame")
    return tmp_path / "frames"


@pytest.fixture
def gif(tmp_path: Path) -> Path:
    pictures = [Image.fromarray(draw(i)) for i in range(10)]
    times = [40, 60, 0, 40, 40, 40, 40, 40, 40, 40]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=times, loop=0)
    return tmp_path / "a.gif"


def test_a_folder_is_read_in_the_order_of_its_numbers(folder: Path) -> None:
    info = probe(folder)
    assert (info.num_frames, info.height, info.width, info.fps, info.container) == (12, 64, 96, 1.0, "images")
    clip = read(folder, [11, 2, 10, 2])
    assert [number_of(frame) for frame in clip.frames] == [11, 2, 10, 2]
    assert clip.seconds.tolist() == [11, 2, 10, 2]
    np.testing.assert_array_equal(clip.frames[1], draw(2))


def test_a_list_is_read_in_the_order_given(folder: Path) -> None:
    paths = [folder / "frame_7.png", str(folder / "frame_3.png"), folder / "frame_5.png"]
    assert [number_of(frame) for frame in read(paths, range(3)).frames] == [7, 3, 5]


def test_one_image_is_a_clip_of_one_frame(folder: Path) -> None:
    info = probe(folder / "frame_4.png")
    assert (info.num_frames, info.codec, info.fps) == (1, "png", 0)
    assert number_of(read(folder / "frame_4.png", [0]).frames[0]) == 4


def test_a_gif_has_its_own_times(gif: Path) -> None:
    info = probe(gif)
    assert info.num_frames == 10
    np.testing.assert_allclose(info.seconds[:5], [0, 0.04, 0.1, 0.2, 0.24])
    assert [number_of(frame) for frame in read(gif, [9, 0, 4, 4]).frames] == [9, 0, 4, 4]


def test_the_backend_does_not_matter_to_images(gif: Path) -> None:
    np.testing.assert_array_equal(read(gif, [1, 8], backend="decord").frames, read(gif, [1, 8], backend="pyav").frames)


def test_grey_palette_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    Image.new("L", (4, 3), 90).save(tmp_path / "0.png")
    Image.new("RGBA", (4, 3), (200, 10, 20, 0)).save(tmp_path / "1.png")
    Image.new("P", (4, 3), 0).save(tmp_path / "2.png")
    frames = read(tmp_path, range(3)).frames
    assert frames.shape == (3, 3, 4, 3)
    assert (frames[0] == 90).all()
    assert (frames[1] == 0).all()


def test_a_photo_is_turned_upright_by_its_tag(tmp_path: Path) -> None:
    picture = Image.fromarray(np.rot90(draw(9)))
    tag = Image.Exif()
    tag[0x0112] = 6  # shown after a quarter turn clockwise
    picture.save(tmp_path / "a.png", exif=tag)
    assert (probe(tmp_path / "a.png").height, number_of(read(tmp_path / "a.png", [0]).frames[0])) == (64, 9)


def test_images_of_different_sizes_are_no_clip(folder: Path) -> None:
    Image.fromarray(draw(3, height=80)).save(folder / "frame_3.png")
    assert read(folder, [0, 1]).frames.shape[0] == 2
    with pytest.raises(VideoReadError, match="picture size changes"):
        read(folder, [0, 3])


def _page(path: Path) -> None:
    path.write_text("<html>404</html>")


def _cut(path: Path) -> None:
    Image.fromarray(draw(1)).save(path)
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(("damage", "reason"), [(_page, "not an image"), (_cut, "damaged image")])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_broken_image_is_an_error_with_its_own_name(damage: object, reason: str, suffix: str, tmp_path: Path) -> None:
    Image.fromarray(draw(0)).save(tmp_path / f"0{suffix}")
    damage(tmp_path / f"1{suffix}")  # type: ignore[operator]
    assert read(tmp_path, [0]).frames.shape[0] == 1
    with pytest.raises(VideoReadError, match=reason) as caught:
        read(tmp_path, [0, 1])
    assert caught.value.path == str(tmp_path / f"1{suffix}")


def test_what_holds_no_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VideoReadError, match="no images in it"):
        probe(tmp_path)
    with pytest.raises(VideoReadError, match="no images in it"):
        probe([])
    with pytest.raises(VideoReadError, match="no such file"):
        read([tmp_path / "a.png"], [0])
    with pytest.raises(VideoReadError, match="may hold image files only"):
        read([tmp_path / "a.mp4", tmp_path / "b.mp4"], [0])


def test_a_frame_that_is_not_there_is_an_error(folder: Path, gif: Path) -> None:
    for source, count in ((folder, 12), (gif, 10)):
        with pytest.raises(VideoReadError, match=f"frame {count} asked for"):
            read(source, [count])
