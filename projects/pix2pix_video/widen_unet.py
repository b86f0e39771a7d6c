"""Preparation of the base: a published UNet with the input channels of a history, as a folder of diffusers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from common.files import digest
from common.latent.unet import FILE, SUBFOLDER, channels_of, read_unet, unet_folder
from common.made import make_folder
from common.weights.verified import refuse_difference
from projects.pix2pix_video.model import widen

MAX_SHARD_BYTES = 5_000_000_000


def widen_unet(*, source: str, target: str, history: int) -> dict[str, Any]:
    """Writes `<target>/unet` in float32; the base stays as it is, and its other parts are read from there.

    Args:
        source: folder of a pipeline of diffusers or of a UNet, or id of a fetched Hub repository: text to image (C
            input channels) or InstructPix2Pix (2 C).
        target: folder to make.
        history: number of history frames T, at least 1.

    Returns:
        Input channels and parameters before and after.

    Raises:
        WeightsError: there is no such UNet.
        ValueError: it cannot be widened, or `target` holds something else.
        OSError: what was written does not read back equal.
    """
    folder = unet_folder(source)
    files = sorted([folder / "config.json", *folder.glob(f"{FILE}*")])
    made_from = {"files": {path.name: digest(path) for path in files}, "history": history}
    return make_folder(Path(target), source=made_from, make=lambda temporary: _make(temporary, source, history))


def _make(folder: Path, source: str, history: int) -> Mapping[str, Any]:
    unet: Any = read_unet(source)
    before = {"in_channels": channels_of(unet)[0], "parameters": unet.num_parameters()}
    widen(unet, history=history)
    write_unet(unet, folder / SUBFOLDER, max_shard_bytes=MAX_SHARD_BYTES)
    return {
        "old_in_channels": before["in_channels"],
        "in_channels": channels_of(unet)[0],
        "old_parameters": before["parameters"],
        "parameters": unet.num_parameters(),
    }


def write_unet(unet: Any, folder: Path, *, max_shard_bytes: int) -> None:
    """Saves a UNet as diffusers does, loads it as diffusers does, and compares.

    Raises:
        OSError: the weights or the input channels do not read back equal.
    """
    unet.save_pretrained(folder, max_shard_size=max_shard_bytes)
    again: Any = read_unet(str(folder), dtype=unet.dtype)
    if channels_of(again) != channels_of(unet):
        raise OSError(f"{folder}: {channels_of(again)} channels read back, {channels_of(unet)} were written")
    written: dict[str, Tensor] = again.state_dict()
    meant: dict[str, Tensor] = unet.state_dict()
    refuse_difference(folder, found=written, wanted=meant, read_back=written.__getitem__, read=meant.__getitem__)
