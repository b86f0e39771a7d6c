"""python -m launchers.export ckpt=last [export.layout=<name>] [export.push=<user/name>]: a trained model elsewhere."""

import logging
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from common import hub
from common.checkpoint import CheckpointError
from common.config import ConfigError, check, plain, refuse_secrets, resolve_target
from common.export import Request, choose, export, layouts_of, read_run
from launchers.command import run
from launchers.trained import checkpoint_of

log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> None:
    """Writes the export, says where, and sends it to the Hub if that is asked for."""
    check(cfg)
    wanted = plain(cfg)["export"]
    checkpoint = checkpoint_of(cfg, cfg.ckpt)
    if checkpoint is None:
        raise CheckpointError("export needs ckpt=: last, best, a run folder or a file")
    check_push(wanted)
    trained = read_run(checkpoint, weights=cfg.weights)
    refuse_secrets(trained.config)
    layouts = layouts_of(resolve_target(trained.config["model"]["_target_"], "model"))
    layout = choose(wanted["layout"], layouts)
    folder = Path(wanted["target"])
    request = Request(**{name: wanted[name] for name in ("base", "max_shard_bytes", "dtype", "license")})
    figures = export(trained, folder, name=wanted["layout"], layout=layout, request=request)
    log.info("wrote %s: %s", folder, figures)
    if wanted["push"] is None:
        return
    if wanted["dry_run"]:
        show(folder, wanted)
        return
    message = f"{cfg.name} at step {trained.manifest.step}, layout {wanted['layout']}"
    log.info("sent to %s", hub.push(folder, repo=wanted["push"], private=wanted["private"], message=message))


def check_push(wanted: dict[str, object]) -> None:
    """What can be known to be wrong about sending before anything is written."""
    if wanted["push"] is None:
        if wanted["dry_run"]:
            raise ConfigError("export.dry_run shows what would be sent; say where to: export.push=<user>/<name>")
        return
    hub.check_repository(str(wanted["push"]))
    if not wanted["dry_run"]:
        hub.check_token()


def show(folder: Path, wanted: dict[str, object]) -> None:
    """What would be sent, and that nothing was."""
    files = hub.files_to_push(folder)
    table = Table("file", "bytes", title=f"would go to {wanted['push']}")
    for name, size in files:
        table.add_row(name, f"{size:,}")
    table.add_row(f"{len(files)} files", f"{sum(size for _, size in files):,}")
    kind = "private" if wanted["private"] else "public"
    console = Console()
    console.print(table)
    console.print(
        f"The repository {wanted['push']} would be made, {kind}, if it is not there; files of these names would be "
        "replaced, others stay. Nothing was sent.",
        highlight=False,
    )


if __name__ == "__main__":
    run(main, config_name="config")
