"""Short trainings: what moves, what stays, what validation sees; and the commands on a run of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from common.checkpoint import committed
from common.ema import Ema
from common.encoders.text import ClipText
from common.latent.vae import LatentCodec
from common.loggers import read_metrics
from common.video.decode import probe, read
from common.video.write import write_h264
from launchers import evaluate, export, generate, train
from launchers.command import compose, prepare
from projects.pix2pix_video.frames import EditFrames
from projects.pix2pix_video.module import Pix2PixVideo
from tests.projects.pix2pix_video.small_run import Small, fit, make_data, make_module, make_small
from tests.projects.pix2pix_video.small_set import HISTORY, ROWS, SIZE


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"))


def learner(**changes: Any) -> tuple[Pix2PixVideo, dict[str, Tensor]]:
    """A configured module and a copy of its parameters."""
    module = make_module(**changes)
    module.configure_model()
    return module, {name: value.detach().clone() for name, value in module.named_parameters()}


LEARNS_TEXT = {"train_text_encoder": True, "text_encoder_lr": 1e-3}


# What moves


def stuck(module: Pix2PixVideo, before: dict[str, Tensor]) -> list[str]:
    return [name for name, value in module.named_parameters() if torch.equal(value, before[name])]


def groups_of(trainer: Trainer, module: Pix2PixVideo) -> dict[str, set[str]]:
    """Names of the parameters by name of the group."""
    names = {id(value): name for name, value in module.named_parameters()}
    return {each["name"]: {names[id(p)] for p in each["params"]} for each in trainer.optimizers[0].param_groups}


def test_everything_that_trains_moves(small: Small) -> None:
    module, before = learner()
    trainer = fit(module, make_data(small))
    assert stuck(module, before) == []
    groups = groups_of(trainer, module)
    assert set(groups) == {"unet", "unet/no_decay"}
    assert set().union(*groups.values()) == set(before)
    assert all(name.startswith("model.unet.") for name in before)


def test_the_text_encoder_trains_where_it_is_told_to(small: Small) -> None:
    module, before = learner(**LEARNS_TEXT)
    trainer = fit(module, make_data(small, text=None, dropout=0.2))
    # The bias of the keys shifts all scores of a query alike: softmax does not see it.
    assert [name for name in stuck(module, before) if not name.endswith("k_proj.bias")] == []
    groups = groups_of(trainer, module)
    assert sum(len(group) for group in groups.values()) == len(before)  # each in exactly one
    encoder = {name for name in before if name.startswith("text_encoder.")}
    assert groups["text_encoder"] | groups["text_encoder/no_decay"] == encoder
    assert len(encoder) > 10
    assert "text_encoder" not in module._frozen  # there is not a second one


@pytest.mark.parametrize("cached", ["latents", None])
def test_where_the_text_encoder_trains_its_states_may_not_be_cached(
    small: Small, cached: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, before = learner(**LEARNS_TEXT)
    steps: list[str] = []
    monkeypatch.setattr(Pix2PixVideo, "training_step", lambda *_: steps.append("step"))
    with pytest.raises(ValueError, match=r"train_text_encoder=true learns what the table holds; set data\.\*\.text=nu"):
        fit(module, make_data(small, **({} if cached else {"latents": None})))
    assert steps == []  # before the first
    assert set(stuck(module, before)) == set(before)


def test_what_is_frozen_stays_bit_equal_also_with_weight_decay(small: Small) -> None:
    module, before = learner(weight_decay=0.5)
    trainer = fit(module, make_data(small, cached=False, dropout=0.2))
    fresh = make_module()
    for name, kind in (("vae", LatentCodec), ("text_encoder", ClipText)):
        part, untouched = module._frozen[name], fresh.recipes[name]()
        assert isinstance(part, kind)
        assert not part.training
        assert not any(value.requires_grad or value.grad is not None for value in part.parameters())
        wanted = untouched.state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in part.state_dict().items())
    held = {id(value) for group in trainer.optimizers[0].param_groups for value in group["params"]}
    assert held == {id(value) for value in module.parameters()}
    assert stuck(module, before) == []
    assert not any("vae" in name or "text_encoder" in name for name in module.state_dict())


# Validation


class Watch(Callback):
    """Notes the weights at the start and the end of each step and in validation, and what validation found."""

    def __init__(self) -> None:
        self.before: list[Tensor] = []
        self.during: list[Tensor] = []
        self.after: list[Tensor] = []
        self.metrics: list[dict[str, float]] = []

    @staticmethod
    def _weight(module: LightningModule) -> Tensor:
        return module.get_parameter("model.unet.conv_out.weight").detach().clone()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.before.append(self._weight(pl_module))

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.during.append(self._weight(pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.after.append(self._weight(pl_module))


def test_validation_sees_the_average_and_gives_the_weights_back(small: Small) -> None:
    alone, _ = learner()
    fit(alone, make_data(small, steps=4, micro=4), callbacks=[Ema(decay=0.9)])
    module, _ = learner()
    ema, watch = Ema(decay=0.9), Watch()
    fit(module, make_data(small, steps=4, micro=4), callbacks=[ema, watch], validate_every=2)
    assert len(watch.metrics) == len(watch.during) == 2
    for name, value in alone.named_parameters():
        assert torch.equal(module.get_parameter(name), value)  # training goes on as if nothing had been validated
    assert torch.equal(watch.after[2], watch.before[1])  # the start of the step after the first validation
    assert not torch.equal(watch.during[0], watch.before[1])
    assert torch.equal(watch.during[1], ema.state_dict()["shadow"]["model.unet.conv_out.weight"])


def test_validation_has_fixed_draws_and_scores_the_first_rows(small: Small) -> None:
    module, _ = learner(lr=0.0, sampled=3)
    watch = Watch()
    data = make_data(small, steps=4)
    fit(module, data, callbacks=[watch], validate_every=2)
    first, second = watch.metrics
    assert first == second  # nothing was learned, so nothing changes: the draws are the same
    assert {"val/loss", "val/psnr", "val/ssim", "val/psnr_gain"} < set(first)
    assert {"val/psnr_copy_last", "val/psnr_vae_round_trip", "val/psnr/recolour"} < set(first)
    cases = {name: columns["psnr"].cases for name, columns in module.report().items()}
    assert cases == {"val": 3, "copy_last": 3, "vae_round_trip": 3}
    rows = data.rows("val")
    batch = rows.collate([pick for batch in data._evaluation("val").batch_sampler for pick in batch])
    with torch.no_grad():
        assert first["val/loss"] == pytest.approx(float(module.errors(batch).mean()), rel=1e-5)
    assert len(batch.rows) == ROWS["val"]  # all give a loss


def test_a_test_scores_every_row_beside_both_references(small: Small, tmp_path: Path) -> None:
    module, _ = learner(pictures=str(tmp_path / "pictures"))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.test(module, datamodule=make_data(small), verbose=False)
    report = module.report()
    assert set(report) == {"real", "copy_last", "vae_round_trip"}
    assert report["real"]["psnr"].cases == ROWS["test"]
    assert len(list((tmp_path / "pictures" / "real").glob("*.png"))) == ROWS["test"]
    frames = EditFrames(
        folder=str(small.edits), split="test", media=str(small.edits.parent / "media"), size=SIZE, history=HISTORY
    )
    wanted = 0.0
    for row in range(ROWS["test"]):
        *_, last, truth = frames.pixels(row).double()
        error = max(float((last - truth).square().mean()), 1 / 12)  # that of rounding, where both are the same
        wanted += float(10 * np.log10(255**2 / error)) / ROWS["test"]
    assert report["copy_last"]["psnr"].value == pytest.approx(wanted, rel=1e-4)


# The commands


COMMAND = (
    "experiment=pix2pix_video_tiny",
    "prepare=[]",
    "steps=4",
    "validate_every=2",
    "batch.global=4",
    "batch.micro=2",
    "batch.eval=4",
    f"model.unet.history={HISTORY}",
    "model.unet.architecture.block_out_channels=[16, 32]",
    "model.follow=false",
    "model.sampling.steps=2",
    "data.val.novel=null",
    "callbacks.ema.decay=0.5",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the small set, at the size of the tiny experiment, and its cache."""
    root = tmp_path_factory.mktemp("data")
    (root / "shapes_edits").mkdir()
    small = make_small(root / "shapes_edits")
    small.cache.rename(small.cache.with_name("unused"))
    cfg = compose("experiment=pix2pix_video_tiny", "paths.run=.", f"paths.data='{root}'")
    settings = [f"task.history={HISTORY}", "task.num_workers=0", "task.devices=cpu"]
    prepare([["task=edit_latents_tiny", *settings]], paths=cfg.paths)
    return root


