"""Batches of pictures and clips; and that none of the known defects of such loaders is in them."""

import pickle
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from common.config import ROOT
from common.encoders.tower import load_tower
from common.latent.vae import load_codec
from common.types import Pick
from projects.genhancer.batch import Batch
from projects.genhancer.clip_media import ClipTars, VideoFiles
from projects.genhancer.crops import Box, Crops, cut
from projects.genhancer.data import Clips, Images, example
from projects.genhancer.media import Choose, ImageTars, Shown
from projects.genhancer.samplers import BySsim, Dilated, Sliding, View
from projects.genhancer.sampling import Choice, LeakError, NoWindowError
from tests.common.video.files import X264, encode
from tests.projects.genhancer.small_clips import (
    LATENT,
    SIZE,
    clips,
    images,
    jpeg,
    numbers_of,
    picture,
    write_clips,
    write_images,
)

FREE = Crops()
TINY_CLIP, TINY_VAE = (str(ROOT / "common" / "tiny" / "weights" / name) for name in ("clip", "vae"))


def batch_of(rows: Images, *positions: int) -> Batch:
    """Samples at these positions of the order, each of the row of that number, modulo their count."""
    return rows.collate([rows[Pick(position % len(rows), position, 2.0)] for position in positions])


# Pictures and clips


def test_a_picture_is_shown_and_rebuilt_in_one_crop(tmp_path: Path) -> None:
    batch = batch_of(images(write_images(tmp_path, 5), crops=FREE), 0, 3, 4)
    assert batch.conditions is not None
    assert batch.target is not None
    assert torch.equal(batch.conditions[:, 0], batch.target)
    assert batch.rows.tolist() == [0, 3, 4]
    assert batch.times.tolist() == [[0.0, 0.0]] * 3
    assert batch.draws.noise.shape == (3, *LATENT)
    assert batch.normalizer == 2.0


def test_shown_and_rebuilt_have_sizes_of_their_own(tmp_path: Path) -> None:
    batch = batch_of(images(write_images(tmp_path, 2), size=32, target=16), 0, 1)
    assert batch.conditions is not None
    assert batch.target is not None
    assert (batch.conditions.shape, batch.target.shape) == ((2, 1, 3, 32, 32), (2, 3, 16, 16))


def test_start_and_end_of_a_clip_with_its_middle(tmp_path: Path) -> None:
    batch = batch_of(clips(write_clips(tmp_path, [5, 7, 9])), 0, 1, 2)
    assert numbers_of(batch) == [[0, 4, 2], [100, 106, 103], [200, 208, 204]]
    assert batch.times.tolist() == [[0.0, 0.5, 0.25], [0.0, 0.75, 0.375], [0.0, 1.0, 0.5]]
    assert batch.times.dtype == torch.float32


def test_pictures_of_tars_in_the_layout_of_cc3m(tmp_path: Path) -> None:
    from common.data.tar import write_members

    for tar in range(2):
        members = []
        for number in range(3 * tar, 3 * tar + 3):
            members += [
                (f"{number:05d}.jpg", jpeg(picture(number))),
                (f"{number:05d}.txt", f"caption {number}".encode()),
            ]
            members.append((f"{number:05d}.json", b"{}"))
        with open(tmp_path / f"{tar:05d}.tar", "wb") as file:
            write_members(file, members)
    rows = images(tmp_path, media=partial(ImageTars, folder=str(tmp_path)))
    assert numbers_of(batch_of(rows, 5, 0, 4)) == [[5, 5], [0, 0], [4, 4]]
    assert (rows.name(4), rows.label(4)) == ("00001/00004", "caption 4")


def test_grey_pictures_are_shown_in_three_channels(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (SIZE, SIZE), 77).save(tmp_path / "a.png")
    batch = batch_of(images(tmp_path), 0)
    assert batch.target is not None
    assert batch.target.unique().tolist() == [77]


