"""python -m launchers.export ckpt=last: the trained tensors of a run as a folder of safetensors, config and card."""

import json
import logging
from pathlib import Path

from omegaconf import DictConfig

from common.checkpoint import CheckpointError, load_file, read_manifest
from common.config import check
from common.export import export_trained
from launchers.command import run
from launchers.trained import checkpoint_of

log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> None:
    """Writes the export below the run folder and says where."""
    check(cfg)
    checkpoint = checkpoint_of(cfg, cfg.ckpt)
    if checkpoint is None:
        raise CheckpointError("export needs ckpt=: last, best, a run folder or a file")
    source = checkpoint.parents[1]
    manifest, start = read_manifest(checkpoint), json.loads((source / "run.json").read_text())[-1]
    lines = [f"# {cfg.name}", "", f"Step {manifest.step}, {manifest.samples} samples, revision {start['revision']}."]
    lines += ["", *(f"- {name}: {value:.4f}" for name, value in sorted(manifest.metrics.items()))]
    folder = Path(cfg.paths.run) / "export"
    config = (source / "config.yaml").read_text()
    export_trained(load_file(checkpoint)["state_dict"], folder, config=config, card="\n".join(lines) + "\n")
    log.info("wrote %s", folder)


if __name__ == "__main__":
    run(main, config_name="config")
