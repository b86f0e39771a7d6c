"""Conversations about videos, images and nothing but text: frames of a view, and batches."""

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from common.chat.answers import Asked
from common.chat.choice_rows import chat_rows
from common.chat.choices import Choices
from common.chat.decoder import Decoding
from common.chat.request import Request, Unreadable, reports
from common.chat.rows import ChatFormat, ChatText, VideoPlace
from common.chat.views import Arrange, arranged, check_view
from common.data.cache import Cache
from common.data.conversations import Conversation, DataError, load_conversations, resolve_source
from common.progress import track
from common.text.prompt import Template
from common.types import Build, Pick
from common.video.clip import Source
from common.video.decode import VideoInfo, VideoReadError, read
from common.video.plan import FramePlan
from common.video.transform import Mode, resize, to_channels_first
from projects.llava_video.families import Family, visual_tokens

log = logging.getLogger(__name__)


class Row(NamedTuple):
    """The visual side of a row."""

    pixels: Tensor | None  # uint8 (T, C, H, W); None: text only
    pick: Pick


class LlavaBatch(NamedTuple):
    """Conversations of a micro-batch and the clips that some of them are about, in their order."""

    text: ChatText
    pixels: Tensor | None  # uint8 (B', T, C, H, W), padded at the end of T; None: no row has a video
    num_frames: tuple[int, ...]  # B' numbers: frames of each that are there


