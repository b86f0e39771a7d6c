"""Moments in 8 bits where they are asked for, or an error that says what to do."""

import pytest
import torch
from torch import nn

from launchers.command import compose
from projects.genhancer import optimizer as module
from projects.genhancer.optimizer import adamw


def groups() -> list[dict[str, object]]:
    return [{"params": [nn.Parameter(torch.ones(64, 128))], "lr": 1e-2, "weight_decay": 0.01, "name": "all"}]


def test_plain_moments_are_those_of_torch() -> None:
    made = adamw(groups(), betas=[0.9, 0.99], eps=1e-7, eight_bit=False)
    assert type(made) is torch.optim.AdamW
    assert made.defaults["betas"] == (0.9, 0.99)
    assert made.defaults["eps"] == 1e-7


def test_without_bitsandbytes_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match=r"eight_bit=true .* needs bitsandbytes: pip install -e '\.\[8bit\]'"):
        adamw(groups(), betas=[0.9, 0.999], eps=1e-8, eight_bit=True)


def test_moments_in_8_bits_go_on_from_their_state() -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    results = []
    for stops in (False, True):
        members = groups()
        made = adamw(members, betas=[0.9, 0.999], eps=1e-8, eight_bit=True)
        weight = members[0]["params"][0]  # type: ignore[index]
        for step in range(4):
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
            made.step()
            if stops and step == 1:
                state = made.state_dict()
                made = adamw(members, betas=[0.9, 0.999], eps=1e-8, eight_bit=True)
                made.load_state_dict(state)
        results.append(weight.detach().clone())
    assert torch.equal(*results)


@pytest.mark.parametrize(("hardware", "eight_bit"), [("rtx4090", True), ("a100x8", False), ("cpu", False)])
def test_cards_of_24_gb_take_8_bits(hardware: str, eight_bit: bool) -> None:
    cfg = compose("experiment=genhancer_image_stage1", f"hardware={hardware}", "paths.run=.")
    assert cfg.model.optimizer.eight_bit is eight_bit