def config(data: Path, folder: Path, *overrides: str) -> Any:
    return compose(*COMMAND, f"paths.data='{data}'", f"paths.run='{folder}'", *overrides)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    objective = train.main(config(data, folder, "callbacks.metrics_log.every=1"))
    assert objective is not None
    return folder


def checkpoint(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(committed(run / "checkpoints")[-1], weights_only=True)
    return content


def test_training_writes_pictures_and_scores(run: Path) -> None:
    assert [path.name for path in sorted((run / "samples").glob("*.png"))] == ["step_0000002.png", "step_0000004.png"]
    metrics = read_metrics(run / "metrics.csv")
    for name in ("val/psnr", "val/ssim", "val/loss", "val/psnr_copy_last", "val/psnr_vae_round_trip"):
        assert sorted(metrics[name]) == [2, 4]
    assert sorted(metrics["train/loss"]) == [1, 2, 3, 4]


def answers(data: Path, run: Path, folder: Path, *overrides: str) -> list[dict[str, str]]:
    generate.main(config(data, folder, f"ckpt='{run}'", *overrides))
    return [json.loads(line) for line in (folder / "generated.jsonl").read_text().splitlines()]


def picture(number: int) -> Any:
    """A smooth frame of 40 x 48 pixels."""
    y, x = np.mgrid[:40, :48]
    return np.stack([x * 5, y * 6, np.full_like(x, 40 * number)], axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of frames, the same as a video, and a file of requests, one of them broken."""
    root = tmp_path_factory.mktemp("asked")
    (root / "frames").mkdir()
    for number in range(5):
        Image.fromarray(picture(number)).save(root / "frames" / f"{number}.png")
    write_h264(root / "clip.mp4", np.stack([picture(number) for number in range(5)]))
    (root / "broken.mp4").write_bytes(b"no video at all" * 50)
    rows = [
        {"video": "frames", "prompt": "make the ring red", "id": "first"},
        {"video": "broken.mp4", "prompt": "turn the ring back", "id": "second"},
        {"video": "clip.mp4", "prompt": "turn the ring back", "id": "third"},
    ]
    (root / "asked.json").write_text(json.dumps(rows))
    return root


@pytest.mark.parametrize("source", ["frames", "clip.mp4"])
def test_generate_rolls_out_from_frames_and_from_a_video(
    data: Path, run: Path, asked: Path, source: str, tmp_path: Path
) -> None:
    request = [f"request.video='{asked / source}'", "request.prompt=make the ring red"]
    (line,) = answers(data, run, tmp_path / "three", *request, "data.predict.frames=3")
    assert set(line) == {"id", "prompt", "frame", "video"}
    assert line["prompt"] == "make the ring red"
    info = probe(line["video"])
    assert (info.num_frames, info.height, info.width) == (HISTORY + 3, 32, 32)
    assert info.fps == pytest.approx(8)
    frame = np.asarray(Image.open(line["frame"]))
    assert frame.shape == (32, 32, 3)
    shown = read(line["video"], range(HISTORY + 3)).frames.astype(int)
    assert np.abs(shown[HISTORY] - frame).mean() < 12  # the first of them is the next frame, after coding
    (one,) = answers(data, run, tmp_path / "one", *request)
    assert np.array_equal(np.asarray(Image.open(one["frame"])), frame)  # whatever comes after it
    assert probe(one["video"]).num_frames == HISTORY + 1
    (raw,) = answers(data, run, tmp_path / "raw", *request, "weights=raw")
    assert not np.array_equal(np.asarray(Image.open(raw["frame"])), frame)


def test_generate_goes_on_after_a_broken_video(data: Path, run: Path, asked: Path, tmp_path: Path) -> None:
    lines = answers(data, run, tmp_path / "out", f"request.file='{asked / 'asked.json'}'", "batch.eval=2")
    by_id = {line["id"]: line for line in lines}
    assert set(by_id) == {"first", "second", "third"}
    assert set(by_id["second"]) == {"id", "prompt", "error"}
    assert "broken.mp4" in by_id["second"]["error"]
    pictures = [np.asarray(Image.open(by_id[name]["frame"])) for name in ("first", "third")]
    assert [each.shape for each in pictures] == [(32, 32, 3)] * 2
    assert not np.array_equal(*pictures)


def test_generate_answers_rows_of_the_set(data: Path, run: Path, tmp_path: Path) -> None:
    lines = answers(data, run, tmp_path / "out", "request.count=2")
    assert [line["id"] for line in lines] == ["test/0", "test/1"]
    assert all(Path(line["frame"]).is_file() for line in lines)


def test_evaluate_has_both_references_and_the_untrained_model(data: Path, run: Path, tmp_path: Path) -> None:
    novel = ["~data.test.novel", "data.test.real.novel=null"]
    evaluate.main(config(data, tmp_path / "out", f"ckpt='{run}'", *novel, "model.sampling.guidance.text_scale=1.0"))
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
    assert set(rows) == {"real", "copy_last", "vae_round_trip", "before_training"}
    assert rows["real"]["psnr"]["value"] != rows["before_training"]["psnr"]["value"]
    assert rows["real"]["psnr"]["cases"] == ROWS["test"]


def test_exports_hold_the_average_or_the_weights_as_asked(data: Path, run: Path, tmp_path: Path) -> None:
    content = checkpoint(run)
    averaged, raw = content["callbacks"]["Ema"]["shadow"], content["state_dict"]
    name = "model.unet.conv_in.weight"
    assert not torch.equal(averaged[name], raw[name])
    for which, wanted in (("auto", averaged), ("raw", raw)):
        folder = tmp_path / which
        export.main(config(data, folder, f"ckpt='{run}'", "export.layout=diffusers", f"weights={which}"))
        unet: Any = UNet2DConditionModel.from_pretrained(folder / "export" / "unet")
        assert unet.config.in_channels == 4 * (1 + HISTORY)
        state = unet.state_dict()
        assert {f"model.unet.{key}" for key in state} == set(wanted)
        assert all(torch.equal(state[key.removeprefix("model.unet.")], value) for key, value in wanted.items())
    export.main(config(data, tmp_path / "plain", f"ckpt='{run}'"))
    assert torch.equal(load_file(tmp_path / "plain" / "export" / "trained.safetensors")[name], averaged[name])


def test_the_seed_of_generate_is_of_the_request(data: Path, run: Path, asked: Path, tmp_path: Path) -> None:
    request = [f"request.file='{asked / 'asked.json'}'"]
    first, again = (answers(data, run, tmp_path / name, *request) for name in ("a", "b"))
    frames = [[np.asarray(Image.open(line["frame"])) for line in lines if "frame" in line] for lines in (first, again)]
    assert all(np.array_equal(one, other) for one, other in zip(*frames, strict=True))
    assert [line["id"] for line in first] == [line["id"] for line in again]