def test_clips_straight_from_video_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        encode(tmp_path / f"{name}.mp4", 13, *X264, height=SIZE, width=SIZE)  # at 30 a second
    media = partial(VideoFiles, folder=str(tmp_path), fps=10.0)
    rows = clips(tmp_path, media=media, sampler=Sliding(count=2, step=0.1))
    for position in range(6):
        (shown,) = numbers_of(batch_of(rows, position))
        assert shown[1:] == [shown[0] + 3, shown[0] + 6]
        assert shown[0] in (0, 3, 6)


def test_a_video_without_a_window_is_named(tmp_path: Path) -> None:
    encode(tmp_path / "short.mp4", 4, *X264)
    rows = clips(tmp_path, media=partial(VideoFiles, folder=str(tmp_path)), sampler=Sliding(count=3, step=0.1))
    with pytest.raises(NoWindowError, match=r"short\.mp4: 4 frames over 0\.10 s.*task=clip_frames"):
        rows[Pick(0, 0, 1.0)]


def test_frames_chosen_by_their_pictures(tmp_path: Path) -> None:
    batch = batch_of(clips(write_clips(tmp_path, [9]), sampler=BySsim(count=3)), 0)
    (shown,) = numbers_of(batch)
    assert len({*shown}) == 4
    assert sorted(shown)[2] == shown[-1]


def test_short_clips_are_refused_or_left_out(tmp_path: Path) -> None:
    folder = write_clips(tmp_path, [9, 2, 9, 1])
    with pytest.raises(ValueError, match=r"2 of 4 clips have no window.*the first is clip 1"):
        clips(folder)
    rows = clips(folder, max_short=0.5)
    assert [rows.name(row) for row in range(len(rows))] == ["clip 0", "clip 2"]
    assert numbers_of(batch_of(rows, 1)) == [[200, 208, 204]]


def test_only_the_first_rows(tmp_path: Path) -> None:
    assert len(images(write_images(tmp_path, 5), count=3)) == 3


# What a sample shows depends on its place in the run alone


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_sample_depends_on_seed_split_and_place(tmp_path: Path, split: str) -> None:
    folder = write_clips(tmp_path, [16, 16])
    changes: dict[str, Any] = {"sampler": Sliding(count=2, step=0.125), "crops": FREE, "split": split}
    together = batch_of(clips(folder, **changes), *range(8))
    apart = [batch_of(clips(folder, **changes), position) for position in range(8)]
    for part in ("conditions", "target", "times"):
        assert torch.equal(getattr(together, part), torch.cat([getattr(each, part) for each in apart]))
    for part, one in zip(together.draws, zip(*(each.draws for each in apart), strict=True), strict=True):
        assert torch.equal(part, torch.cat(one))
    other = batch_of(clips(folder, **{**changes, "seed": 1}), *range(8))
    assert not torch.equal(other.times, together.times)
    assert not torch.equal(other.draws.noise, together.draws.noise)


def test_a_data_set_travels_to_loader_processes(tmp_path: Path) -> None:
    rows = clips(write_clips(tmp_path, [5, 7]))
    batch_of(rows, 0)
    there = pickle.loads(pickle.dumps(rows))
    assert numbers_of(batch_of(there, 1)) == [[100, 106, 103]]


def test_dilations_grow_with_the_run(tmp_path: Path) -> None:
    rows = clips(write_clips(tmp_path, [16]), sampler=Dilated(count=3, step=0.125), samples=100)
    steps = [batch_of(rows, position).times[0].diff()[0].item() for position in range(100)]
    assert {*steps[:20]} == {0.125}
    assert {*steps[20:]} == {0.125, 0.25, 0.375}


def test_the_fingerprint_tells_choices_apart(tmp_path: Path) -> None:
    folder = write_clips(tmp_path, [16, 16])
    kinds = [
        clips(folder),
        clips(folder, crops=FREE),
        clips(folder, count=1),
        clips(folder, sampler=Sliding(count=2, step=0.125)),
        clips(folder, sampler=Sliding(count=2, step=0.25)),
        images(write_images(tmp_path / "images", 2)),
    ]
    assert len({rows.fingerprint for rows in kinds}) == len(kinds)
    assert clips(folder).fingerprint == kinds[0].fingerprint


