"""A first stage on two processes, a second on one: checkpoints do not know how many there were."""

from pathlib import Path

import pytest
import torch

from common.checkpoint import committed, load_file
from tests.projects.genhancer.small_run import configured, fit, make_data, make_module

pytestmark = pytest.mark.slow


def test_the_second_stage_takes_a_first_of_another_number_of_devices(tmp_path: Path) -> None:
    two = {"devices": 2, "strategy": "ddp_spawn", "accumulate_grad_batches": 2, "val_check_interval": 4}
    torch.manual_seed(0)
    fit(make_module(), make_data(micro=1), tmp_path / "two", **two)
    torch.manual_seed(0)
    fit(make_module(), make_data(micro=4), tmp_path / "one")
    found, wanted = (load_file(committed(tmp_path / name / "checkpoints")[-1]) for name in ("two", "one"))
    assert found["global_step"] == wanted["global_step"] == 2
    for name, value in wanted["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][name], value, rtol=1e-3, atol=1e-4, msg=name)
    module = configured(second=True, stage1=str(tmp_path / "two"))
    for name, value in found["state_dict"].items():
        assert torch.equal(module.get_parameter(name), value), name
    fit(make_module(second=True, stage1=str(tmp_path / "two")), make_data(), tmp_path / "second")
