"""A batch of a stated shape without data: for estimates and measurements of speed and memory."""

import torch

from common.chat.synthetic import synthetic_text
from common.text.mask import VisualTokens
from projects.video_chatgpt.data import ChatBatch


def example_batch(
    *,
    rows: int,
    temporal: int,
    spatial: int,
    feature_width: int,
    before: int,
    after: int,
    targets: int,
    questions: int = 1,
) -> ChatBatch:
    """Conversations about one clip each, whose features come from the cache.

    Args:
        rows: B.
        temporal: temporal tokens T.
        spatial: spatial tokens P.
        feature_width: D.
        before: tokens before the video.
        after: tokens of each question and its answer.
        targets: of these, how many are learned.
        questions: about each clip, in one sequence.
    """
    count = temporal + spatial
    visual = VisualTokens(count=count).span(count)
    return ChatBatch(
        text=synthetic_text(rows=rows, visual=visual, before=before, after=after, targets=targets, questions=questions),
        features=torch.zeros(rows, count, feature_width, dtype=torch.float16),
        pixels=None,
        num_frames=None,
    )
