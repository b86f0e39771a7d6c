"""What is split and what is not, on a group of one process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from common.parallel import FullySharded, shard


class Tied(LightningModule):
    """Embedding and head share a matrix; two blocks between them."""

    def __init__(self, *, precision: str = "32-true") -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.embedding.weight
        self.trainer = Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)

    def training_step(self, ids: Tensor, batch_idx: int) -> Tensor:
        hidden = self.embedding(ids)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden).square().mean()


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    torch.distributed.destroy_process_group()


def split(module: Tied, mesh: Any, *units: nn.Module) -> Tied:
    module._device_mesh = mesh
    shard(module, units=units)
    return module


def test_without_fsdp_nothing_happens() -> None:
    module = Tied()
    shard(module, units=module.blocks)
    assert type(module) is Tied
    assert not any(isinstance(each, DTensor) for each in module.parameters())


def test_blocks_are_units_and_a_tied_head_stays_with_the_root(mesh: Any) -> None:
    module = Tied()
    names = [name for name, _ in module.named_parameters()]
    split(module, mesh, *module.blocks, module.head)
    assert [isinstance(block, FSDPModule) for block in module.blocks] == [True, True]
    assert not isinstance(module.head, FSDPModule)
    assert isinstance(module, FSDPModule)
    assert isinstance(module, Tied)
    assert all(isinstance(each, DTensor) for each in module.parameters())
    assert [name for name, _ in module.named_parameters()] == names


def test_again_changes_nothing(mesh: Any) -> None:
    module = split(Tied(), mesh)
    kind, before = type(module), list(module.parameters())
    shard(module, units=module.blocks)
    assert type(module) is kind
    assert all(one is other for one, other in zip(module.parameters(), before, strict=True))


def test_a_step_may_call_parts_in_any_order(mesh: Any) -> None:
    whole, ids = Tied(), torch.arange(5)
    parts = Tied()
    parts.load_state_dict(whole.state_dict())
    split(parts, mesh, *parts.blocks)
    loss, expected = parts.training_step(ids, 0), whole.training_step(ids, 0)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item())
    for (name, ours), theirs in zip(parts.named_parameters(), whole.parameters(), strict=True):
        assert isinstance(ours.grad, DTensor)
        torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad, msg=name)


def test_frozen_and_trained_may_differ_in_dtype_but_not_trained_ones(mesh: Any) -> None:
    frozen = Tied()
    frozen.blocks.to(torch.bfloat16).requires_grad_(False)
    split(frozen, mesh)
    mixed = Tied()
    mixed.blocks[0].to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"the root trains parameters of torch\.bfloat16 and torch\.float32"):
        split(mixed, mesh)


def test_packed_weights_are_refused(mesh: Any) -> None:
    module = Tied()
    module.blocks[0].weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match="cannot split packed"):
        split(module, mesh, *module.blocks)


def test_a_frozen_scalar_stays_whole_and_a_trained_one_is_refused(mesh: Any) -> None:
    module = Tied()
    module.temperature = nn.Parameter(torch.tensor(2.0), requires_grad=False)
    split(module, mesh, *module.blocks)
    assert type(module.temperature) is nn.Parameter
    assert isinstance(module.head.weight, DTensor)
    other = Tied()
    other.temperature = nn.Parameter(torch.tensor(2.0))
    with pytest.raises(ValueError, match="cannot split temperature, a single number that trains"):
        split(other, mesh, *other.blocks)


def test_other_precisions_are_refused(mesh: Any) -> None:
    with pytest.raises(ValueError, match=r"trainer\.precision=bf16-true with FSDP; choose one of"):
        split(Tied(precision="bf16-true"), mesh)


class Whole(LightningModule):
    """Forgets to split itself."""

    def configure_model(self) -> None:
        self.layer = nn.Linear(2, 2)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_module_that_does_not_split_itself_is_refused() -> None:
    trainer = Trainer(
        accelerator="cpu", devices=1, strategy=FullySharded(processes=1), logger=False, enable_checkpointing=False
    )
    try:
        with pytest.raises(ValueError, match=r"Whole does not split itself \(common\.parallel\.shard"):
            trainer.fit(Whole(), torch.utils.data.DataLoader(torch.zeros(2, 2)))
    finally:
        torch.distributed.destroy_process_group()
