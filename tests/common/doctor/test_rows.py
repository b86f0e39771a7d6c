"""What is looked at, row by row, on made-up folders and machines."""

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from common.config import CONF
from common.doctor.devices import Gpu, gpu_rows
from common.doctor.files import Place, damage, file_rows
from common.doctor.packages import extras_of, package_rows
from common.doctor.room import available, loader_rows
from common.doctor.row import Row, Status, as_table, worst
from common.doctor.services import slurm_rows, tracker_rows
from common.doctor.sources import heading, makers, terms_of

PAGE = """# Licences
## Weights

| weights | licence | note |
|---|---|---|
| owner/model-7b, -0.5b | research only | |
## Data

| data | licence | note |
|---|---|---|
| Clips-100K (two parts) | CC BY 4.0 | |
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    conf = tmp_path / "conf"
    for group in ("task", "data"):
        (conf / group).mkdir(parents=True)
    (conf / "task" / "features.yaml").write_text(
        "_target_: x\nfolder: ${paths.data}/clips/videos\ncache: ${paths.data}/clips/features\n"
    )
    (conf / "task" / "widen.yaml").write_text("# of owner/model-7b\ntarget: ${paths.data}/weights/net-${.n}\nn: 20\n")
    (conf / "data" / "clips.yaml").write_text("# Clips-100K, from its\n# own page.\ntrain: 1\n")
    return Place(f"{tmp_path}/data", f"{tmp_path}/outputs", conf, PAGE, "clips", {})


def tree_of(place: Place, **model: Any) -> dict[str, Any]:
    parts = {name: {"table": f"{place.data}/clips/{name}.json"} for name in ("val", "test", "predict")}
    train = {"table": f"{place.data}/clips/train.json", "cache": f"{place.data}/clips/features"}
    return {"model": model, "data": {"train": train, **parts}}


def test_what_is_missing_comes_with_its_source_and_licence(place: Place) -> None:
    tree = tree_of(
        place,
        a={"weights": "owner/model-0.5b"},
        b={"weights": f"{place.data}/weights/net-20"},
        stage1=f"{place.outputs}/first/x",
    )
    rows = {row.what.rpartition("/")[2]: row for row in file_rows(tree, place)}
    assert rows["model-0.5b"][0] is Status.FAIL
    assert rows["model-0.5b"].remedy == "hf download owner/model-0.5b (licence: owner/model-7b, -0.5b: research only)"
    assert rows["net-20"].remedy.startswith("python -m launchers.prepare task=widen (licence: owner/model-7b")
    assert rows["x"].remedy == "python -m launchers.train experiment=first"
    assert rows["features"].remedy.startswith("python -m launchers.prepare task=features (licence: Clips-100K")
    assert "Clips-100K, from its own page. (licence: Clips-100K (two parts): CC BY 4.0)" in rows["train.json"].remedy
    assert [rows[f"{name}.json"].status for name in ("train", "val", "test")] == [Status.FAIL, Status.FAIL, Status.WARN]


def test_what_the_run_prepares_itself_is_no_fault(place: Place) -> None:
    tree = tree_of(place, stage1=f"{place.outputs}/first/x")
    prepared = {f"{place.data}/clips": "task=clips", f"{place.data}/clips/features": "task=features"}
    rows = {row.what.rpartition("/")[2]: row for row in file_rows(tree, replace(place, prepared=prepared))}
    assert rows["features"].found == "will be made by the run: task=features"
    assert rows["features"].status is rows["train.json"].status is Status.PASS
    assert rows["train.json"].found == "will be made by the run: task=clips"
    assert rows["x"].status is Status.FAIL  # no task makes another run
    rows = {row.what.rpartition("/")[2]: row for row in file_rows(tree, replace(place, prepared={"other": "task=x"}))}
    assert rows["train.json"].status is Status.FAIL


def test_half_of_a_download_is_found(place: Place) -> None:
    folder = Path(place.data) / "net"
    folder.mkdir(parents=True)
    tree = tree_of(place, a={"weights": str(folder)})
    (folder / "config.json").write_text("{}")
    assert file_rows(tree, place)[0].found == f"no weights are in {folder}"
    assert file_rows(tree_of(place, a={"tokenizer": str(folder)}), place)[0].status is Status.PASS
    save_file({"a": torch.zeros(100)}, folder / "model-1.safetensors")
    assert file_rows(tree, place)[0].status is Status.PASS
    content = (folder / "model-1.safetensors").read_bytes()
    for broken, said in ((content[:200], "damaged"), (content[:4], "damaged"), (b"", "empty"), (bytes(500), "damaged")):
        (folder / "model-1.safetensors").write_bytes(broken)
        assert said in str(damage(folder / "model-1.safetensors"))
        assert file_rows(tree, place)[0].status is Status.FAIL
    (folder / "model-1.safetensors").write_bytes(content)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert file_rows(tree, place)[0].found == "model-2.safetensors is missing"
    (folder / "model.safetensors.index.json").write_text("{")
    assert file_rows(tree, place)[0].found == "model.safetensors.index.json is damaged"


def test_sources(place: Place) -> None:
    assert makers("clips/features/more", place.conf / "task") == ["features"]
    assert makers("clips/videos", place.conf / "task") == []
    assert makers("edits/set", CONF / "task") == ["edit_frames"]
    assert makers("shapes/clip_features", CONF / "task") == ["clip_features_tiny"]
    assert heading(place.conf / "data" / "clips.yaml") == "Clips-100K, from its own page."
    assert terms_of("nothing of the kind", PAGE) == []


def test_packages_that_are_missing_or_old(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["torch>=2", "numpy<1", "rich>=1"]\n[project.optional-dependencies]\n'
        'big = ["no-such-package>=1"]\n'
    )
    (tmp_path / "constraints.txt").write_text("rich==0.0.1\n")
    rows = {row.what: row for row in package_rows(tmp_path, extras=["big"])}
    assert rows["packages"].found == "1 of 4 as tested"
    assert (rows["numpy"].status, rows["rich"].status) == (Status.FAIL, Status.WARN)
    assert rows["no-such-package"].remedy.endswith("-e '.[big]'")


def test_optional_packages_of_a_run() -> None:
    tree = {"model": {"a": {"quantize": True}, "b": {"quantize": False}}, "trainer": {"strategy": "deepspeed_zero"}}
    assert extras_of(tree, choices={"logger": "wandb", "hydra/sweeper": "optuna"}) == [
        "4bit",
        "deepspeed",
        "optuna",
        "wandb",
    ]


def test_gpus_against_what_is_wanted() -> None:
    trainer = {"accelerator": "gpu", "devices": 2, "precision": "bf16-mixed"}
    card, old = Gpu("A", 24e9, 8.9), Gpu("V", 16e9, 7.0)
    assert worst(gpu_rows(trainer, [card, card], elsewhere=False)) is Status.PASS
    assert gpu_rows(trainer, [card], elsewhere=False)[0].remedy == "trainer.devices=1"
    assert gpu_rows(trainer, [], elsewhere=False)[0].status is Status.FAIL
    assert gpu_rows(trainer, [], elsewhere=True)[0].status is Status.WARN
    assert gpu_rows(trainer, [old, old], elsewhere=False)[1].what == "bfloat16"
    assert gpu_rows({"accelerator": "cpu"}, [], elsewhere=False)[0].status is Status.PASS


def test_loaders_against_cores_and_shared_memory(tmp_path: Path) -> None:
    tree = {"data": {"num_workers": 10_000}, "trainer": {"devices": 2}}
    rows = loader_rows(tree, batch_bytes=10**12, shared=tmp_path)
    assert [row.status for row in rows] == [Status.WARN, Status.WARN]
    assert loader_rows({"data": {"num_workers": 0}, "trainer": {"devices": 1}}, batch_bytes=1) == []


def test_memory_that_caches_files_is_free(tmp_path: Path) -> None:
    facts = tmp_path / "meminfo"
    assert available(facts) is None
    facts.write_text("MemTotal:  64 kB\nMemFree:  1 kB\nMemAvailable:  32 kB\n")
    assert available(facts) == 32 * 1024


def test_slurm_and_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm_rows(None)[0].found == "sbatch is not on the path"
    for name, said in (("sbatch", ""), ("scontrol", "Slurmctld(primary) at x is UP"), ("sinfo", "gpu* up\ncpu up")):
        (tmp_path / name).write_text(f"#!/bin/sh\nprintf '{said}'\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    assert worst(slurm_rows("cpu,gpu")) is Status.PASS
    assert slurm_rows("big")[1].found == "no partition big; there is gpu, cpu"
    (tmp_path / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    assert slurm_rows(None)[0].found == "the controller does not answer"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tracker_rows({"logger": "csv"}) == []
    assert tracker_rows({"logger": "wandb"}, {})[0].status is Status.FAIL
    assert tracker_rows({"logger": "wandb"}, {"WANDB_MODE": "offline"})[0].status is Status.PASS


def test_a_table_shows_texts_as_they_are() -> None:
    table = as_table([Row(Status.WARN, "[a]", "b")], title="t")
    assert list(table.columns[1].cells) == [r"\[a]"]
    assert worst([]) is Status.PASS
