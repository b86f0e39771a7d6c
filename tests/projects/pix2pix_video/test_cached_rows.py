"""Training from the cache and training that encodes: one loss, and a warm cache leaves encoders and frames alone."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from common.data.cache import StaleCacheError
from common.encoders.text import ClipText
from common.latent.schedulers import training_scheduler
from common.latent.vae import LatentCodec
from common.optim import warmup_constant
from common.types import Pick
from projects.pix2pix_video.data import EditBatch, Edits
from projects.pix2pix_video.edit_latents import edit_latents
from projects.pix2pix_video.frames import EditFrames
from projects.pix2pix_video.model import build_unet
from projects.pix2pix_video.module import Pix2PixVideo
from tests.projects.pix2pix_video.parts import UNET
from tests.projects.pix2pix_video.small_set import CODEC, HISTORY, LATENT, SIZE, TEXT, make_set

GUIDANCE = {"text_scale": 7.5, "image_scale": 1.5, "rescale": 0.0}
PICKS = [Pick(row=row, position=position, normalizer=4.0) for position, row in enumerate((3, 0, 8, 1))]


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set and, beside it, its cache; batches of the cache are pictures of rows, as training has them."""
    folder = make_set(tmp_path_factory.mktemp("edits"))
    settings: dict[str, Any] = {"codec": CODEC, "text": TEXT, "size": SIZE, "history": HISTORY, "crop": "squash"}
    settings |= {"shard_size": 8, "pictures_at_once": 8, "prompts_at_once": 4, "num_workers": 0, "max_failed": 0.0}
    cache = str(folder.parent / "latents")
    edit_latents(folder=str(folder), media=None, cache=cache, checked=0, devices="cpu", **settings)
    return folder


def rows(edits: Path, *, cached: bool) -> Edits:
    latents = str(edits.parent / "latents") if cached else None
    return Edits(
        folder=str(edits),
        split="train",
        media=None,
        size=SIZE,
        crop="squash",
        history=HISTORY,
        latent=[*LATENT],
        latents=latents,
        text=f"{latents}/text" if cached else None,
        steps=1000,
        dropout=0.05,
        seed=0,
        pictures=False,
    )


def batch(edits: Path, *, cached: bool) -> EditBatch:
    return rows(edits, cached=cached).collate(PICKS)


def module() -> Pix2PixVideo:
    made = Pix2PixVideo(
        unet=partial(build_unet, weights="random", architecture=UNET | {"cross_attention_dim": 64}, history=HISTORY),
        vae=CODEC,
        text_encoder=TEXT,
        noise=partial(training_scheduler, weights="random", config={}),
        sampling={"scheduler": "DDIMScheduler", "steps": 2, "seed": 0, "guidance": GUIDANCE},
        train_text_encoder=False,
        optimizer=torch.optim.AdamW,
        lr=1e-3,
        text_encoder_lr=None,
        weight_decay=0.0,
        schedule=partial(warmup_constant, warmup=1),
    )
    made.configure_model()
    return made.eval()


def test_both_give_one_loss(edits: Path) -> None:
    trained = module()
    cached, fresh = batch(edits, cached=True), batch(edits, cached=False)
    assert cached.frames is None
    assert fresh.latents is None
    with torch.no_grad():
        losses = trained.errors(cached), trained.errors(fresh)
    # Not to the bit: the cache was encoded in other batches, whose sums differ in the last bits before rounding.
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)
    history, target = trained.latents(cached)
    seen, truth = trained.latents(fresh)
    for ours, theirs in ((history, seen), (target.mean, truth.mean), (target.logvar, truth.logvar)):
        torch.testing.assert_close(ours, theirs, rtol=2.0**-10, atol=1e-5)


def test_a_warm_cache_makes_no_call_of_an_encoder_and_reads_no_frame(
    edits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for owner, name in ((LatentCodec, "encode"), (ClipText, "forward"), (EditFrames, "pixels")):
        original = getattr(owner, name)

        def counted(*arguments: Any, _original: Any = original, _name: str = name) -> Any:
            calls.append(_name)
            return _original(*arguments)

        monkeypatch.setattr(owner, name, counted)
    trained = module()
    trained.training_step(batch(edits, cached=True), 0).backward()
    assert calls == []
    trained.training_step(batch(edits, cached=False), 0)
    assert calls == ["pixels"] * 4 + ["encode", "forward"]


def test_a_cache_of_other_encoders_or_rows_is_refused(edits: Path) -> None:
    data = rows(edits, cached=True)
    data.refuse_other_codec(CODEC())
    data.refuse_other_text(TEXT())
    with pytest.raises(StaleCacheError, match=r"'vae'.*task=edit_latents"):
        data.refuse_other_codec(CODEC(seed=1))
    with pytest.raises(StaleCacheError, match=r"'max_tokens'.*task=edit_latents"):
        data.refuse_other_text(TEXT(max_tokens=16))
    data.frames.rows[0] = replace(data.frames.rows[0], instruction="turn the ring back")
    del data.frames.fingerprint  # it was computed of the rows as they were
    with pytest.raises(StaleCacheError, match=r"'rows'.*task=edit_latents"):
        data.refuse_other_codec(CODEC())
