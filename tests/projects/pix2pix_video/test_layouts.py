"""Exports: plain diffusers loads the UNet, and our pipeline the folder, in a process of its own; same frames."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from huggingface_hub import ModelCard
from torch import Tensor

from common.checkpoint import checksum
from common.config import ROOT, ConfigError, build, plain
from common.ema import SHADOW, Ema
from common.pipeline_folder import model_config
from common.weights.source import WeightsError
from launchers import export
from launchers.command import as_yaml, compose
from projects.pix2pix_video.module import Pix2PixVideo
from projects.pix2pix_video.sampling import sample
from tests.common.runs import make_run

PROMPT, HISTORY, SIZE = "move the red circle left", 3, 16
SMALL = (
    "experiment=pix2pix_video_tiny",
    f"model.unet.history={HISTORY}",
    "model.unet.architecture.block_out_channels=[16, 32]",
    "model.unet.architecture.sample_size=4",
    "model.sampling.steps=2",
    "model.noise.config.prediction_type=epsilon",  # so that the noise is seen in the result of random weights
)
FRESH = """\
import sys
import numpy as np, torch
from PIL import Image

folder, given, out = sys.argv[1:]
from diffusers import UNet2DConditionModel
unet, found = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", output_loading_info=True)
assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), found
assert not {"projects", "common", "launchers"} & {name.partition(".")[0] for name in sys.modules}
data = np.load(given)
with torch.no_grad():
    prediction = unet(
        torch.from_numpy(data["sample"]), 500, encoder_hidden_states=torch.from_numpy(data["text"])
    ).sample

