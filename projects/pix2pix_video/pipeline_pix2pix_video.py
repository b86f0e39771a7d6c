"""The method as a pipeline of diffusers: frames and an instruction in, the next frame out.

An exported folder is loaded by `VideoInstructPix2PixPipeline.from_pretrained(folder)`, or, with this checkout on the
path, by `DiffusionPipeline.from_pretrained(folder, custom_pipeline=path)` with the path of this file, which has a name
of its own because diffusers keeps such files by their names alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from projects.pix2pix_video.model import EditModel, history_of
from projects.pix2pix_video.sampling import Guidance, sample

OUTPUTS = ("pil", "np", "latent")
Generators = torch.Generator | list[torch.Generator] | None


class VideoInstructPix2PixPipeline(DiffusionPipeline):
    """InstructPix2Pix (arXiv:2211.09800) with a history of frames; with one frame it is that method.

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
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
    ) -> None:
        """
        Args:
            vae: autoencoder of the frames.
            text_encoder: of the instructions.
            tokenizer: of the text encoder; its `model_max_length` is what prompts are padded to.
            unet: with C + C T input channels.
            scheduler: any that denoises latents.
        """
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.factor)

    @property
    def history(self) -> int:
        """Number of frames T that the model sees."""
        return history_of(self.unet)

    @torch.no_grad()
    def __call__(
        self,
        images: Sequence[Image.Image],
        prompt: str | list[str],
        *,
        num_inference_steps: int = 20,
        guidance_scale: float = 7.5,
        image_guidance_scale: float = 1.5,
        guidance_rescale: float = 0.0,
        generator: Generators = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """The next frame, one for each prompt.

        Args:
            images: the T frames of the history, oldest first, RGB, of one size: multiples of `factor`.
            prompt: instruction, or several for the same history.
            num_inference_steps: denoising steps.
            guidance_scale: s_T of the text.
            image_guidance_scale: s_I of the history.
            guidance_rescale: phi of arXiv:2305.08891, 0 (none) to 1.
            generator: one, or one for each prompt; None draws seeds from the generator of the process.
            output_type: "pil", "np" (float32 (B, H, W, 3), 0..1) or "latent" (scaled, (B, C, h, w)).

        Raises:
            ValueError: another number of frames, frames of unequal or unfit size, too long a prompt, or an unknown
                output type.
        """
        if output_type not in OUTPUTS:
            raise ValueError(f"output_type={output_type}: one of {', '.join(OUTPUTS)}")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        guidance = Guidance(text_scale=guidance_scale, image_scale=image_guidance_scale, rescale=guidance_rescale)
        self._refuse_frames(images)
        latents = self._sample(
            self._encode_frames(images),
            self._encode_text([*prompts, ""]),
            steps=num_inference_steps,
            guidance=guidance,
            generators=_generators(generator, len(prompts)),
        )
        found: Any = latents if output_type == "latent" else self._decode(latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=found)

    @torch.no_grad()
    def roll_out(
        self,
        images: Sequence[Image.Image],
        prompt: str,
        *,
        frames: int,
        num_inference_steps: int = 20,
        guidance_scale: float = 7.5,
        image_guidance_scale: float = 1.5,
        guidance_rescale: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> list[Image.Image]:
        """Further frames, each predicted from the T before it, predicted ones included; each is encoded once.

        Args:
            images: as for a call.
            prompt: instruction.
            frames: how many to predict.
            num_inference_steps: of each frame.
            guidance_scale: as for a call.
            image_guidance_scale: as for a call.
            guidance_rescale: as for a call.
            generator: goes on from frame to frame; None draws a seed from the generator of the process.

        Returns:
            The predicted frames, oldest first.

        Raises:
            ValueError: as for a call.
        """
        guidance = Guidance(text_scale=guidance_scale, image_scale=image_guidance_scale, rescale=guidance_rescale)
        self._refuse_frames(images)
        text, generators = self._encode_text([prompt, ""]), _generators(generator, 1)
        history, found = self._encode_frames(images), list[Image.Image]()
        for _ in range(frames):
            if found:
                history = torch.cat([history[:, 1:], self._encode_frames(found[-1:])], dim=1)
            latents = self._sample(history, text, steps=num_inference_steps, guidance=guidance, generators=generators)
            found += self._decode(latents, "pil")
        self.maybe_free_model_hooks()
        return found

    def _sample(
        self,
        history: Tensor,
        text: Tensor,
        *,
        steps: int,
        guidance: Guidance,
        generators: list[torch.Generator],
    ) -> Tensor:
        """Scaled latents of the next frame for each text but the last, which is the null instruction."""
        return sample(
            EditModel(unet=self.unet),
            history=history.expand(len(text) - 1, -1, -1, -1, -1),
            text=text[:-1],
            null_text=text[-1:],
            scheduler=self.scheduler,
            steps=steps,
            guidance=guidance,
            generators=generators,
            watch=self.progress_bar,
        )

    def _refuse_frames(self, images: Sequence[Image.Image]) -> None:
        if len(images) != self.history:
            raise ValueError(
                f"{len(images)} frames were given, this model sees {self.history}, oldest first; give that many"
            )
        sizes = {image.size for image in images}
        width, height = images[0].size
        if len(sizes) > 1 or width % self.factor or height % self.factor:
            raise ValueError(
                f"frames of {', '.join(f'{w}x{h}' for w, h in sorted(sizes))} pixels; resize all to one size whose "
                f"sides are multiples of {self.factor}, best to that of training"
            )

    def _encode_frames(self, images: Sequence[Image.Image]) -> Tensor:
        """Unscaled modes, (1, n, C, h, w)."""
        pixels = self.image_processor.preprocess([image.convert("RGB") for image in images])
        modes: Tensor = self.vae.encode(pixels.to(self._execution_device, self.vae.dtype)).latent_dist.mode()
        return modes.float()[None]

    def _encode_text(self, prompts: list[str]) -> Tensor:
        """Last hidden states, (B, L, D); all L places count, padding too, as in the pipelines of Stable Diffusion."""
        length = self.tokenizer.model_max_length
        rows = self.tokenizer(prompts, padding="max_length", max_length=length, truncation=False)["input_ids"]
        for prompt, row in zip(prompts, rows, strict=True):
            if len(row) > length:
                raise ValueError(f'the prompt "{prompt}" has {len(row)} tokens, the text encoder takes {length}')
        states: Tensor = self.text_encoder(torch.tensor(rows, device=self._execution_device))[0]
        return states

    def _decode(self, latents: Tensor, output_type: str) -> Any:
        config = self.vae.config
        unscaled = latents / config.scaling_factor + (config.shift_factor or 0.0)
        pixels = self.vae.decode(unscaled.to(self.vae.dtype), return_dict=False)[0]
        return self.image_processor.postprocess(pixels.float(), output_type=output_type)


def _generators(given: Generators, rows: int) -> list[torch.Generator]:
    """One generator a row. A single one is drawn from row after row."""
    if given is None:
        seeds = torch.randint(2**63 - 1, (rows,)).tolist()
        return [torch.Generator().manual_seed(seed) for seed in seeds]
    if isinstance(given, torch.Generator):
        return [given] * rows
    if len(given) != rows:
        raise ValueError(f"{len(given)} generators for {rows} prompts; give one, or one for each prompt")
    return given
