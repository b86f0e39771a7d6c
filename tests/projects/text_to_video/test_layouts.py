"""Exports of every kind: the folder is a pipeline that makes the clips that the trained kind makes."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel, UNetMotionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from common.checkpoint import CheckpointError
from common.config import ROOT, build
from common.encoders.text import ClipText
from common.export import Request, export, read_run
from common.latent.schedulers import sampler, training_scheduler
from common.latent.vae import load_codec
from common.weights.source import WeightsError
from projects.text_to_video.guidance import Guidance
from projects.text_to_video.layouts import LAYOUTS
from projects.text_to_video.motion import predict
from projects.text_to_video.pipeline_text_to_video import CONTEXT, TextToVideoPipeline
from tests.common.runs import make_run
from tests.projects.text_to_video.t2v_parts import NOISE, disturb

VAE, TEXT = "common/tiny/weights/vae", {"weights": "common/tiny/weights/clip", "max_tokens": 12}
UNET = {
    "_target_": "common.latent.unet.build_unet2d",
    "_partial_": True,
    "weights": "random",
    "architecture": {
        "sample_size": 4,
        "block_out_channels": [16, 32],
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "cross_attention_dim": 64,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    },
    "channels_last": True,
    "checkpointing": True,
}
CONTEXT_SIZES = {"patch": 2, "depth": 1, "queries": 4, "heads": 2, "dim_head": 8, "width": 64, "targets": 1}
MOTION = {"train_spatial": False, "motion": {"heads": 2}}
KINDS: dict[str, dict[str, Any]] = {
    "joint": {"_target_": "projects.text_to_video.joint.Joint", "frames": 6, **MOTION},
    "chunks": {"_target_": "projects.text_to_video.chunks.Chunks", "window": 4, "context": 2, **MOTION},
    "distributed": {"_target_": "projects.text_to_video.distributed.Distributed", "frames": 6, **CONTEXT_SIZES},
    "frame_by_frame": {
        "_target_": "projects.text_to_video.frame_by_frame.FrameByFrame",
        "frames": 6,
        **CONTEXT_SIZES,
        "published": None,
    },
}
PROMPTS, FRAMES = ["a red circle moves left", "a blue square"], 6
SETTINGS: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}


class Made(NamedTuple):
    """A run whose training is played by random steps."""

    kind: Any
    checkpoint: Path


def make(folder: Path, name: str, **changes: Any) -> Made:
    recipe = {**KINDS[name], "_partial_": True, "unet": {**UNET, **changes}}
    torch.manual_seed(0)
    kind = build(recipe)()
    disturb(kind)
    state = {f"kind.{name}": each.detach() for name, each in kind.named_parameters() if each.requires_grad}
    checkpoint = make_run(
        folder,
        state,
        target="projects.text_to_video.module.TextToVideo",
        _partial_=True,
        kind=recipe,
        vae={"_target_": "common.latent.vae.load_codec", "_partial_": True, "weights": VAE},
        text_encoder={"_target_": "common.encoders.text.ClipText", "_partial_": True, **TEXT},
        noise={
            "_target_": "common.latent.schedulers.training_scheduler",
            "_partial_": True,
            "weights": "random",
            "config": NOISE,
        },
        sampling={"scheduler": "DDIMScheduler"},
    )
    return Made(kind, checkpoint)


def exported(made: Made, target: Path, **request: Any) -> dict[str, Any]:
    layout = LAYOUTS["diffusers"]
    return export(read_run(made.checkpoint), target, name="diffusers", layout=layout, request=Request(**request))


def ours(kind: Any, first: torch.Tensor | None = None) -> Any:
    """Clips as the trained kind gives them, uint8 (2, F, H, W, 3)."""
    codec, encoder = load_codec(weights=VAE), ClipText(**TEXT)
    with torch.no_grad():
        states = encoder([*PROMPTS, ""]).float()
    latents = kind.eval().sample(
        text=states[:-1],
        null_text=states[-1:],
        frames=FRAMES,
        shape=(4, 4, 4),
        scheduler=sampler("DDIMScheduler", training_scheduler(weights="random", config=NOISE)),
        steps=2,
        guidance=Guidance(text_scale=3.0, context_scale=1.0),
        generators=seeds(),
        first=first,
    )
    pictures = codec.decode(codec.unscale(latents).flatten(0, 1)).unflatten(0, (2, FRAMES))
    return pictures.permute(0, 1, 3, 4, 2).numpy()


def seeds() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (3, 4)]


def close(found: Any, wanted: Any) -> bool:
    """Pictures that differ by rounding at most."""
    return bool(np.abs(np.asarray(found).astype(int) - np.asarray(wanted).astype(int)).max() <= 1)


@pytest.mark.parametrize("name", KINDS)
def test_the_pipeline_makes_the_clips_of_the_trained_kind(name: str, tmp_path: Path) -> None:
    made, folder = make(tmp_path / "run", name), tmp_path / "out"
    figures = exported(made, folder)
    pipeline = TextToVideoPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    clips = pipeline(PROMPTS, num_frames=FRAMES, generator=seeds(), **SETTINGS).frames
    assert len(clips) == 2
    assert all(len(clip) == FRAMES and clip[0].size == (16, 16) for clip in clips)
    wanted = ours(made.kind)
    assert close([[np.asarray(frame) for frame in clip] for clip in clips], wanted)
    assert np.abs(wanted[0].astype(int) - wanted[1]).max() > 10  # they are not all alike

    motion = name in ("joint", "chunks")
    index = json.loads((folder / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNetMotionModel" if motion else "UNet2DConditionModel"]
    assert "unet" not in index["kind"]
    assert (folder / CONTEXT).is_file() != motion
    trained = sum(each.numel() for each in made.kind.parameters() if each.requires_grad)
    if motion:
        unet: Any = UNetMotionModel.from_pretrained(folder, subfolder="unet")
        given = torch.randn(1, 4, unet.config.in_channels, 4, 4)
        arguments = given, torch.tensor([5]), torch.randn(1, 12, 64)
        with torch.no_grad():
            torch.testing.assert_close(predict(unet, *arguments), predict(made.kind.unet, *arguments))
    else:
        assert figures["context"] == trained
        plain: Any = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
        assert figures["unet"] == plain.num_parameters()
    assert figures == exported(made, folder)  # made once


def test_plain_diffusers_loads_the_folder(tmp_path: Path) -> None:
    made, folder = make(tmp_path / "run", "distributed"), tmp_path / "out"
    exported(made, folder)
    file = str(ROOT / "projects" / "text_to_video" / "pipeline_text_to_video.py")
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, custom_pipeline=file, trust_remote_code=True)
    clips = pipeline(PROMPTS, num_frames=FRAMES, generator=seeds(), output_type="np", **SETTINGS).frames
    assert clips.shape == (2, FRAMES, 16, 16, 3)
    assert close((clips * 255).round(), ours(made.kind))


def test_a_first_frame_is_given_as_a_picture(tmp_path: Path) -> None:
    made, folder = make(tmp_path / "run", "joint"), tmp_path / "out"
    exported(made, folder)
    pipeline = TextToVideoPipeline.from_pretrained(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    codec = load_codec(weights=VAE)
    mean = codec.scale(codec.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()).mean)
    call = {"num_frames": FRAMES, "generator": seeds(), "image": Image.fromarray(pixels), **SETTINGS}
    latents = pipeline(PROMPTS, output_type="latent", **call).frames
    torch.testing.assert_close(latents[:, 0], mean.expand(2, -1, -1, -1), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"the first frame has 8 x 8 pixels, the clips \(16, 16\)"):
        pipeline(PROMPTS, **{**call, "image": Image.fromarray(pixels[:8, :8])})


def test_a_clip_is_the_same_beside_others_and_other_sizes_are_possible(tmp_path: Path) -> None:
    made, folder = make(tmp_path / "run", "joint"), tmp_path / "out"
    exported(made, folder)
    pipeline = TextToVideoPipeline.from_pretrained(folder)
    found = [
        pipeline(
            prompts,
            num_frames=2,
            height=24,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            **SETTINGS,
        ).frames
        for prompts in (PROMPTS, PROMPTS[0])
    ]
    assert found[0].shape == (2, 2, 4, 6, 4)
    torch.testing.assert_close(found[0][:1], found[1], atol=1e-3, rtol=1e-3)


def test_the_frozen_parts_may_be_halved_and_what_was_trained_stays(tmp_path: Path) -> None:
    made, folder = make(tmp_path / "run", "distributed"), tmp_path / "out"
    exported(made, folder, dtype="bfloat16")
    unet: Any = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.bfloat16)
    assert unet.dtype == torch.bfloat16
    context = load_file(folder / CONTEXT)
    own = dict(made.kind.named_parameters())
    assert all(torch.equal(value, own[name]) for name, value in context.items())
    pipeline = TextToVideoPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    latents = pipeline(PROMPTS, num_frames=2, output_type="latent", **SETTINGS).frames
    assert latents.isfinite().all()


def test_what_is_missing_or_foreign_is_named(tmp_path: Path) -> None:
    made, folder = make(tmp_path / "run", "distributed"), tmp_path / "out"
    exported(made, folder)
    with pytest.raises(ValueError, match="output_type=mp4: one of pil, np, latent"):
        TextToVideoPipeline.from_pretrained(folder)(PROMPTS, num_frames=2, output_type="mp4")
    with pytest.raises(ValueError, match="clips of 18 x 16 pixels; give multiples of 4"):
        TextToVideoPipeline.from_pretrained(folder)(PROMPTS, num_frames=2, height=18)
    state = load_file(folder / CONTEXT)
    missing = sorted(state)[0]
    save_file({name: value for name, value in state.items() if name != missing}, folder / CONTEXT)
    with pytest.raises(CheckpointError, match=missing):
        TextToVideoPipeline.from_pretrained(folder)(PROMPTS, num_frames=2)
    (folder / CONTEXT).unlink()
    with pytest.raises(WeightsError, match=r"context\.safetensors is missing"):
        TextToVideoPipeline.from_pretrained(folder)(PROMPTS, num_frames=2)

    checkpoint = make_run(tmp_path / "other", {"model.x": torch.zeros(1)})
    run = read_run(checkpoint)
    run.config["model"] = read_run(made.checkpoint).config["model"]
    with pytest.raises(WeightsError, match=r"has model\.x; tensors of this method begin with kind\."):
        LAYOUTS["diffusers"].write(run, tmp_path, Request())
