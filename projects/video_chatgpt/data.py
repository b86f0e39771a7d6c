"""Conversations about videos: rows, features or pixels of a view, and batches."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from common.data.cache import Cache
from common.data.conversations import (
    Conversation,
    Turn,
    load_conversations,
    resolve_media,
)
from common.random import mix
from common.shapes import expect
from common.text.mask import Encoded, VisualTokens, encode
from common.text.prompt import VIDEO, Template, place_video, render
from common.types import Build, Pick
from common.video.decode import read
from common.video.sample import midpoint
from common.video.transform import resize, to_channels_first

VideoPlace = Literal["first", "last", "as_written"]
VIEWS = ("real", "blind", "middle", "shuffled", "reversed")


class Row(NamedTuple):
    """One conversation, ready to be collated. Exactly one of features and pixels is there."""

    encoded: Encoded
    features: Tensor | None  # float16 (N, D)
    pixels: Tensor | None  # uint8 (T', C, H, W)
    pick: Pick


class ChatBatch(NamedTuple):
    """Conversations of a micro-batch, padded on the right."""

    ids: Tensor  # int64 (B, L); the visual places hold the padding id
    visual_start: Tensor  # int64 (B,), place of the start row
    features: Tensor | None  # float16 (B, N, D)
    pixels: Tensor | None  # uint8 (B, T, C, H, W)
    num_frames: Tensor | None  # int64 (B,), frames of `pixels` that are there
    target_places: Tensor  # int64 (K,), flat places b * L + l that predict a target
    targets: Tensor  # int64 (K,)
    target_rows: Tensor  # int64 (K,), sample of each target
    normalizer: Tensor  # float32 (), see common.types.Pick
    rows: Tensor  # int64 (B,), row numbers of the data set
    membership: Tensor  # bool (B, G), kind of each row


class VideoChat(Dataset[Row]):
    """Rows of an annotation file. All text is tokenised once, when the set is built."""

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
        novel: bool | None = None,
        limit: int | None = None,
        question: Mapping[str, str | None] | None = None,
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
            max_tokens: longest row, visual tokens included; a longer one is an error.
            view: "real", or what a test takes away: "blind" (features zeroed), "middle" (every frame replaced by the
                middle one), "shuffled" or "reversed" (frames in another order).
            video_place: "first", "last" or "as_written".
            backend: video reader.
            loss_per: "token" or "sample".
            novel: only rows that ask for what training never shows (true), or only the others (false).
            limit: only the first rows of those.
            question: {video, prompt}: one question about one file, instead of the annotations, if it names a video.
        """
        if view not in VIEWS:
            raise ValueError(f"view={view}; there is {', '.join(VIEWS)}")
        self.media, self.backend, self.view = Path(media), backend, view
        self.temporal, self.spatial, self.image_size = temporal, spatial, image_size
        self.loss_per = loss_per
        if question is not None and question["video"] is not None:
            self.conversations, asked = [_asked(question)], True
        else:
            self.conversations, asked = self._rows(Path(annotations), novel)[:limit], False
        self.tokenizer = tokenizer()
        self.pad = int(self.tokenizer.pad_token_id)
        self.visual = VisualTokens(count=temporal + spatial)
        self.encoded = self._encode(template(), video_place, max_tokens, asked=asked)
        settings = {"temporal": temporal, "image_size": image_size}
        reads_cache = cache is not None and view in ("real", "blind") and not asked
        self.cache = Cache(Path(cache), settings=settings) if cache is not None and reads_cache else None
        self._refuse_missing_features()
        self.kinds = tuple(sorted({row.type or "all" for row in self.conversations}))

    @staticmethod
    def _rows(path: Path, novel: bool | None) -> list[Conversation]:
        rows = [row for row in load_conversations(path) if novel is None or row.novel == novel]
        if not rows:
            raise ValueError(f"{path} has no rows with novel={novel}")
        return rows

    def _encode(self, template: Template, video_place: VideoPlace, max_tokens: int, *, asked: bool) -> list[Encoded]:
        rendered = [
            render(place_video(row.turns, where=video_place), template=template, system=row.system)
            for row in self.conversations
        ]
        return encode(
            rendered,
            tokenizer=self.tokenizer,
            visual=self.visual,
            max_tokens=max_tokens,
            where=[row.where for row in self.conversations],
            require_learned=not asked,
        )

    def _refuse_missing_features(self) -> None:
        if self.cache is None:
            return
        missing = sorted({str(row.video) for row in self.conversations} - set(self.cache))
        if missing:
            raise ValueError(
                f"{len(missing)} videos have no features in {self.cache.folder} (first: {missing[:3]}); "
                "run the feature task for them, or take their rows out of the annotations"
            )

    # Rows

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, pick: Pick) -> Row:
        features = pixels = None
        row = self.conversations[pick.row]
        if self.cache is not None:
            features = self.cache[str(row.video)]
            expect(features, "N D", name=f"features of {row.video}", N=self.visual.count)
        else:
            pixels = self._pixels(row)
        return Row(self.encoded[pick.row], features, pixels, pick)

    def _pixels(self, row: Conversation) -> Tensor:
        path = resolve_media(self.media, row)
        return frames(
            path, temporal=self.temporal, image_size=self.image_size, backend=self.backend, arrange=self._arrange(row)
        )

    def _arrange(self, row: Conversation) -> Callable[[list[int]], list[int]]:
        if self.view == "middle":
            return lambda indices: [indices[len(indices) // 2]] * len(indices)
        if self.view == "reversed":
            return lambda indices: indices[::-1]
        if self.view == "shuffled":
            rng = np.random.default_rng(mix("shuffled", str(row.video)))
            return lambda indices: [indices[place] for place in rng.permutation(len(indices))]
        return lambda indices: indices

    def prompt(self, index: int) -> tuple[Tensor, Tensor]:
        """What comes before the last answer of a row: ids int64 (1, L), place of the start row int64 (1,)."""
        encoded = self.encoded[index]
        learned = np.flatnonzero(encoded.learned)
        # The last run of learned tokens is the last answer; a row that only asks has none.
        stop = len(encoded.ids)
        if len(learned):
            gaps = np.flatnonzero(np.diff(learned) > 1)
            stop = int(learned[gaps[-1] + 1 if len(gaps) else 0])
        return torch.from_numpy(self._text_ids(encoded)[None, :stop]), torch.tensor([encoded.visual_start])

    def _text_ids(self, encoded: Encoded) -> NDArray[np.int64]:
        """Ids with the padding id at the visual places, whose own ids may lie outside the model's vocabulary."""
        ids = encoded.ids.astype(np.int64)
        ids[encoded.visual_start : encoded.visual_start + self.visual.count + 2] = self.pad
        return ids

    # What the order and the metrics ask for

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.array([len(row.ids) for row in self.encoded], dtype=np.int64)

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """Target tokens of each row, or None where every sample counts alike."""
        if self.loss_per == "sample":
            return None
        return np.array([row.learned.sum() for row in self.encoded], dtype=np.float64)

    @property
    def fingerprint(self) -> str:
        """Hash of all token ids and of the video of each row."""
        state = hashlib.blake2b(digest_size=8)
        for row, conversation in zip(self.encoded, self.conversations, strict=True):
            state.update(row.ids.tobytes() + str(conversation.video).encode())
        return state.hexdigest()

    def chance(self) -> dict[str, float]:
        """Accuracy of guessing among the options of each question, for the kinds that state how many there are."""
        options: dict[str, list[int]] = {}
        for row in self.conversations:
            if row.options is not None:
                options.setdefault(row.type or "all", []).append(row.options)
        return {kind: float(np.mean([1 / count for count in counts])) for kind, counts in options.items()}

    def _membership(self, row: Conversation) -> list[bool]:
        return [kind == (row.type or "all") for kind in self.kinds]

    # Batches

    def collate(self, samples: list[Row]) -> ChatBatch:
        """Pads ids on the right; lists the places of the targets, so that nothing has to be searched on the device."""
        length = max(len(sample.encoded.ids) for sample in samples)
        ids = torch.full((len(samples), length), self.pad)
        places, targets, target_rows = [], [], []
        for row, sample in enumerate(samples):
            encoded = sample.encoded
            ids[row, : len(encoded.ids)] = torch.from_numpy(self._text_ids(encoded))
            learned = np.flatnonzero(encoded.learned)
            places.append(row * length + learned - 1)
            targets.append(encoded.ids[learned])
            target_rows.append(np.full(len(learned), row))
        pixels, num_frames = _pad_frames([sample.pixels for sample in samples])
        features = [sample.features for sample in samples if sample.features is not None]
        stacked = torch.stack(features) if features else None
        return ChatBatch(
            ids=ids,
            visual_start=torch.tensor([sample.encoded.visual_start for sample in samples]),
            features=torch.zeros_like(stacked) if stacked is not None and self.view == "blind" else stacked,
            pixels=pixels,
            num_frames=num_frames,
            target_places=torch.from_numpy(np.concatenate(places)).long(),
            targets=torch.from_numpy(np.concatenate(targets)).long(),
            target_rows=torch.from_numpy(np.concatenate(target_rows)).long(),
            normalizer=torch.tensor(samples[0].pick.normalizer, dtype=torch.float32),
            rows=torch.tensor([sample.pick.row for sample in samples]),
            membership=torch.tensor([self._membership(self.conversations[s.pick.row]) for s in samples]),
        )


def _asked(question: Mapping[str, str | None]) -> Conversation:
    if not question["prompt"]:
        raise ValueError("request.video names a video; say what to ask in request.prompt")
    turn = Turn(user=VIDEO + question["prompt"], assistant=None)
    return Conversation(id="request", video=question["video"], turns=(turn,), where="request")


def frames(
    path: Path,
    *,
    temporal: int,
    image_size: int,
    backend: str,
    arrange: Callable[[list[int]], list[int]] = lambda indices: indices,
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
    clip = read(path, lambda info: arrange(list(midpoint(info.num_frames, temporal))), backend=backend)
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
