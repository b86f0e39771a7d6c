"""The pipeline of diffusers: equal to InstructPix2Pix at one frame, saved and loaded, rolled out."""

import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionInstructPix2PixPipeline
from PIL import Image
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

from common.config import ROOT
from projects.pix2pix_video.pipeline_pix2pix_video import VideoInstructPix2PixPipeline
from tests.projects.pix2pix_video.parts import WIDTH, C, tiny_unet

PROMPT = "move the red circle left"
SIZE = 16


def parts(history: int, scheduler: str = "DDIMScheduler") -> dict[str, Any]:
    """Components with random weights."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "common/tiny/weights/clip", model_max_length=12)
    settings = {"clip_sample": False} if scheduler == "DDIMScheduler" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=[4, 8],
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            latent_channels=C,
            norm_num_groups=2,
            sample_size=SIZE,
        )
        text = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=12,
        )
        return {
            "vae": vae.eval(),  # type: ignore[attr-defined]
            "text_encoder": CLIPTextModel(text).eval(),
            "tokenizer": tokenizer,
            "unet": tiny_unet(in_channels=C + history * C),
            "scheduler": getattr(diffusers, scheduler)(
                beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **settings
            ),
        }


def make(history: int, **settings: Any) -> VideoInstructPix2PixPipeline:
    pipeline = VideoInstructPix2PixPipeline(**parts(history, **settings))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def frames(count: int, *, size: int = SIZE) -> list[Image.Image]:
    source = np.random.default_rng(0)
    return [Image.fromarray(source.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(count)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("prompt", [PROMPT, [PROMPT, "stop"]], ids=["one", "two"])
def test_with_one_frame_it_is_the_published_pipeline(scheduler: str, prompt: str | list[str]) -> None:
    components = parts(1, scheduler)
    published = StableDiffusionInstructPix2PixPipeline(
        **components, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    own = VideoInstructPix2PixPipeline(**components)
    count = 1 if isinstance(prompt, str) else len(prompt)

    def generator() -> Any:  # of several prompts each has its own, as in our sampling
        return seeded(0) if count == 1 else [seeded(seed) for seed in range(count)]

    scales = {"num_inference_steps": 4, "guidance_scale": 7.5, "image_guidance_scale": 1.5}
    for pipeline in (published, own):
        pipeline.set_progress_bar_config(disable=True)
    [image] = frames(1)
    for output in ("latent", "np"):
        wanted = published(prompt, image=image, generator=generator(), output_type=output, **scales).images
        found = own([image], prompt, generator=generator(), output_type=output, **scales).images
        np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), atol=2e-4, rtol=1e-4)
    assert wanted.shape == (count, SIZE, SIZE, 3)


def test_it_is_saved_and_loaded_by_both_ways(tmp_path: Path) -> None:
    pipeline = make(3)
    pipeline.save_pretrained(tmp_path)
    wanted = pipeline(frames(3), PROMPT, generator=seeded(0), num_inference_steps=2, output_type="np").images
    custom = str(ROOT / "projects/pix2pix_video/pipeline_pix2pix_video.py")
    for loaded in (
        VideoInstructPix2PixPipeline.from_pretrained(tmp_path),
        DiffusionPipeline.from_pretrained(tmp_path, custom_pipeline=custom, trust_remote_code=True),
    ):
        assert type(loaded).__name__ == "VideoInstructPix2PixPipeline"
        assert loaded.history == 3
        loaded.set_progress_bar_config(disable=True)
        found = loaded(frames(3), PROMPT, generator=seeded(0), num_inference_steps=2, output_type="np").images
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_seeds_mean_what_they_say() -> None:
    pipeline = make(2)

    def run(generator: Any, prompt: Any = PROMPT) -> Any:
        return pipeline(
            frames(2), prompt, num_inference_steps=2, generator=generator, output_type="latent"
        ).images.numpy()

    zero = run(seeded(0))
    np.testing.assert_array_equal(run(seeded(0)), zero)
    assert not np.allclose(run(seeded(1)), zero, atol=1e-2)
    several = run([seeded(1), seeded(0)], ["stop", PROMPT])
    np.testing.assert_allclose(several[1:], zero, atol=1e-4)
    torch.manual_seed(5)
    first = run(None)
    assert not np.allclose(run(None), first, atol=1e-2)
    torch.manual_seed(5)
    np.testing.assert_array_equal(run(None), first)


def test_a_roll_out_sees_what_it_predicted() -> None:
    pipeline, seen = make(3), frames(3)
    settings = {"num_inference_steps": 2}
    found = pipeline.roll_out(seen, PROMPT, frames=4, generator=seeded(0), **settings)
    assert len(found) == 4
    generator, known = seeded(0), list(seen)
    for place, frame in enumerate(found):
        [wanted] = pipeline(known[place:], PROMPT, generator=generator, **settings).images
        # A frame is encoded by itself there and among others here, which rounds differently.
        assert np.abs(np.asarray(frame).astype(int) - np.asarray(wanted)).max() <= 1, place
        known.append(frame)
    assert np.abs(np.asarray(found[1]).astype(int) - np.asarray(found[0])).max() > 8
    assert pipeline.roll_out(seen, PROMPT, frames=0) == []


@pytest.mark.parametrize(
    ("images", "changes", "message"),
    [
        (frames(2), {}, "2 frames were given, this model sees 3"),
        ([*frames(2), *frames(1, size=32)], {}, "frames of 16x16, 32x32 pixels"),
        (frames(3, size=15), {}, "multiples of 2"),
        (frames(3), {"prompt": "left " * 20}, "22 tokens, the text encoder takes 12"),
        (frames(3), {"output_type": "pt"}, "one of pil, np, latent"),
        (frames(3), {"generator": [seeded(0)] * 2}, "2 generators for 1 prompts"),
        (frames(3), {"num_inference_steps": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_done_is_an_error(images: list[Image.Image], changes: dict[str, Any], message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tokenizer warns of the long prompt that is refused
        with pytest.raises(ValueError, match=message):
            make(3)(images, **{"prompt": PROMPT, **changes})
