"""The method as a pipeline of diffusers: captions in, clips out.

An exported folder is loaded by `TextToVideoPipeline.from_pretrained(folder)`, or, with this checkout on the path, by
`DiffusionPipeline.from_pretrained(folder, custom_pipeline=path)` with the path of this file, which has a name of its
own because diffusers keeps such files by their names alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel, UNetMotionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from common.checkpoint import check_names, load_trained, trainable_names
from common.config import bind, build
from common.weights.source import WeightsError, weights_folder
from projects.text_to_video.guidance import Guidance

OUTPUTS = ("pil", "np", "latent")
CONTEXT = "context.safetensors"  # what was trained beside a frozen UNet, by its names in the kind
Generators = torch.Generator | list[torch.Generator] | None


@dataclass
class ClipsOutput(BaseOutput):
    """Clips.

    Attributes:
        frames: a list of PIL images a clip, float32 (B, F, H, W, 3) in 0..1, or scaled latents (B, F, C, h, w).
    """

    frames: Any


class TextToVideoPipeline(DiffusionPipeline):
    """Clips of captions by any of the kinds of `projects.text_to_video`.

    There is no safety checker: what is generated is not looked at.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    vae: Any
    text_encoder: Any
    tokenizer: Any
    unet: Any
    scheduler: Any

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerBase,
        unet: UNet2DConditionModel | UNetMotionModel,
        scheduler: SchedulerMixin,
        kind: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            vae: autoencoder of the frames.
            text_encoder: of the captions.
            tokenizer: of the text encoder; its `model_max_length` is what captions are padded to.
            unet: a UNet with temporal layers; or a text-to-image one that stays frozen, and the folder holds what was
                trained beside it. When the first clip is made, such a UNet gets paths for context.
            scheduler: any that denoises latents.
            kind: recipe of the kind without its UNet: `_target_` and its arguments.
        """
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        self.register_to_config(kind=dict(kind or {}))
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.factor)
        self.built: Any = None

    @property
    def model(self) -> Any:
        """The kind, built when it is first wanted, where the UNet is.

        Raises:
            ConfigError: the recipe names something that it may not.
            WeightsError: the folder lacks what was trained beside the UNet.
        """
        if self.built is None:
            recipe = {**self.config.kind, "_partial_": True}
            bind(recipe, "kind")
            whole: nn.Module = build(recipe)(unet=lambda: self.unet)
            if not isinstance(self.unet, UNetMotionModel):
                self._load_context(whole)
            self.built = whole.eval().requires_grad_(False)
        return self.built.to(self._execution_device)

    def _load_context(self, whole: nn.Module) -> None:
        folder = weights_folder(str(self.config.get("_name_or_path") or "the folder of the pipeline"))
        path = folder / CONTEXT
        if not path.is_file():
            raise WeightsError(f"{path} is missing: the UNet alone makes no clips; give the whole exported folder")
        state = load_file(path)
        check_names(trainable_names(whole), state, source=str(path))
        load_trained(whole, state, source=str(path))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        *,
        num_frames: int,
        height: int | None = None,
        width: int | None = None,
        image: Image.Image | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 8.0,
        context_guidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
        generator: Generators = None,
        output_type: str = "pil",
        decode_chunk_size: int = 16,
    ) -> ClipsOutput:
        """A clip for each caption.

        Args:
            prompt: caption, or several.
            num_frames: F.
            height: H in pixels, a multiple of `factor`; None for that of the UNet's configuration.
            width: W, likewise.
            image: first frame of all clips, H by W; None lets the model make it.
            num_inference_steps: denoising steps.
            guidance_scale: of the caption.
            context_guidance_scale: of the other frames, for the kinds that are conditioned on them; 1 for the others.
            guidance_rescale: phi of arXiv:2305.08891, 0 (none) to 1.
            generator: one, or one for each caption; None draws seeds from the generator of the process.
            output_type: "pil", "np" or "latent", see `ClipsOutput`.
            decode_chunk_size: frames that are decoded together.

        Raises:
            ValueError: an unfit size, too long a caption, an unknown output type, or what the kind refuses.
        """
        if output_type not in OUTPUTS:
            raise ValueError(f"output_type={output_type}: one of {', '.join(OUTPUTS)}")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        side = self.unet.config.sample_size * self.factor
        size = self._refuse_size(height or side, width or side)
        text = self._encode_text([*prompts, ""])
        latents = self.model.sample(
            text=text[:-1],
            null_text=text[-1:],
            frames=num_frames,
            shape=(self.vae.config.latent_channels, size[0] // self.factor, size[1] // self.factor),
            scheduler=self.scheduler,
            steps=num_inference_steps,
            guidance=Guidance(
                text_scale=guidance_scale, context_scale=context_guidance_scale, rescale=guidance_rescale
            ),
            generators=_generators(generator, len(prompts)),
            first=None if image is None else self._encode_image(image, size).expand(len(prompts), -1, -1, -1),
        )
        found = latents if output_type == "latent" else self._decode(latents, output_type, decode_chunk_size)
        self.maybe_free_model_hooks()
        return ClipsOutput(frames=found)

    def _refuse_size(self, height: int, width: int) -> tuple[int, int]:
        if height % self.factor or width % self.factor:
            raise ValueError(f"clips of {height} x {width} pixels; give multiples of {self.factor}")
        return height, width

    def _encode_image(self, image: Image.Image, size: tuple[int, int]) -> Tensor:
        """Scaled mode, (1, C, h, w)."""
        if (image.height, image.width) != size:
            raise ValueError(f"the first frame has {image.height} x {image.width} pixels, the clips {size}; resize it")
        pixels = self.image_processor.preprocess(image.convert("RGB")).to(self._execution_device, self.vae.dtype)
        config = self.vae.config
        mode: Tensor = self.vae.encode(pixels).latent_dist.mode().float()
        return (mode - (config.shift_factor or 0.0)) * config.scaling_factor

    def _encode_text(self, prompts: list[str]) -> Tensor:
        """Last hidden states, (B, L, D); all L places count, padding too, as in the pipelines of Stable Diffusion."""
        length = self.tokenizer.model_max_length
        rows = self.tokenizer(prompts, padding="max_length", max_length=length, truncation=False)["input_ids"]
        for prompt, row in zip(prompts, rows, strict=True):
            if len(row) > length:
                raise ValueError(f'the caption "{prompt}" has {len(row)} tokens, the text encoder takes {length}')
        states: Tensor = self.text_encoder(torch.tensor(rows, device=self._execution_device))[0]
        return states.float()

    def _decode(self, latents: Tensor, output_type: str, together: int) -> Any:
        config = self.vae.config
        unscaled = (latents / config.scaling_factor + (config.shift_factor or 0.0)).flatten(0, 1).to(self.vae.dtype)
        pixels = torch.cat([self.vae.decode(part, return_dict=False)[0].float() for part in unscaled.split(together)])
        clips = pixels.unflatten(0, latents.shape[:2])
        frames = [self.image_processor.postprocess(clip, output_type=output_type) for clip in clips]
        return torch.stack([torch.from_numpy(clip) for clip in frames]).numpy() if output_type == "np" else frames


def _generators(given: Generators, clips: int) -> list[torch.Generator]:
    """One generator a clip. A single one seeds them, so that a clip stays the same beside further ones."""
    if given is None or isinstance(given, torch.Generator):
        device = "cpu" if given is None else given.device
        seeds = torch.randint(2**63 - 1, (clips,), generator=given, device=device).tolist()
        return [torch.Generator().manual_seed(seed) for seed in seeds]
    if len(given) != clips:
        raise ValueError(f"{len(given)} generators for {clips} captions; give one, or one for each caption")
    return given