# A frame of one clip among those of another


class Shuffled(ClipTars):
    """The defect: frames of different clips change places before they are grouped."""

    def show(self, number: int, choose: Choose) -> Shown:
        own, other = super().show(number, choose), super().show((number + 1) % len(self), choose)
        own.frames[-1] = other.frames[-1]
        return own


def of_one_clip(rows: Clips, count: int) -> bool:
    """Whether each sample shows different frames of one clip, the one that is asked for."""
    shown = numbers_of(batch_of(rows, *range(count)))
    names = [{rows.name(position % len(rows))} for position in range(count)]
    clip_of = [{f"clip {number // 100}" for number in numbers} for numbers in shown]
    return clip_of == names and all(len({*numbers}) == len(numbers) for numbers in shown)


def test_frames_of_a_clip_stay_together_however_the_tar_is_ordered(tmp_path: Path) -> None:
    lengths = [9, 8, 7, 9]
    members = list(range(sum(lengths) + len(lengths)))
    # The order of first appearance must stay that of the table; within it anything goes.
    rest = [place for place in members if place not in (0, 10, 19, 27)]
    random.Random(0).shuffle(rest)
    rows = clips(write_clips(tmp_path, lengths, order=[0, 10, 19, 27, *rest]), sampler=Sliding(count=2, step=0.125))
    assert of_one_clip(rows, 24)


def test_that_check_finds_frames_of_another_clip(tmp_path: Path) -> None:
    folder = write_clips(tmp_path, [9, 9, 9])
    assert of_one_clip(clips(folder), 6)
    assert not of_one_clip(clips(folder, media=partial(Shuffled, folder=str(folder))), 6)


def test_a_table_of_other_clips_is_refused(tmp_path: Path) -> None:
    folder = write_clips(tmp_path, [5, 5])
    lines = (folder / "clips.jsonl").read_text().splitlines(keepends=True)
    (folder / "clips.jsonl").write_text("".join(reversed(lines)))
    with pytest.raises(ValueError, match=r"clips\.jsonl lists 2 clips"):
        clips(folder)


# The frame to be rebuilt among those that are shown


class Leaking(Sliding):
    """The defect: what is rebuilt is shown as well."""

    def pick(self, view: View, *, source: Generator) -> Choice:
        choice = super().pick(view, source=source)
        return Choice(choice.conditions, choice.conditions[-1])


def test_a_sampler_that_leaks_is_refused(tmp_path: Path) -> None:
    rows = clips(write_clips(tmp_path, [9]), sampler=Leaking(count=2, step=0.125))
    with pytest.raises(LeakError, match="among those shown"):
        rows[Pick(0, 0, 1.0)]


# Pixels that are normalised more than once


class Normalised(Images):
    """The defect: the data set normalises, and so does the encoder."""

    def __getitem__(self, pick: Pick) -> Any:
        sample = super().__getitem__(pick)
        assert sample.conditions is not None
        assert sample.target is not None
        return sample._replace(conditions=sample.conditions / 127.5 - 1, target=sample.target / 127.5 - 1)


def test_pixels_reach_the_encoders_as_they_are_stored(tmp_path: Path) -> None:
    rows = images(write_images(tmp_path, 3))
    batch = batch_of(rows, 0, 1, 2)
    assert batch.conditions is not None
    assert batch.target is not None
    for number in range(3):
        stored = torch.from_numpy(picture(number)).permute(2, 0, 1)
        assert torch.equal(batch.target[number], stored)
        assert torch.equal(batch.conditions[number, 0], stored)


def test_encoders_refuse_pixels_that_are_normalised_already(tmp_path: Path) -> None:
    rows = images(write_images(tmp_path, 2), target=32, latent=[4, 8, 8])
    bad = Normalised(**{**vars_of(rows, tmp_path), "target": 32})
    good, wrong = batch_of(rows, 0), batch_of(bad, 0)
    tower, codec = load_tower(weights=TINY_CLIP), load_codec(weights=TINY_VAE)
    for batch, fits in ((good, True), (wrong, False)):
        assert batch.conditions is not None
        assert batch.target is not None
        for encode_it, pixels in ((tower.images, batch.conditions.flatten(0, 1)), (codec.encode, batch.target)):
            if fits:
                encode_it(pixels)
            else:
                with pytest.raises(ValueError, match="uint8"):
                    encode_it(pixels)


