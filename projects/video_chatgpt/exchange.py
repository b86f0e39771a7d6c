"""The preparation task that takes a published adapter in, as a run. The way out is `layouts.py`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from common import checkpoint as checkpoints
from common.config import ROOT
from common.files import digest
from common.made import make_folder
from common.run import begin
from common.weights.source import Weights, WeightsError, weights_folder
from projects.video_chatgpt.adapter import EMBEDDING, read_adapter, refuse_other_base, trained_state


def import_adapter(
    *, adapter: str, run: str, base: str | None, start_id: int, end_id: int, model: Mapping[str, Any]
) -> dict[str, Any]:
    """An adapter as a run folder, which `ckpt=` of evaluate, generate and export and `init=` of train take.

    Args:
        adapter: file in the published layout or in ours, or a folder of weights that holds a projector.
        run: folder to make.
        base: folder or fetched Hub repository of the language model, whose embedding the adapter's is compared with;
            null leaves that out.
        start_id: row of <vid_start> in the adapter's embedding.
        end_id: row of <vid_end>.
        model: configuration of the module, kept in the run folder.

    Returns:
        Numbers read, and rows of the embedding that differ from the base's.

    Raises:
        WeightsError: the adapter is damaged, or of another model; nothing is written.
    """
    path = Path(adapter)
    read = read_adapter(path)
    if read.weight.shape[1] != model["feature_width"]:
        raise WeightsError(
            f"{path} projects features {read.weight.shape[1]} wide, model.feature_width is {model['feature_width']}; "
            "choose the model that it belongs to"
        )
    differing = 0
    if base is not None:
        embedding = Weights(weights_folder(base)).read(EMBEDDING)
        differing = refuse_other_base(read, embedding, source=str(path), base=base)
    state = trained_state(read, start_id=start_id, end_id=end_id, source=str(path))
    config = {"name": "video_chatgpt", "model": model}

    def make(temporary: Path) -> dict[str, Any]:
        begin(temporary, config=yaml.safe_dump(config, sort_keys=False), resumed_from=None, root=ROOT)
        _write_checkpoint(temporary / checkpoints.FOLDER, state)
        return {"numbers": sum(value.numel() for value in state.values()), "rows unlike the base": differing}

    files = Weights(path).identity() if path.is_dir() else digest(path)
    source = {"adapter": files, "ids": [start_id, end_id], "model": model, "base": base}
    return make_folder(Path(run), source=source, make=make)


def _write_checkpoint(folder: Path, state: Mapping[str, Tensor]) -> None:
    folder.mkdir()
    (folder / "direction").write_text("min\n")
    temporary, final = folder / ".step_0000000.ckpt.part", folder / "step_0000000.ckpt"
    torch.save({"state_dict": dict(state), "global_step": 0, "epoch": 0}, temporary)
    manifest = checkpoints.Manifest(
        step=0,
        samples=0,
        size=temporary.stat().st_size,
        crc32=checkpoints.checksum(temporary),
        objective="val/loss",
    )
    checkpoints.commit(temporary, final, manifest)
