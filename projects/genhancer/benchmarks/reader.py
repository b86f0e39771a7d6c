"""What benchmarks ask of a model: embeddings of pictures, through its own preprocessing, and of texts."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from common.parallel import needs_autocast
from common.progress import track
from common.video.images import opened

A = TypeVar("A")
R = TypeVar("R")
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
BICUBIC = int(Image.Resampling.BICUBIC)
AHEAD = 4  # pictures for each worker


class Tower(Protocol):
    """Both towers of a CLIP or SigLIP, see `common.encoders.tower`."""

    image_size: int

    def images(self, pixels: Tensor) -> Tensor:
        """Embeddings (N, D) of uint8 (N, 3, H, W), not normalised."""

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (N, D) of texts, not normalised."""

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """The model's own logits (N, M) of embeddings (N, D) and (M, D)."""


class Preprocess:
    """Resize and crop of a model, by Pillow as in its training; values are scaled by the tower.

    What a model reads is a matter of single grey levels here, so this is the image processor of transformers itself,
    in its Pillow backend, which is the published one whatever else is installed.
    """

    def __init__(self, *, folder: Path | None, family: str, image_size: int) -> None:
        """
        Args:
            folder: of a model; its preprocessor file is followed. Where there is none, what the family does: CLIP
                resizes the shorter side and crops the centre, SigLIP resizes both sides, bicubic.
            family: "clip" or "siglip".
            image_size: side of the pictures that the tower reads, pixels.

        Raises:
            ValueError: another family.
        """
        kinds: dict[str, Any] = {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil}
        if family not in kinds:
            raise ValueError(f"a model of type {family}; the benchmarks read {' and '.join(kinds)}")
        self.image_size = image_size
        if folder is not None and any((folder / name).is_file() for name in PREPROCESSORS):
            self.processor = kinds[family].from_pretrained(folder)
        else:
            square = {"height": image_size, "width": image_size}
            sizes: dict[str, Any] = {"size": square}
            if family == "clip":
                sizes = {"size": {"shortest_edge": image_size}, "crop_size": square}
            self.processor = kinds[family](**sizes, resample=BICUBIC)

    def __call__(self, picture: Image.Image | NDArray[np.uint8]) -> Tensor:
        """A picture, or uint8 (H, W, 3), as uint8 (3, S, S).

        Raises:
            ValueError: the processor makes another size than the tower reads.
        """
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        made = self.processor(images=image, do_rescale=False, do_normalize=False, return_tensors="pt")
        pixels: Tensor = made["pixel_values"][0]
        side = self.image_size
        if pixels.shape != (3, side, side):
            raise ValueError(
                f"the model's {PREPROCESSORS[0]} makes pictures of {tuple(pixels.shape[1:])}, its tower reads "
                f"{side}x{side}; mend its size and crop_size"
            )
        assert pixels.dtype == torch.uint8, "nothing after the crop was asked for"
        return pixels


class Reader:
    """A model as the benchmarks see it; embeddings come as float32 on the CPU, in the order of what they are of."""

    def __init__(
        self,
        tower: Tower,
        *,
        preprocess: Preprocess,
        batch: int = 64,
        workers: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        """
        Args:
            tower: in eval mode, on the device.
            preprocess: of the same model.
            batch: pictures, or texts, at once.
            workers: threads that open and resize pictures.
            device: that the tower is on.
        """
        if batch < 1 or workers < 1:
            raise ValueError(f"batch={batch} and workers={workers} must be 1 or more")
        self.tower, self.preprocess, self.batch, self.workers, self.device = tower, preprocess, batch, workers, device

    def pictures(self, sources: Sequence[Path | NDArray[np.uint8]], *, description: str) -> Tensor:
        """Embeddings (N, D) of picture files or of uint8 (H, W, 3).

        Raises:
            VideoReadError: a file is no picture, or damaged.
        """
        pixels = track(in_order(self.pixels, sources, self.workers), description=description, total=len(sources))
        return torch.cat([self.embed(torch.stack(part)) for part in _parts(pixels, self.batch)])

    def pixels(self, source: Path | NDArray[np.uint8]) -> Tensor:
        """One picture as the tower reads it, uint8 (3, S, S)."""
        if not isinstance(source, Path):
            return self.preprocess(source)
        with opened(source) as image:
            return self.preprocess(image)

    def embed(self, pixels: Tensor) -> Tensor:
        """Embeddings (N, D) of uint8 (N, 3, S, S)."""
        with self._plainly():
            return self.tower.images(pixels.to(self.device)).float().cpu()

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (N, D) of texts; each different text is read once."""
        different = list(dict.fromkeys(texts))
        with self._plainly():
            read = torch.cat([self.tower.texts(part).float().cpu() for part in _parts(different, self.batch)])
        place = {text: number for number, text in enumerate(different)}
        return read[[place[text] for text in texts]]

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """The model's own logits (N, M) of embeddings."""
        with self._plainly():
            return self.tower.logits(images.to(self.device), texts.to(self.device)).float().cpu()

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """Without gradients, and in the tower's own dtype also where a training run is in mixed precision."""
        mixed = isinstance(self.tower, nn.Module) and needs_autocast(self.tower)
        with torch.no_grad(), torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=mixed):
            yield


def directions(embeddings: Tensor) -> Tensor:
    """Embeddings (..., D) at length 1."""
    return functional.normalize(embeddings, dim=-1)


def in_order(work: Callable[[A], R], items: Iterable[A], workers: int) -> Iterator[R]:
    """`work` on each item in threads, a few ahead; yields results in the order of the items."""
    pending: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _parts(items: Iterable[A], size: int) -> Iterator[list[A]]:
    held: list[A] = []
    for item in items:
        held.append(item)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
