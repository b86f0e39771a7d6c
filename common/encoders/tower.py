"""CLIP and SigLIP with both towers: uint8 pictures and texts in, embeddings of the shared space out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel, PreTrainedTokenizerBase, SiglipModel

from common.encoders.tower_source import CLIP, Channels, random_model, read_model, read_statistics, read_tokenizer
from common.lora import ADAPTER
from common.shapes import expect
from common.weights.source import weights_folder


class Seen(NamedTuple):
    """What a vision tower makes of N pictures: float32 (N, D) and (N, P, hidden)."""

    embeddings: Tensor
    patches: Tensor


class ContrastiveTower(nn.Module):
    """A CLIP or SigLIP of transformers. Its own parameters are frozen and it stays in eval mode.

    Nothing here stops gradients: whoever puts trainable factors into `vision` gets them.

    Attributes:
        model: the `CLIPModel` or `SiglipModel`.
        family: "clip" or "siglip".
        image_size: height and width of its pictures.
        width: D of the shared space.
        grid: rows and columns of patches; P is their product.
        mean: of its pixels, on 0..1; likewise `std`.
        identity: of its weights, as caches record it.
    """

    model: Any  # what transformers decorates has no types
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        model: CLIPModel | SiglipModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None,
        mean: Channels,
        std: Channels,
        identity: str,
    ) -> None:
        """
        Args:
            model: of either family; its pooled output is needed.
            tokenizer: of its texts; without one, pictures alone.
            mean: of its pixels, on 0..1.
            std: likewise.
            identity: of its weights.
        """
        super().__init__()
        self.model = model.requires_grad_(False)
        self.tokenizer, self.mean, self.std, self.identity = tokenizer, mean, std, identity
        config: Any = model.config  # its parts may be dicts before it is built, says its type
        self.family, vision = str(config.model_type), config.vision_config
        self.image_size = int(vision.image_size)
        self.width = int(config.projection_dim if self.family == CLIP else vision.hidden_size)
        self.patch_width = int(vision.hidden_size)
        side = self.image_size // int(vision.patch_size)
        self.grid = (side, side)
        self.max_tokens = int(config.text_config.max_position_embeddings)
        self.register_buffer("shift", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("scale", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)
        self.eval()

    @property
    def vision(self) -> nn.Module:
        """The vision tower, where adapters go; what projects its output into the shared space is not in it."""
        tower: nn.Module = self.model.vision_model
        return tower

    @property
    def projection(self) -> nn.Module | None:
        """CLIP's linear map of the class token into the shared space; SigLIP has none."""
        return self.model.visual_projection if self.family == CLIP else None

    def train(self, mode: bool = True) -> "ContrastiveTower":
        """Stays in eval mode but for the dropout of adapters."""
        super().train(False)
        for name, module in self.named_modules():
            if name.rpartition(".")[2] == f"{ADAPTER}dropout":
                module.train(mode)
        return self

    def images(self, pixels: Tensor) -> Tensor:
        """Embeddings of pictures: CLIP's projected class token, SigLIP's pooled output.

        Args:
            pixels: uint8 (N, 3, H, W), 0..255, H = W = `image_size`.

        Returns:
            float32 (N, D), not normalised.
        """
        pooled = self.vision(pixel_values=self._normal(pixels)).pooler_output
        return self._shared(pooled)

    def patches(self, pixels: Tensor) -> Tensor:
        """Patch states of the last block, before the last layer norm and without CLIP's class token: (N, P, hidden)."""
        return self.forward(pixels).patches

    def forward(self, pixels: Tensor) -> Seen:
        """Embeddings and patch states of pictures in one pass; see `images` and `patches`."""
        vision: Any = self.vision
        states = vision.embeddings(self._normal(pixels))
        if self.family == CLIP:
            last = vision.encoder(inputs_embeds=vision.pre_layrnorm(states)).last_hidden_state
            return Seen(self._shared(vision.post_layernorm(last[:, 0])), last[:, 1:].float())
        last = vision.encoder(inputs_embeds=states).last_hidden_state
        return Seen(self._shared(vision.head(vision.post_layernorm(last))), last.float())

    def texts(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """Embeddings of texts, which do not depend on what else is in the batch.

        Args:
            texts: N of them.
            truncate: whether a text that is too long loses its end.

        Returns:
            float32 (N, D), not normalised.

        Raises:
            ValueError: a text is too long, or the tower came without a tokenizer.
        """
        ids = self.tokenise(texts, truncate=truncate).to(self.model.device)
        pooled = self.model.text_model(input_ids=ids).pooler_output
        embeddings: Tensor = (self.model.text_projection(pooled) if self.family == CLIP else pooled).float()
        return embeddings

    def tokenise(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """Ids of texts, int64 (N, L), padded to the length of the text tower as either family was trained.

        No mask goes with them: CLIP's tower is causal and reads its last token before the padding, SigLIP's was trained
        to see the padding.

        Raises:
            ValueError: a text is too long, or the tower came without a tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError(f"{self.identity} came without a tokenizer; name the folder of one (tokenizer=...)")
        rows: list[list[int]] = self.tokenizer(
            list(texts), truncation=truncate, max_length=self.max_tokens, padding=False, verbose=False
        )["input_ids"]
        for text, row in zip(texts, rows, strict=True):
            if len(row) > self.max_tokens:
                raise ValueError(
                    f'the text "{text}" has {len(row)} tokens, the tower reads {self.max_tokens}; shorten it'
                )
        padding = self.tokenizer.pad_token_id
        return torch.tensor([row + [padding] * (self.max_tokens - len(row)) for row in rows], dtype=torch.long)

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """`logits_per_image` of the model: scaled cosines, with SigLIP's bias.

        Args:
            images: embeddings (N, D), as `images` gives them.
            texts: embeddings (M, D), as `texts` gives them.

        Returns:
            float32 (N, M).
        """
        cosines = functional.normalize(images.float(), dim=-1) @ functional.normalize(texts.float(), dim=-1).T
        scaled: Tensor = cosines * self.model.logit_scale.float().exp()
        return scaled if self.family == CLIP else scaled + self.model.logit_bias.float()

    def _normal(self, pixels: Tensor) -> Tensor:
        size = self.image_size
        expect(pixels, "N C H W", name="pixels", dtype=torch.uint8, C=3, H=size, W=size)
        return ((pixels.float() - self.shift) / self.scale).to(self.model.dtype)

    def _shared(self, pooled: Tensor) -> Tensor:
        return (pooled if self.projection is None else self.projection(pooled)).float()


def load_tower(
    *,
    weights: str,
    architecture: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    dtype: str = "float32",
    seed: int = 0,
) -> ContrastiveTower:
    """Builds the tower; nothing is downloaded.

    Args:
        weights: folder or fetched Hub id of a CLIP (OpenAI's, MetaCLIP) or SigLIP of both towers, or "random".
        architecture: arguments of CLIPConfig or SiglipConfig, with `model_type: clip` or `siglip`; only for "random".
        tokenizer: folder or fetched Hub id of another tokenizer than the one beside the weights.
        dtype: of the weights, by its name in torch.
        seed: of the random weights.

    Raises:
        ValueError: "random" without an architecture, or one of another family.
        WeightsError: nothing of that name, or another model in it.
    """
    if weights == "random":
        folder, (model, identity) = None, random_model(architecture, seed)
    else:
        folder = weights_folder(weights)
        model, identity = read_model(folder)
    mean, std = read_statistics(folder, str(model.config.model_type))
    return ContrastiveTower(
        model.to(getattr(torch, dtype)),
        tokenizer=read_tokenizer(folder if tokenizer is None else weights_folder(tokenizer)),
        mean=mean,
        std=std,
        identity=identity,
    )
