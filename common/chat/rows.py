"""The text side of conversations about videos: tokens, targets, groups that share a video, and batches of them."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from common.data.conversations import Conversation
from common.text.mask import Encoded, VisualTokens, encode
from common.text.prompt import Template, Turn, place_video, render
from common.types import Pick

VideoPlace = Literal["first", "last", "as_written"]


class Branches(NamedTuple):
    """Conversations of a row that share what comes before them: the instruction and the video.

    position: int64 (B, L), place of a token in its own conversation. branch: int64 (B, L), 0 for what is shared, then
    1, 2, ... for each conversation; padding has -1.
    """

    position: Tensor
    branch: Tensor


class ChatText(NamedTuple):
    """Texts of a micro-batch, padded on the right; S conversations in B rows, S = B unless they share videos."""

    ids: Tensor  # int64 (B, L); the visual places hold the padding id
    visual_start: Tensor  # int64 (B,), place of the first visual token
    visual_places: Tensor  # int64 (P,), flat places b * L + l of all visual tokens, row after row
    target_places: Tensor  # int64 (K,), flat places b * L + l that predict a target
    targets: Tensor  # int64 (K,)
    target_rows: Tensor  # int64 (K,), conversation of each target, 0 .. S - 1
    normalizer: Tensor  # float32 (), see common.types.Pick
    conversations: Tensor  # int64 (S,), their numbers in the data set
    membership: Tensor  # bool (S, G), kind of each conversation
    branches: Branches | None


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """How conversations become tokens.

    Attributes:
        tokenizer: fast tokenizer that knows the visual tokens.
        template: fixed strings around the texts.
        visual: what stands for a video.
        video_place: "first", "last" or "as_written".
        max_tokens: longest conversation, visual tokens included; a longer one is an error.
        loss_per: "token" or "sample".
        questions_at_once: most conversations about one video that share one sequence, in which the instruction and the
            video stand once; 1: each has its own. The numbers are the same; it saves arithmetic.
    """

    tokenizer: PreTrainedTokenizerFast
    template: Template
    visual: VisualTokens
    video_place: VideoPlace
    max_tokens: int
    loss_per: str = "token"
    questions_at_once: int = 1


class ChatRows:
    """Tokenised conversations. All text is tokenised once, when it is built."""

    def __init__(
        self,
        conversations: Sequence[Conversation],
        chat_format: ChatFormat,
        *,
        counts: Sequence[int] | None = None,
        asked: bool = False,
    ) -> None:
        """
        Args:
            conversations: at least one.
            chat_format: how they become tokens.
            counts: patches of each conversation's video, where they differ from `chat_format.visual.count`.
            asked: the last answers are wanted, not given.

        Raises:
            ValueError: a conversation does not fit (see `common.text.mask.encode`), or videos are to be shared that
                do not come first.
        """
        self.format = chat_format
        self._refuse_sharing()
        self.conversations = list(conversations)
        self.counts = [chat_format.visual.count] * len(self.conversations) if counts is None else list(counts)
        self.encoded = self._encode(asked)
        self.groups = self._grouped()
        self.kinds = tuple(sorted({kind_of(row) for row in self.conversations}))

    def asking(self, conversations: Sequence[Conversation], *, counts: Sequence[int] | None = None) -> "ChatRows":
        """The same format for other conversations, whose last answers are wanted."""
        return ChatRows(conversations, copy.copy(self.format), counts=counts, asked=True)

    def _refuse_sharing(self) -> None:
        """Refuses a place of the video at which it cannot be shared."""
        if self.format.questions_at_once > 1 and self.format.video_place != "first":
            raise ValueError(
                f"questions_at_once={self.format.questions_at_once} shares what comes before the questions; it needs "
                f"video_place=first, not {self.format.video_place}"
            )

    def _encode(self, asked: bool) -> list[Encoded]:
        rendered = [
            render(self._placed(row), template=self.format.template, system=row.system) for row in self.conversations
        ]
        return encode(
            rendered,
            tokenizer=self.format.tokenizer,
            visual=self.format.visual,
            counts=self.counts,
            max_tokens=self.format.max_tokens,
            where=[row.where for row in self.conversations],
            require_learned=not asked,
        )

    def _placed(self, row: Conversation) -> Sequence[Turn]:
        return row.turns if row.video is None else place_video(row.turns, where=self.format.video_place)

    def _grouped(self) -> list[tuple[int, ...]]:
        """Numbers of the conversations of each row: those about one video, with the same words before it."""
        most = self.format.questions_at_once
        open_groups: dict[tuple[str, bytes], list[int]] = {}
        groups: list[list[int]] = []
        for number, (row, encoded) in enumerate(zip(self.conversations, self.encoded, strict=True)):
            key = (str(row.video), encoded.ids[: self.shared(number)].tobytes())
            group = open_groups.get(key)
            if group is None or len(group) == most or encoded.visual_start < 0:
                open_groups[key] = group = []
                groups.append(group)
            group.append(number)
        return [tuple(group) for group in groups]

    # Rows

    def __len__(self) -> int:
        return len(self.groups)

    def first(self, row: int) -> Conversation:
        """The conversation that names the video of a row."""
        return self.conversations[self.groups[row][0]]

    def name(self, row: int) -> str:
        """Ids of the conversations of a row."""
        return "+".join(self.conversations[number].id for number in self.groups[row])

    def shared(self, number: int) -> int:
        """Tokens of a conversation that the others of its row have too: those up to the end of its video."""
        return self.video_end(number)

    def video_end(self, number: int) -> int:
        """Tokens of a conversation up to the end of its video; 0 without one."""
        start = self.encoded[number].visual_start
        return 0 if start < 0 else start + self.format.visual.span(self.counts[number])

    def _visual(self, number: int) -> NDArray[np.int64]:
        """Places of the visual tokens of a conversation."""
        return np.arange(max(0, self.encoded[number].visual_start), self.video_end(number))

    def prompt_length(self, number: int) -> int:
        """Tokens that come before the last answer of a conversation."""
        return answer_start(self.encoded[number])

    def text_ids(self, number: int) -> NDArray[np.int64]:
        """Ids of a conversation, the padding id at the visual places: their own may lie outside the vocabulary."""
        encoded = self.encoded[number]
        ids = encoded.ids.astype(np.int64)
        if encoded.visual_start >= 0:
            ids[encoded.visual_start : self.video_end(number)] = self.pad
        return ids

    @property
    def pad(self) -> int:
        """Id of the padding token."""
        return int(self.format.tokenizer.pad_token_id)

    # What the order and the metrics ask for

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        own = [len(encoded.ids) - self.shared(number) for number, encoded in enumerate(self.encoded)]
        totals = [self.shared(group[0]) + sum(own[number] for number in group) for group in self.groups]
        return np.array(totals, dtype=np.int64)

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """What each row counts: its target tokens or its conversations; None where every row counts once."""
        if self.format.loss_per == "sample":
            if self.format.questions_at_once == 1:
                return None
            return np.array([len(group) for group in self.groups], dtype=np.float64)
        totals = [sum(self.encoded[number].learned.sum() for number in group) for group in self.groups]
        return np.array(totals, dtype=np.float64)

    @property
    def fingerprint(self) -> str:
        """Hash of all token ids, of the video of each conversation, and of the groups."""
        state = hashlib.blake2b(digest_size=8)
        for encoded, conversation in zip(self.encoded, self.conversations, strict=True):
            state.update(encoded.ids.tobytes() + str(conversation.video).encode())
        if self.format.questions_at_once > 1:
            state.update(repr(self.groups).encode())
        return state.hexdigest()

    def chance(self) -> dict[str, float]:
        """Accuracy of guessing among the options of each question, for the kinds that state how many there are."""
        options: dict[str, list[int]] = {}
        for row in self.conversations:
            if row.options is not None:
                options.setdefault(kind_of(row), []).append(row.options)
        return {kind: float(np.mean([1 / count for count in counts])) for kind, counts in options.items()}

    # Batches

    def collate(self, picks: Sequence[Pick]) -> ChatText:
        """Pads on the right; lists the places of the targets, so that nothing has to be searched on the device."""
        packed = [self._pack(self.groups[pick.row]) for pick in picks]
        length = max(len(row.ids) for row in packed)
        numbers = [number for pick in picks for number in self.groups[pick.row]]
        firsts = np.cumsum([0, *(len(self.groups[pick.row]) for pick in picks)])
        heads = [self.groups[pick.row][0] for pick in picks]
        kinds = [kind_of(self.conversations[number]) for number in numbers]
        branches = None
        if self.format.questions_at_once > 1:
            branches = Branches(
                _padded([row.positions for row in packed], length, 0),
                _padded([row.branch for row in packed], length, -1),
            )
        return ChatText(
            ids=_padded([row.ids for row in packed], length, self.pad),
            visual_start=torch.tensor([self.encoded[head].visual_start for head in heads]),
            visual_places=_joined([place * length + self._visual(head) for place, head in enumerate(heads)]),
            target_places=_joined([place * length + row.places for place, row in enumerate(packed)]),
            targets=_joined([row.targets for row in packed]),
            target_rows=_joined([first + row.owners for first, row in zip(firsts[:-1], packed, strict=True)]),
            normalizer=torch.tensor(picks[0].normalizer, dtype=torch.float32),
            conversations=torch.tensor(numbers),
            membership=torch.tensor([[kind == each for each in self.kinds] for kind in kinds]),
            branches=branches,
        )

    def _pack(self, group: Sequence[int]) -> "_Packed":
        """One row: what its conversations share, then the rest of each."""
        shared = self.shared(group[0]) if len(group) > 1 else 0
        ids, positions, branch = [self.text_ids(group[0])[:shared]], [np.arange(shared)], [np.zeros(shared, np.int64)]
        places, targets, owners = [], [], []
        offset = shared
        for owner, number in enumerate(group):
            own = self.text_ids(number)[shared:]
            learned = np.flatnonzero(self.encoded[number].learned)
            assert not len(learned) or learned[0] > shared, "an answer within what is shared"
            ids.append(own)
            positions.append(shared + np.arange(len(own)))
            branch.append(np.full(len(own), owner + 1))
            places.append(offset + learned - shared - 1)
            targets.append(self.encoded[number].ids[learned].astype(np.int64))
            owners.append(np.full(len(learned), owner))
            offset += len(own)
        joined = [np.concatenate(parts) for parts in (ids, positions, branch, places, targets, owners)]
        return _Packed(*joined)


class _Packed(NamedTuple):
    """A row before padding: int64 (L,) three times, then of its K targets, int64 (K,) three times."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    branch: NDArray[np.int64]
    places: NDArray[np.int64]
    targets: NDArray[np.int64]
    owners: NDArray[np.int64]


def kind_of(row: Conversation) -> str:
    """Kind of question, by which accuracy is told."""
    return row.type or "all"


def answer_start(encoded: Encoded) -> int:
    """Tokens that come before the last answer of a conversation; all of them where it only asks."""
    learned = np.flatnonzero(encoded.learned)
    if not len(learned):
        return len(encoded.ids)
    gaps = np.flatnonzero(np.diff(learned) > 1)
    return int(learned[gaps[-1] + 1 if len(gaps) else 0])


def _padded(rows: Sequence[NDArray[np.int64]], length: int, value: int) -> Tensor:
    padded = torch.full((len(rows), length), value)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = torch.from_numpy(row)
    return padded


def _joined(parts: Sequence[NDArray[np.int64]]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).long()