class VideoConversations(Dataset[Row | Unreadable]):
    """Rows of an annotation file, or of a request."""

    def __init__(
        self,
        *,
        annotations: str,
        media: str,
        tokenizer: Build[PreTrainedTokenizerFast],
        template: Build[Template],
        family: Family,
        plan: FramePlan,
        tokens_per_frame: int,
        image_size: int,
        resize_mode: Mode,
        cache: str | None,
        max_tokens: int,
        max_visual_tokens: int,
        view: str = "real",
        video_place: VideoPlace = "first",
        backend: str = "pyav",
        loss_per: str = "token",
        questions_at_once: int = 1,
        novel: bool | None = None,
        choices: Choices | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            annotations: a file in one of the forms of `common.data.conversations`.
            media: folder that the video paths are relative to.
            tokenizer: recipe of the tokenizer.
            template: recipe of the prompt template.
            family: of the model.
            plan: which frames of a clip are shown.
            tokens_per_frame: patches h w of the vision tower.
            image_size: side that frames are squashed to, as the published processor does.
            resize_mode: "bicubic", "bilinear" or "nearest".
            cache: folder of decoded frames (task=frame_cache), or null to decode on the fly.
            max_tokens: longest conversation, visual tokens included; a longer one is an error.
            max_visual_tokens: most visual tokens of a sample; more are an error before anything is decoded.
            view: "real", or what a test takes away; see `common.chat.views`.
            video_place: "first", "last" or "as_written".
            backend: video reader.
            loss_per: "token" or "sample".
            questions_at_once: most questions about one video that share one sequence; see `common.chat.rows`.
            choices: how the questions of `annotations` with options are put and scored, for a view of the test.
            novel: only rows that ask for what training never shows (true), or only the others (false).
            request: arguments of `common.chat.request.Request`, for the rows of `generate`.
        """
        self.family, self.plan, self.backend, self.view = family, plan, backend, check_view(view)
        self.tokens_per_frame, self.max_visual_tokens = tokens_per_frame, max_visual_tokens
        self.image_size, self.resize_mode = image_size, resize_mode
        self.request = None if request is None else Request(**request)
        own = self.request is not None and self.request.own
        self.media = Path(self.request.media or ".") if self.request is not None and own else Path(media)
        load = load_conversations if choices is None else choices.load
        rows = [] if own else [row for row in load(Path(annotations)) if novel in (None, row.novel)]
        conversations = rows if self.request is None else self.request.conversations(rows)
        if not conversations:
            raise ValueError(f"{annotations} has no rows with novel={novel}")
        chat_format = ChatFormat(
            tokenizer=tokenizer(),
            template=template(),
            visual=visual_tokens(family, frames=1, tokens_per_frame=tokens_per_frame),
            video_place=video_place,
            max_tokens=max_tokens,
            loss_per=loss_per,
            questions_at_once=questions_at_once,
        )
        self.frames = self._planned(conversations)
        counts = self._visual_counts(conversations)
        asked = self.request is not None
        self.text = chat_rows(conversations, chat_format, choices=choices, counts=counts, asked=asked)
        reads_cache = cache is not None and view in ("real", "blind") and not own
        settings = {"image_size": image_size, "resize": resize_mode, "plan": repr(plan)}
        self.cache = Cache(Path(cache), settings=settings) if cache is not None and reads_cache else None
        self._refuse_missing()

    def _planned(self, conversations: Sequence[Conversation]) -> dict[str, int]:
        """Frames of each video, by its name."""
        planned: dict[str, int] = {}
        wanted = {str(row.video): row for row in conversations if row.video is not None}
        for name, row in track(wanted.items(), description="counting frames"):
            try:
                planned[name] = self.plan.count(resolve_source(self.media, row), backend=self.backend)
            except (VideoReadError, DataError):
                if not reports(self.request):
                    raise
                planned[name] = row.num_frames or 1  # any number: reading it fails too, and its answer says why
        for row in conversations:
            shown = planned.get(str(row.video), 0)
            if row.num_frames not in (None, shown):
                raise ValueError(
                    f"{row.where}: has {row.num_frames} images, and {shown} frames of {row.video or 'no video'} are "
                    "shown; set the frames of data.*.plan, or the number of images"
                )
        return planned

    def _visual_counts(self, conversations: Sequence[Conversation]) -> list[int]:
        frames = [0 if row.video is None else self.frames[str(row.video)] for row in conversations]
        counts = [self.family.count(number, self.tokens_per_frame) if number else 0 for number in frames]
        for row, number, count in zip(conversations, frames, counts, strict=True):
            if count > self.max_visual_tokens:
                raise ValueError(
                    f"{row.where}: {number} frames are {count} visual tokens, more than max_visual_tokens="
                    f"{self.max_visual_tokens}; show fewer frames (data.*.plan) or raise data.*.max_visual_tokens"
                )
        return counts

    def _refuse_missing(self) -> None:
        if self.cache is None:
            return
        missing = sorted(self.frames.keys() - set(self.cache))
        if missing:
            raise ValueError(
                f"{len(missing)} videos have no frames in {self.cache.folder} (first: {missing[:3]}); see its "
                "failures.json, make it again with its preparation task, or take their rows out"
            )

    # Rows

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, pick: Pick) -> Row | Unreadable:
        row = self.text.first(pick.row)
        if row.video is None:
            return Row(None, pick)
        if self.cache is not None:
            return Row(self.cache[str(row.video)], pick)
        try:
            return Row(self.pixels(row), pick)
        except (VideoReadError, DataError) as error:
            if not reports(self.request):
                raise
            return Unreadable(pick.row, str(error))

    def pixels(self, row: Conversation) -> Tensor:
        """Frames of a conversation's video: uint8 (T, C, H, W)."""
        name = str(row.video)
        return shown_frames(
            resolve_source(self.media, row),
            plan=self.plan,
            count=self.frames[name],
            image_size=self.image_size,
            resize_mode=self.resize_mode,
            backend=self.backend,
            arrange=arranged(self.view, name),
        )

    def shown(self, number: int) -> Tensor | None:
        """Frames of a row as the model sees them, uint8 (T, C, H, W); None where it has no video."""
        row = self.text.first(number)
        return None if row.video is None else self.pixels(row)

    # What the order asks for

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return self.text.lengths

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """What each row counts in the loss."""
        return self.text.weights

    @property
    def fingerprint(self) -> str:
        """Hash of all token ids and of the video of each row."""
        return self.text.fingerprint

    def name(self, number: int) -> str:
        """Id of a row, for messages."""
        return self.text.name(number)

    # Batches

    def collate(self, samples: list[Row | Unreadable]) -> LlavaBatch | Asked:
        """Rows of one micro-batch; for a request, beside those that cannot be read."""
        rows = [sample for sample in samples if isinstance(sample, Row)]
        if self.request is None:
            return self.batch(rows)
        unreadable = [sample for sample in samples if isinstance(sample, Unreadable)]
        return Asked(self.batch(rows) if rows else None, unreadable)

    def batch(self, rows: Sequence[Row]) -> LlavaBatch:
        """A micro-batch."""
        clips = [row.pixels for row in rows if row.pixels is not None]
        pixels = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True) if clips else None
        return LlavaBatch(
            text=self.text.collate([row.pick for row in rows]),
            pixels=torch.zeros_like(pixels) if pixels is not None and self.view == "blind" else pixels,
            num_frames=tuple(len(clip) for clip in clips),
        )

    def decoding(self, max_new_tokens: int) -> Decoding:
        """How the request wants its answers chosen."""
        return (self.request or Request()).decoding(max_new_tokens)

    def asking(self, conversation: Conversation) -> "VideoConversations":
        """The same settings for one conversation whose last answer is wanted."""
        other = copy.copy(self)
        other.frames = other._planned([conversation])
        other.text = self.text.asking([conversation], counts=other._visual_counts([conversation]))
        other.cache = None
        return other


def shown_frames(
    source: Source,
    *,
    plan: FramePlan,
    count: int,
    image_size: int,
    resize_mode: Mode,
    backend: str,
    arrange: Arrange = list,
) -> Tensor:
    """Frames of a video as a model is shown them.

    Args:
        source: a video, GIF, image, folder of images or list of images.
        plan: which frames.
        count: how many, as the plan says.
        image_size: side of the square that they are squashed to.
        resize_mode: "bicubic", "bilinear" or "nearest".
        backend: video reader.
        arrange: maps the chosen frames to those that are read.

    Returns:
        uint8 (T, C, image_size, image_size).

    Raises:
        VideoReadError: the video cannot be read, or has not that many frames.
    """

    def chosen(info: VideoInfo) -> list[int]:
        try:
            return arrange(plan.choose(info, count).tolist())
        except ValueError as error:
            raise VideoReadError(source, f"{error} (data.*.plan)") from error

    clip = read(source, chosen, backend=backend)
    return to_channels_first(resize(clip.frames, height=image_size, width=image_size, mode=resize_mode))
