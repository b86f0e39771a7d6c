"""A run folder without a training: what a command needs to find a checkpoint in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from common.checkpoint import Manifest, checksum, commit
from common.config import ROOT
from common.run import begin


def make_run(folder: Path, state: Mapping[str, Tensor], *, target: str = "x", **model: Any) -> Path:
    """Makes the folder of a run whose model is `target`, and returns its checkpoint at step 7."""
    config = {"name": "toy", "model": {"_target_": target, "lr": 0.1, **model}}
    folder.mkdir(parents=True)
    begin(folder, config=yaml.safe_dump(config), resumed_from=None, root=ROOT)
    final = folder / "checkpoints" / "step_0000007.ckpt"
    final.parent.mkdir()
    (final.parent / "direction").write_text("min\n")
    temporary = final.with_name(f".{final.name}.part")
    torch.save({"state_dict": dict(state)}, temporary)
    size, crc32 = temporary.stat().st_size, checksum(temporary)
    commit(temporary, final, Manifest(step=7, samples=14, size=size, crc32=crc32, objective="val/loss"))
    return final
