"""A batch of a stated shape without data: for estimates and measurements of speed and memory."""

import torch

from common.chat.synthetic import synthetic_text
from common.video.plan import FramePlan
from projects.llava_video.data import LlavaBatch
from projects.llava_video.families import Family


def example_batch(
    *,
    rows: int,
    family: Family,
    plan: FramePlan,
    tokens_per_frame: int,
    image_size: int,
    before: int,
    after: int,
    targets: int,
    questions: int = 1,
) -> LlavaBatch:
    """Conversations about one clip each.

    Args:
        rows: B.
        family: of the model.
        plan: which frames of a clip are shown; the most that it may show are.
        tokens_per_frame: patches h w of the vision tower.
        image_size: side of the square frames, pixels.
        before: tokens before the video.
        after: tokens of each question and its answer.
        targets: of these, how many are learned.
        questions: about each clip, in one sequence.
    """
    frames = plan.most
    visual = family.count(frames, tokens_per_frame)
    return LlavaBatch(
        text=synthetic_text(rows=rows, visual=visual, before=before, after=after, targets=targets, questions=questions),
        pixels=torch.zeros(rows, frames, 3, image_size, image_size, dtype=torch.uint8),
        num_frames=(frames,) * rows,
    )
