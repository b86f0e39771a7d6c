"""Conversations about videos: rows, features or pixels of a view, and batches."""

import copy
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
from common.data.conversations import Conversation, DataError, load_conversations, resolve_media
from common.shapes import expect
from common.text.mask import VisualTokens
from common.text.prompt import Template
from common.types import Build, Pick
from common.video.decode import VideoReadError, read
from common.video.sample import midpoint
from common.video.transform import resize, to_channels_first


class Row(NamedTuple):
    """The visual side of a row. Exactly one of features and pixels is there."""

    features: Tensor | None  # float16 (N, D)
    pixels: Tensor | None  # uint8 (T', C, H, W)
    pick: Pick


class ChatBatch(NamedTuple):
    """Conversations of a micro-batch and what they are about."""

    text: ChatText
    features: Tensor | None  # float16 (B, N, D)
    pixels: Tensor | None  # uint8 (B, T, C, H, W)
    num_frames: Tensor | None  # int64 (B,), frames of `pixels` that are there


class VideoChat(Dataset[Row | Unreadable]):
    """Rows of an annotation file, or of a request."""

    def __init__(
        self,
        *,
        annotations: str,
        media: str,
        tokenizer: Build[PreTrainedTokenizerFast],
        template: Build[Template],
        temporal: int,
        spatial: int,
        image_size: int,
        cache: str | None,
        max_tokens: int,
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
            temporal: temporal tokens T; at most that many frames are taken, by the published midpoint rule.
            spatial: spatial tokens P of the encoder.
            image_size: side that frames are squashed to, nearest neighbour as published.
            cache: folder of cached features, or null to decode and encode on the fly.
            max_tokens: longest conversation, visual tokens included; a longer one is an error.
            view: "real", or what a test takes away: "blind" (features zeroed), "middle" (every frame replaced by the
                middle one), "shuffled" or "reversed" (frames in another order).
            video_place: "first", "last" or "as_written".
            backend: video reader.
            loss_per: "token" or "sample".
            questions_at_once: most questions about one video that share one sequence; see `common.chat.rows`.
            choices: how the questions of `annotations` with options are put and scored, for a view of the test.
            novel: only rows that ask for what training never shows (true), or only the others (false).
            request: arguments of `common.chat.request.Request`: what is to be answered, for the rows of `generate`.
        """
        self.backend, self.view = backend, check_view(view)
        self.temporal, self.image_size = temporal, image_size
        self.request = None if request is None else Request(**request)
        own = self.request is not None and self.request.own
        self.media = Path(self.request.media or ".") if self.request is not None and own else Path(media)
        conversations = [] if own else self._rows(Path(annotations), novel, choices)
        if self.request is not None:
            conversations = self.request.conversations(conversations)
        self._refuse_text_only(conversations)
        chat_format = ChatFormat(
            tokenizer=tokenizer(),
            template=template(),
            visual=VisualTokens(count=temporal + spatial),
            video_place=video_place,
            max_tokens=max_tokens,
            loss_per=loss_per,
            questions_at_once=questions_at_once,
        )
        self.text = chat_rows(conversations, chat_format, choices=choices, asked=self.request is not None)
        settings = {"temporal": temporal, "image_size": image_size}
        reads_cache = cache is not None and view in ("real", "blind") and not own
        self.cache = Cache(Path(cache), settings=settings) if cache is not None and reads_cache else None
        self._refuse_missing_features()

    @staticmethod
    def _rows(path: Path, novel: bool | None, choices: Choices | None) -> list[Conversation]:
        load = load_conversations if choices is None else choices.load
        rows = [row for row in load(path) if novel is None or row.novel == novel]
        if not rows:
            raise ValueError(f"{path} has no rows with novel={novel}")
        return rows

    @staticmethod
    def _refuse_text_only(conversations: Sequence[Conversation]) -> None:
        for row in conversations:
            if row.video is None:
                raise ValueError(f"{row.where}: names no video, and Video-ChatGPT learns from videos; take the row out")

    def _refuse_missing_features(self) -> None:
        if self.cache is None:
            return
        missing = sorted({str(row.video) for row in self.text.conversations} - set(self.cache))
        if missing:
            raise ValueError(
                f"{len(missing)} videos have no features in {self.cache.folder} (first: {missing[:3]}); "
                "run the feature task for them, or take their rows out of the annotations"
            )

    # Rows

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, pick: Pick) -> Row | Unreadable:
        row = self.text.first(pick.row)
        if self.cache is not None:
            features = self.cache[str(row.video)]
            expect(features, "N D", name=f"features of {row.video}", N=self.text.format.visual.count)
            return Row(features, None, pick)
        try:
            return Row(None, self._pixels(row), pick)
        except (VideoReadError, DataError) as error:
            if not reports(self.request):
                raise
            return Unreadable(pick.row, str(error))

    def _pixels(self, row: Conversation) -> Tensor:
        path = resolve_media(self.media, row)
        return frames(
            path,
            temporal=self.temporal,
            image_size=self.image_size,
            backend=self.backend,
            arrange=arranged(self.view, str(row.video)),
        )

    def shown(self, number: int) -> Tensor:
        """Frames of a row as the model sees them, uint8 (T', C, H, W), also where it reads their features."""
        return self._pixels(self.text.first(number))

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

    def collate(self, samples: list[Row | Unreadable]) -> ChatBatch | Asked:
        """Rows of one micro-batch; for a request, beside those that cannot be read."""
        rows = [sample for sample in samples if isinstance(sample, Row)]
        if self.request is None:
            return self.batch(rows)
        unreadable = [sample for sample in samples if isinstance(sample, Unreadable)]
        return Asked(self.batch(rows) if rows else None, unreadable)

    def batch(self, rows: Sequence[Row]) -> ChatBatch:
        """A micro-batch."""
        pixels, num_frames = _pad_frames([row.pixels for row in rows])
        features = [row.features for row in rows if row.features is not None]
        stacked = torch.stack(features) if features else None
        return ChatBatch(
            text=self.text.collate([row.pick for row in rows]),
            features=torch.zeros_like(stacked) if stacked is not None and self.view == "blind" else stacked,
            pixels=pixels,
            num_frames=num_frames,
        )

    def decoding(self, max_new_tokens: int) -> Decoding:
        """How the request wants its answers chosen."""
        return (self.request or Request()).decoding(max_new_tokens)

    def asking(self, conversation: Conversation) -> "VideoChat":
        """The same settings for one conversation whose last answer is wanted."""
        other = copy.copy(self)
        other.text, other.cache = self.text.asking([conversation]), None
        return other


def frames(
    path: Path,
    *,
    temporal: int,
    image_size: int,
    backend: str,
    arrange: Arrange = list,
) -> Tensor:
    """Frames as the published extraction takes them.

    Args:
        path: of the video.
        temporal: most frames to take, by the midpoint rule.
        image_size: side of the square that frames are squashed to, nearest neighbour.
        backend: video reader.
        arrange: maps the chosen indices to those that are read.

    Returns:
        uint8 (T', C, image_size, image_size), T' = min(frames of the video, temporal).
    """
    clip = read(path, lambda info: arrange(midpoint(info.num_frames, temporal).tolist()), backend=backend)
    return to_channels_first(resize(clip.frames, height=image_size, width=image_size, mode="nearest"))


def _pad_frames(pixels: Sequence[Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
    present = [clip for clip in pixels if clip is not None]
    if not present:
        return None, None
    counts = [len(clip) for clip in present]
    padded = present[0].new_zeros(len(present), max(counts), *present[0].shape[1:])
    for row, clip in enumerate(present):
        padded[row, : len(clip)] = clip
    return padded, torch.tensor(counts)