def vars_of(rows: Images, folder: Path) -> dict[str, Any]:
    """The arguments of a data set of pictures."""
    from projects.genhancer.media import ImageFolder

    return {
        "media": partial(ImageFolder, folder=str(folder)),
        "split": rows.split,
        "size": rows.size,
        "target": rows.target,
        "latent": [*rows.latent],
        "crops": rows.crops,
        "latents": None,
        "embeddings": None,
        "pictures": False,
        "seed": rows.seed,
    }


# A crop of its own for each frame


class EachItsOwn(Clips):
    """The defect: every frame is cropped by itself."""

    def _cut(self, frames: np.ndarray, box: Box) -> tuple[Tensor, Tensor]:
        height, width = frames.shape[1:3]
        boxes = [self.crops.draw(height, width, source=torch.Generator().manual_seed(k)) for k in range(len(frames))]
        each = [cut(frame[None], one, size=self.size) for frame, one in zip(frames, boxes, strict=True)]
        return torch.cat(each[:-1]), each[-1][0]


def aligned(kind: type[Clips], folder: Path) -> bool:
    """Whether equal frames of a clip are still equal when they have been cropped."""
    given = clips(folder)
    rows = kind(
        media=partial(ClipTars, folder=str(folder)),
        sampler=Sliding(count=3, step=0.125),
        crops=Crops(area=[0.3, 0.9]),
        **{name: getattr(given, name) for name in ("split", "size", "target", "seed", "pictures")},
        latent=LATENT,
        latents=None,
        embeddings=None,
    )
    batch = batch_of(rows, *range(6))
    assert batch.conditions is not None
    assert batch.target is not None
    return torch.equal(batch.conditions, batch.target[:, None].expand_as(batch.conditions))


def test_one_crop_for_all_frames_of_a_clip(tmp_path: Path) -> None:
    folder = write_clips(tmp_path, [6, 6], pictures=[picture(7)] * 6)
    assert aligned(Clips, folder)
    assert not aligned(EachItsOwn, folder)


# Labels


def test_labels_are_kept(tmp_path: Path) -> None:
    rows = clips(write_clips(tmp_path, [5, 2, 5]), max_short=0.5)
    assert [rows.label(row) for row in range(len(rows))] == ["label 0", "label 2"]


# What does not fit together


def test_a_latent_of_another_shape_is_refused(tmp_path: Path) -> None:
    codec = load_codec(weights=TINY_VAE)
    images(write_images(tmp_path, 1), target=32).refuse_other_codec(codec)
    with pytest.raises(ValueError, match=r"latent=\[4, 8, 8\].*makes \[4, 16, 16\] of 64 pixels"):
        images(tmp_path, target=64).refuse_other_codec(codec)


def test_a_tower_of_another_size_is_refused(tmp_path: Path) -> None:
    tower = load_tower(weights=TINY_CLIP)
    images(write_images(tmp_path, 1)).refuse_other_tower(tower, learns=True)
    with pytest.raises(ValueError, match="size=32, and the tower sees 64"):
        images(tmp_path, size=32).refuse_other_tower(tower, learns=False)


def test_an_example_has_the_shape_of_a_batch(tmp_path: Path) -> None:
    real = batch_of(clips(write_clips(tmp_path, [5, 5])), 0, 1)
    made = example(rows=2, conditions=2, size=SIZE, target=SIZE, latent=LATENT)
    for one, two in ((real.conditions, made.conditions), (real.target, made.target), (real.times, made.times)):
        assert one is not None
        assert two is not None
        assert (one.shape, one.dtype) == (two.shape, two.dtype)
    assert [part.shape for part in real.draws] == [part.shape for part in made.draws]


def test_no_rows_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no files"):
        images(tmp_path)
