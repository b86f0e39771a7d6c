"""Texts of a stated shape without a word in them: for estimates and measurements of speed and memory."""

import torch

from common.chat.rows import Branches, ChatText


def synthetic_text(*, rows: int, visual: int, before: int, after: int, targets: int, questions: int = 1) -> ChatText:
    """A micro-batch of conversations about one video each, all of one shape.

    Args:
        rows: B.
        visual: visual tokens of a row.
        before: tokens before them.
        after: tokens of each question and its answer.
        targets: how many of these, the last ones, are learned.
        questions: conversations of a row that share what comes before them; see `common.chat.rows`.

    Returns:
        Every id is 0; L = before + visual + questions x after.
    """
    if not 0 < targets < after:
        raise ValueError(f"targets={targets} must be at least 1 and fewer than after={after}")
    shared = before + visual
    length = shared + questions * after
    starts = torch.arange(rows)[:, None] * length
    ends = shared + torch.arange(1, questions + 1) * after
    places = (ends[:, None] - 1 - targets + torch.arange(targets)).flatten()
    samples = rows * questions
    branches = None
    if questions > 1:
        branch = torch.cat([torch.zeros(shared), torch.arange(1, questions + 1).repeat_interleave(after)]).long()
        position = torch.cat([torch.arange(shared), (shared + torch.arange(after)).repeat(questions)])
        branches = Branches(position.repeat(rows, 1), branch.repeat(rows, 1))
    return ChatText(
        ids=torch.zeros(rows, length, dtype=torch.long),
        visual_start=torch.full((rows,), before),
        visual_places=(starts + before + torch.arange(visual)).flatten(),
        target_places=(starts + places).flatten(),
        targets=torch.zeros(samples * targets, dtype=torch.long),
        target_rows=torch.arange(samples).repeat_interleave(targets),
        normalizer=torch.tensor(float(samples * targets)),
        conversations=torch.arange(samples),
        membership=torch.ones(samples, 1, dtype=torch.bool),
        branches=branches,
    )
