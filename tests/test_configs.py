"""Every configuration that ships composes, resolves and binds; ownership of keys and file headers hold."""

from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from common.config import CONF, ConfigError, bind, check, plain
from launchers import command
from launchers.machine import claimed

HARDWARE = sorted(path.stem for path in (CONF / "hardware").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
TASKS = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))
OWNED = {"hw", "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.precision", "trainer.strategy"}
OWNED |= {"data.num_workers", "data.pin_memory"}


def compose(*overrides: str, root: str = "config") -> DictConfig:
    return command.compose("paths.run=run", *overrides, config_name=root)


def memory_class(hardware: str) -> str:
    return yaml.safe_load((CONF / "hardware" / f"{hardware}.yaml").read_text())["hw"]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_claimed_cell_composes_and_binds(experiment: str) -> None:
    cells = claimed(compose(f"experiment={experiment}", "hardware=cpu"))
    machines = [hardware for hardware in HARDWARE if memory_class(hardware) in cells]
    for hardware in machines:
        cfg = compose(f"experiment={experiment}", f"hardware={hardware}")
        check(cfg)
        assert bind(plain(cfg)) > 10
    assert len(machines) >= 2, machines


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_claims_a_cpu_and_a_gpu(experiment: str) -> None:
    cells = claimed(compose(f"experiment={experiment}"))
    assert "cpu" in cells
    assert any(name.startswith("gpu") for name in cells)
    assert {*cells} <= {memory_class(hardware) for hardware in HARDWARE}


@pytest.mark.parametrize("logger", sorted(path.stem for path in (CONF / "logger").glob("*.yaml")))
def test_every_logger_binds(logger: str) -> None:
    check(compose(f"logger={logger}"))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_binds(task: str) -> None:
    check(compose(f"task={task}", root="prepare"))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_says_how_it_is_run(task: str) -> None:
    assert f"python -m launchers.prepare task={task}" in (CONF / "task" / f"{task}.yaml").read_text()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_are_short_and_say_what_they_claim(experiment: str) -> None:
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert len(lines) <= 30
    assert lines[0] == "# @package _global_"
    header = "\n".join(lines[1:8])
    for word in ("command:", "cost:", "expected:", "obtained:"):
        assert word in header


@pytest.mark.parametrize("group", ["experiment", "hardware", "cluster", "sweep"])
def test_global_files_say_so_on_their_first_line(group: str) -> None:
    for path in (CONF / group).glob("*.yaml"):
        assert path.read_text().splitlines()[0] == "# @package _global_", path


def keys(path: Path) -> set[str]:
    def walk(node: object, prefix: str) -> set[str]:
        if not isinstance(node, dict) or not node:
            return {prefix}
        return {key for name, value in node.items() for key in walk(value, f"{prefix}.{name}" if prefix else name)}

    found = walk(yaml.safe_load(path.read_text()), "") - {"defaults"}
    return {"trainer.strategy" if key.startswith("trainer.strategy.") else key for key in found}  # a name or a node


def test_experiments_leave_alone_what_hardware_owns() -> None:
    for experiment in EXPERIMENTS:
        assert not keys(CONF / "experiment" / f"{experiment}.yaml") & OWNED


def test_hardware_sets_what_it_owns_and_nothing_else() -> None:
    for hardware in HARDWARE:
        set_here = keys(CONF / "hardware" / f"{hardware}.yaml")
        assert {key for key in set_here if not key.startswith("environment.")} == OWNED


def test_a_missing_cell_fails_by_name() -> None:
    cfg = compose("experiment=video_chatgpt", "hw=gpu16")
    with pytest.raises(Exception, match=r"batch\.micro_on\.gpu16"):
        OmegaConf.to_container(cfg, resolve=True)


def test_a_misspelt_argument_is_refused_with_the_near_one() -> None:
    cfg = compose("+model.language_model.checkpont_fraction=0.5")
    with pytest.raises(ConfigError, match="did you mean checkpoint_fraction"):
        check(cfg)


def test_no_interpolation_reaches_for_hydra_but_the_run_folder() -> None:
    uses = [path for path in CONF.rglob("*.yaml") if "${hydra:runtime" in path.read_text()]
    assert [path.name for path in uses] == ["default.yaml"]
