"""What a model is shown: every kind of source, distinct frames, the views, and errors that name the sample."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from common.chat.answers import Asked
from common.chat.request import Unreadable, question
from common.chat.views import VIEWS
from common.data.conversations import DataError, Turn
from common.text.mask import TooLongError
from common.types import Pick
from common.video import decode
from common.video.decode import VideoReadError, read
from common.video.plan import FramesPerSecond, UniformFrames
from common.video.transform import resize
from projects.llava_video import data as data_module
from projects.llava_video.data import Row, VideoConversations
from tests.projects.llava_video.tiny import GRID, SIZE, batch_of, entry, make_rows, picture


def pixels(data: VideoConversations, number: int = 0) -> torch.Tensor:
    row = data[Pick(number, number, 1.0)]
    assert isinstance(row, Row)
    assert row.pixels is not None
    return row.pixels


FRAME_LIST = [f"four/frame_{number}.png" for number in (3, 0, 2)]


def test_every_kind_of_source_in_one_batch(clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    entries = [entry(name) for name in ("long.mp4", "six.gif", "four", FRAME_LIST, "one.png", None)]
    data = make_rows(clips, entries, tokenizer)
    batch = batch_of(data)
    assert batch.num_frames == (5, 5, 4, 3, 1)
    assert batch.pixels is not None
    assert batch.pixels.dtype == torch.uint8
    assert batch.pixels.shape == (5, 5, 3, SIZE, SIZE)
    assert len(batch.text.visual_places) == (5 + 5 + 4 + 3 + 1) * GRID
    # What is read from the list and the folder is those images, in that order.
    for place, numbers in ((2, (0, 1, 2, 3)), (3, (3, 0, 2)), (4, (5,))):
        shown = resize(np.stack([picture(number) for number in numbers]), SIZE, SIZE)
        assert torch.equal(batch.pixels[place, : len(numbers)], torch.from_numpy(shown).permute(0, 3, 1, 2))


@pytest.mark.parametrize("name", ["long.mp4", "seven.mp4", "six.gif", "four"])
def test_frames_are_distinct_and_those_that_the_plan_names(
    name: str, clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    shown = pixels(make_rows(clips, [entry(name)], tokenizer, image_size=36))
    assert len({frame.numpy().tobytes() for frame in shown}) == len(shown) == (4 if name == "four" else 5)
    total = decode.probe(clips / name).num_frames
    expected = read(clips / name, [place * (total - 1) // (len(shown) - 1) for place in range(len(shown))])
    resized = resize(expected.frames, 36, 36)
    assert torch.equal(shown, torch.from_numpy(resized).permute(0, 3, 1, 2))


def test_frames_of_their_own_size_are_untouched(clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    square = picture(3, height=SIZE, width=SIZE)
    Image.fromarray(square).save(clips / "square.png")
    shown = pixels(make_rows(clips, [entry("square.png")], tokenizer))
    assert np.array_equal(shown[0].permute(1, 2, 0).numpy(), square)


def test_frames_by_time_give_clips_their_own_length(clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    plan = FramesPerSecond(fps=4, max_frames=5)  # the files have 8 a second
    data = make_rows(clips, [entry("long.mp4"), entry("short.mp4"), entry("four"), entry(None)], tokenizer, plan=plan)
    batch = batch_of(data)
    assert batch.num_frames == (5, 2, 4)
    assert [data.frames[name] for name in ("long.mp4", "short.mp4", "four")] == [5, 2, 4]
    assert torch.equal(batch.pixels[1, :2], pixels(data, 1))  # type: ignore[index]
    assert not batch.pixels[1, 2:].any()  # type: ignore[index]


# Views


def test_views_take_away_what_they_say(clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    shown = {view: batch_of(make_rows(clips, [entry("long.mp4")], tokenizer, view=view)).pixels for view in VIEWS}
    real = shown["real"]
    assert real is not None
    assert torch.equal(shown["reversed"], real.flip(1))  # type: ignore[arg-type]
    assert torch.equal(shown["middle"], real[:, 2:3].expand_as(real))  # type: ignore[arg-type]
    assert not shown["blind"].any()  # type: ignore[union-attr]
    shuffled = shown["shuffled"]
    assert shuffled is not None
    assert not torch.equal(shuffled, real)
    assert {frame.numpy().tobytes() for frame in shuffled[0]} == {frame.numpy().tobytes() for frame in real[0]}
    assert torch.equal(shuffled, batch_of(make_rows(clips, [entry("long.mp4")], tokenizer, view="shuffled")).pixels)


def test_an_unknown_view_is_named(clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="view=sideways"):
        make_rows(clips, [entry("long.mp4")], tokenizer, view="sideways")


# Errors


def guide_row(images: int, **more: Any) -> dict[str, Any]:
    parts = [{"type": "text", "text": "What is it?"}, *([{"type": "image"}] * images)]
    said = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]}]
    return {"conversation": said, "video_url": "long.mp4", **more}


def test_as_many_image_items_as_frames_or_an_error_that_names_the_sample(
    clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert batch_of(make_rows(clips, [guide_row(5, num_frames=5)], tokenizer)).num_frames == (5,)
    with pytest.raises(ValueError, match=r"rows\.json row 1: has 4 images, and 5 frames of long\.mp4.*data\.\*\.plan"):
        make_rows(clips, [guide_row(5), guide_row(4)], tokenizer)
    with pytest.raises(DataError, match=r"row 0, num_frames: is 3, the conversation has 5 images"):
        make_rows(clips, [guide_row(5, num_frames=3)], tokenizer)
    with pytest.raises(ValueError, match=r"rows\.json row 0: has 2 images, and 0 frames"):
        make_rows(clips, [entry(None, num_frames=2)], tokenizer)


def test_too_many_visual_tokens_are_refused_before_anything_is_decoded(
    clips: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(data_module, "read", never)
    entries = [entry("one.png"), entry("long.mp4")]
    with pytest.raises(ValueError, match=r"row 1: 5 frames are 45 visual tokens.*max_visual_tokens=44.*data\.\*\.plan"):
        make_rows(clips, entries, tokenizer, max_visual_tokens=44)
    make_rows(clips, entries, tokenizer, max_visual_tokens=45)
    with pytest.raises(TooLongError, match=r"row 1: .* tokens, max_tokens is 50"):
        make_rows(clips, entries, tokenizer, max_tokens=50)


def test_a_video_of_fewer_frames_is_an_error_that_names_it(clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = make_rows(clips, [entry("short.mp4")], tokenizer)
    with pytest.raises(VideoReadError, match=r"short\.mp4: 5 different frames asked of a clip of 3.*data\.\*\.plan"):
        data[Pick(0, 0, 1.0)]


@pytest.mark.parametrize("plan", [UniformFrames(frames=5), FramesPerSecond(fps=4, max_frames=5)])
def test_an_unreadable_file_stops_training_by_name(plan: Any, clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(VideoReadError, match=r"broken\.mp4"):
        make_rows(clips, [entry("broken.mp4")], tokenizer, plan=plan)[Pick(0, 0, 1.0)]


@pytest.mark.parametrize("plan", [UniformFrames(frames=5), FramesPerSecond(fps=4, max_frames=5)])
def test_an_unreadable_file_of_a_request_is_reported_beside_the_others(
    plan: Any, clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    entries = [entry("broken.mp4", "What is it?"), entry("long.mp4", "What is it?")]
    data = make_rows(clips, entries, tokenizer, plan=plan, request={})
    asked = data.collate([data[Pick(number, number, 1.0)] for number in range(2)])
    assert isinstance(asked, Asked)
    ((number, reason),) = asked.unreadable
    assert (number, type(asked.unreadable[0])) == (0, Unreadable)
    assert reason
    assert asked.batch is not None
    assert asked.batch.text.conversations.tolist() == [1]


def test_an_address_is_refused_with_the_command_that_fetches_it(
    clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(DataError, match=r"row 0.*https://a\.org/a\.mp4 is an address.*task=fetch_videos"):
        make_rows(clips, [entry("https://a.org/a.mp4")], tokenizer)


def test_a_missing_file_is_named(clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"row 1.*none\.mp4 is not there"):
        make_rows(clips, [entry("long.mp4"), entry("none.mp4")], tokenizer)


# Other ways in


def test_a_talk_looks_at_a_file_of_any_folder(clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    request = {"video": str(clips / "seven.mp4"), "prompt": "What is it?"}
    data = make_rows(clips, [entry("long.mp4")], tokenizer, request=request)
    data.media = Path("nowhere") if data.media == clips else data.media
    first = pixels(data)
    other = data.asking(question(str(clips / "long.mp4"), [Turn("Red?", None)]))
    assert first.shape == pixels(other).shape
    assert not torch.equal(first, pixels(other))
    assert [str(row.video) for row in data.text.conversations] == [str(clips / "seven.mp4")]


def test_order_and_resumption_see_the_rows(clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = make_rows(clips, [entry("long.mp4"), entry(None)], tokenizer)
    assert data.lengths.tolist() == [len(row.ids) for row in data.text.encoded]
    assert data.lengths[0] - data.lengths[1] >= 5 * GRID
    assert data.weights is not None
    assert data.weights.tolist() == [row.learned.sum() for row in data.text.encoded]
    assert make_rows(clips, [entry("long.mp4"), entry(None)], tokenizer).fingerprint == data.fingerprint
    assert make_rows(clips, [entry("seven.mp4"), entry(None)], tokenizer).fingerprint != data.fingerprint


def test_rows_travel_to_loader_processes(clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = make_rows(clips, [entry("long.mp4"), entry("four")], tokenizer)
    loader = torch.utils.data.DataLoader(
        data,
        batch_sampler=[[Pick(0, 0, 1.0), Pick(1, 1, 1.0)]],
        collate_fn=data.collate,
        num_workers=1,
    )
    (batch,) = loader
    assert torch.equal(batch.pixels, batch_of(data).pixels)
    assert json.loads(Path(data.media / "rows.json").read_text())
