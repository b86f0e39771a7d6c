"""What a run talks to: the Hub's settings, a tracker, SLURM."""

import os
import shutil
import subprocess
from collections.abc import Mapping

from huggingface_hub import constants, get_token

from common.doctor.row import Row, Status

SECONDS = 10.0  # that a command of SLURM may take


def hub_row() -> Row:
    """Where files of the Hub would come from. A token is never shown, and nothing is asked of the network."""
    token = "a token" if get_token() else "no token"
    mode = "offline" if constants.HF_HUB_OFFLINE else "online"
    return Row(Status.PASS, "Hub", f"{constants.ENDPOINT}, {mode}, {token}; cache {constants.HF_HUB_CACHE}")


def tracker_rows(choices: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> list[Row]:
    """Rows about the tracker that was chosen, where it needs an account."""
    if choices.get("logger") != "wandb":
        return []
    if environment.get("WANDB_MODE") in ("offline", "disabled"):
        return [Row(Status.PASS, "W&B", f"WANDB_MODE={environment['WANDB_MODE']}")]
    if environment.get("WANDB_API_KEY") or "api.wandb.ai" in _netrc():
        return [Row(Status.PASS, "W&B", "logged in")]
    return [Row(Status.FAIL, "W&B", "not logged in", "wandb login, or WANDB_MODE=offline")]


def _netrc() -> str:
    path = os.path.expanduser("~/.netrc")
    if not os.path.isfile(path):
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def slurm_rows(partition: str | None) -> list[Row]:
    """Rows about the cluster: its controller answers, and knows the partition.

    Args:
        partition: that the run asks for; None for the default one.
    """
    missing = [name for name in ("sbatch", "sinfo", "scontrol") if shutil.which(name) is None]
    if missing:
        return [Row(Status.FAIL, "SLURM", f"{missing[0]} is not on the path", "run this on a login node")]
    answer = _ask("scontrol", "ping")
    if answer is None or "UP" not in answer:
        return [Row(Status.FAIL, "SLURM", "the controller does not answer", "scontrol ping")]
    rows = [Row(Status.PASS, "SLURM", "the controller answers")]
    known = [line.split()[0].rstrip("*") for line in (_ask("sinfo", "--noheader") or "").splitlines() if line.split()]
    if partition is not None and (unknown := [each for each in partition.split(",") if each not in known]):
        found = f"no partition {unknown[0]}; there is {', '.join(dict.fromkeys(known)) or 'none'}"
        rows.append(Row(Status.FAIL, "SLURM", found, "slurm.partition=<one of them>, in conf/local/default.yaml"))
    return rows


def _ask(*command: str) -> str | None:
    """What a command says; None where it fails or does not answer in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None
