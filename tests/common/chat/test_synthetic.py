"""Synthetic texts have the layout of real ones."""

import pytest
import torch

from common.chat.decoder import branch_mask
from common.chat.synthetic import synthetic_text


def test_places_point_into_their_rows() -> None:
    text = synthetic_text(rows=2, visual=5, before=3, after=7, targets=4)
    assert text.ids.shape == (2, 15)
    assert text.visual_places.tolist() == [3, 4, 5, 6, 7, 18, 19, 20, 21, 22]
    assert text.target_places.tolist() == [10, 11, 12, 13, 25, 26, 27, 28]  # each predicts the token behind it
    assert text.target_rows.tolist() == [0] * 4 + [1] * 4
    assert text.branches is None


def test_questions_share_what_comes_before_them_and_nothing_else() -> None:
    text = synthetic_text(rows=1, visual=2, before=1, after=3, targets=2, questions=2)
    assert text.branches is not None
    assert text.branches.branch.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2]]
    assert text.branches.position.tolist() == [[0, 1, 2, 3, 4, 5, 3, 4, 5]]
    assert text.target_places.tolist() == [3, 4, 6, 7]
    mask = branch_mask(text.branches.branch)[0, 0]
    assert not mask[6:, 3:6].any()
    assert mask[6, :3].all()
    assert len(text.conversations) == len(text.membership) == 2
    assert torch.equal(text.target_rows, torch.tensor([0, 0, 1, 1]))


def test_a_question_without_a_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="targets=3"):
        synthetic_text(rows=1, visual=2, before=1, after=3, targets=3)