from projects.pix2pix_video.pipeline_pix2pix_video import VideoInstructPix2PixPipeline
pipeline = VideoInstructPix2PixPipeline.from_pretrained(folder)
frames = [Image.fromarray(frame) for frame in data["frames"]]
seed = torch.Generator().manual_seed(int(data["seed"]))
settings = {"num_inference_steps": 2, "guidance_scale": 1.5, "image_guidance_scale": 1.0}
[image] = pipeline(frames, str(data["prompt"]), generator=seed, **settings).images
np.savez(out, prediction=prediction, image=np.asarray(image), channels=unet.config.in_channels)
"""


class Made(NamedTuple):
    """A run whose training is played by random steps."""

    folder: Path
    module: Pix2PixVideo
    config: dict[str, Any]
    checkpoint: Path


def make(folder: Path, *overrides: str) -> Made:
    cfg = compose("paths.run=.", *SMALL, *overrides)
    module: Pix2PixVideo = build(plain(cfg)["model"])
    module.configure_model()
    module.eval()
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=source) * 0.05)
    state = {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}
    checkpoint = make_run(folder, state)
    (folder / "config.yaml").write_text(as_yaml(cfg))
    return Made(folder, module, plain(cfg), checkpoint)


def with_average(made: Made, shadow: Mapping[str, Tensor]) -> None:
    """The same run, as if it had kept an average."""
    made.checkpoint.unlink()
    content = {"state_dict": {name: value.detach() for name, value in made.module.named_parameters()}}
    torch.save({**content, "callbacks": {Ema.__qualname__: {SHADOW: dict(shadow)}}}, made.checkpoint)
    path = made.checkpoint.with_suffix(".json")
    manifest = json.loads(path.read_text())
    manifest |= {"size": made.checkpoint.stat().st_size, "crc32": checksum(made.checkpoint)}
    path.write_text(json.dumps(manifest))


def exported(made: Made, layout: str, *overrides: str, name: str = "") -> Path:
    out = made.folder.parent / f"{made.folder.name}-{layout}{name}"
    export.main(
        compose(f"ckpt='{made.folder}'", f"paths.run='{out}'", f"export.layout={layout}", *SMALL[:1], *overrides)
    )
    return out / "export"


def frames() -> Any:
    return np.random.default_rng(0).integers(0, 256, (HISTORY, SIZE, SIZE, 3), dtype=np.uint8)


def ours(module: Pix2PixVideo, seed: int) -> Any:
    """The next frame as the module gives it, uint8 (H, W, 3)."""
    pixels = torch.from_numpy(frames()).permute(0, 3, 1, 2).contiguous()
    encoder = module.recipes["text_encoder"]() if module.text_encoder is None else module.text_encoder
    with torch.no_grad():
        text = encoder([PROMPT, ""])
    latents = sample(
        module.model,
        history=module.codec.encode(pixels).mean[None],
        text=text[:1],
        null_text=text[1:],
        scheduler=module.sampler,
        steps=2,
        guidance=module.guidance,
        generators=[torch.Generator().manual_seed(seed)],
    )
    return module.codec.decode(module.codec.unscale(latents))[0].permute(1, 2, 0).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), ("model.train_text_encoder=true", "model.text_encoder_lr=1e-5")])
def test_the_pipeline_loads_elsewhere_and_gives_the_same_frame(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    made = make(tmp_path / "run", *overrides)
    folder = exported(made, "diffusers")
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "VideoInstructPix2PixPipeline"
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    assert json.loads((folder / "unet" / "config.json").read_text())["in_channels"] == 4 + 4 * HISTORY
    source = torch.Generator().manual_seed(2)
    sample_of_all = torch.randn(1, 4 + 4 * HISTORY, 4, 4, generator=source)
    text = torch.randn(1, 12, 64, generator=source)
    given, out = tmp_path / "given.npz", tmp_path / "out.npz"
    np.savez(given, sample=sample_of_all, text=text, frames=frames(), seed=0, prompt=PROMPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", FRESH, str(folder), str(given), str(out)], env=environment, check=True)
    found = np.load(out)
    assert found["channels"] == 4 + 4 * HISTORY
    with torch.no_grad():
        wanted = made.module.model.unet(sample_of_all, 500, encoder_hidden_states=text).sample
    np.testing.assert_allclose(found["prediction"], wanted, atol=1e-5, rtol=1e-4)
    difference = found["image"].astype(int) - ours(made.module, 0)
    assert np.abs(difference).max() <= 1  # pixels are scaled in another order before they are rounded
    assert np.abs(found["image"].astype(int) - ours(made.module, 1)).max() > 8


def test_the_unet_alone_and_a_card(tmp_path: Path) -> None:
    made = make(tmp_path / "run")
    folder = exported(made, "unet")
    unet: Any = UNet2DConditionModel.from_pretrained(folder)
    assert unet.config.in_channels == unet.conv_in.in_channels == 4 + 4 * HISTORY
    wanted = made.module.model.unet.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in unet.state_dict().items())
    card = ModelCard.load(folder / "README.md")
    assert card.data.to_dict()["library_name"] == "diffusers"
    half: Any = UNet2DConditionModel.from_pretrained(
        exported(made, "unet", "export.dtype=bfloat16", name="-half"), torch_dtype=torch.bfloat16
    )
    assert all(torch.equal(value, wanted[name].bfloat16()) for name, value in half.state_dict().items())


def test_averaged_or_raw_weights_as_asked(tmp_path: Path) -> None:
    made = make(tmp_path / "run")
    raw = {name: value.detach() for name, value in made.module.named_parameters()}
    with_average(made, {name: value + 1 for name, value in raw.items()})
    for which, more in (("auto", 1), ("averaged", 1), ("raw", 0)):
        folder = exported(made, "unet", f"weights={which}", name=f"-{which}")
        bias: Any = UNet2DConditionModel.from_pretrained(folder).conv_in.bias  # type: ignore[attr-defined]
        assert torch.equal(bias, raw["model.unet.conv_in.bias"] + more)
        wanted = "raw" if which == "raw" else "averaged"
        assert json.loads((folder / "made.json").read_text())["source"]["weights"] == wanted


def test_the_base_may_have_moved(tmp_path: Path) -> None:
    """Of the base of the UNet only the configuration is wanted, because all of it was trained."""
    made = make(tmp_path / "run")
    base = exported(made, "diffusers")
    cfg = dict(made.config)
    moved = tmp_path / "base"
    for part in ("unet", "vae", "text_encoder"):
        cfg["model"][part] |= {"weights": str(moved), "architecture": None}
    cfg["model"]["noise"]["weights"] = str(moved)
    (made.folder / "config.yaml").write_text(yaml.safe_dump(cfg))
    with pytest.raises(ValueError, match=f"{moved}"):
        exported(made, "diffusers", name="-1")
    (base / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    again = exported(made, "diffusers", f"export.base='{base}'", name="-2")
    for name in ("vae", "text_encoder"):
        first, second = (next((each / name).glob("*.safetensors")).read_bytes() for each in (base, again))
        assert first == second


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    made = make(tmp_path / "run", "model.train_text_encoder=true", "model.text_encoder_lr=1e-5")
    with pytest.raises(WeightsError, match=r"a UNet is not all; take export\.layout=diffusers"):
        exported(made, "unet")
    other = make(tmp_path / "other")
    make_run(tmp_path / "foreign", {"model.projector.weight": torch.zeros(2)})
    text = (other.folder / "config.yaml").read_text()
    (tmp_path / "foreign" / "config.yaml").write_text(text)
    with pytest.raises(
        WeightsError, match=r"has model\.projector\.weight; tensors of this method begin with model\.unet"
    ):
        exported(Made(tmp_path / "foreign", other.module, {}, other.checkpoint), "unet")
    (other.folder / "config.yaml").write_text(text.replace("history: 3", "history: 4"))
    with pytest.raises(WeightsError, match=r"no place in the UNet \(first: conv_in\.weight\)"):
        exported(other, "unet")
    evil = {"model": {**other.config["model"], "vae": {"_target_": "os.system", "command": "true"}}}
    with pytest.raises(ConfigError):
        model_config(type("Run", (), {"config": evil})())  # type: ignore[arg-type]
