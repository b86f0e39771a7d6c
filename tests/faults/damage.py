"""What may have happened to a run folder while nothing was running."""

import os
from pathlib import Path


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("step_*.ckpt"))[-1]


def truncate(run: Path) -> None:
    os.truncate(newest(run), newest(run).stat().st_size // 2)


def empty(run: Path) -> None:
    os.truncate(newest(run), 0)


def flip_a_bit(run: Path) -> None:
    content = bytearray(newest(run).read_bytes())
    content[len(content) // 2] ^= 1
    newest(run).write_bytes(content)


def remove(run: Path) -> None:
    newest(run).unlink()


def remove_manifest(run: Path) -> None:
    newest(run).with_suffix(".json").unlink()


def empty_manifest(run: Path) -> None:
    os.truncate(newest(run).with_suffix(".json"), 0)


def empty_pointer(run: Path) -> None:
    os.truncate(run / "checkpoints" / "last", 0)


def leave_parts(run: Path) -> None:
    for name in (".step_0000099.ckpt.00000001.part", "..step_0000099.json.00000001.part.0123abcd.part"):
        (run / "checkpoints" / name).write_bytes(b"half")


def tear_metrics(run: Path) -> None:
    with open(run / "metrics.csv", "a") as file:
        file.write("5,train/lo")


def truncate_shards(data: Path) -> None:
    """Half of each shard of each cache below a data root."""
    for shard in data.rglob("shard_*.safetensors"):
        os.truncate(shard, shard.stat().st_size // 2)


def flip_bits_of_shards(data: Path) -> None:
    """One bit in each 500 bytes of the values of each shard."""
    for shard in data.rglob("shard_*.safetensors"):
        content = bytearray(shard.read_bytes())
        header = 8 + int.from_bytes(content[:8], "little")
        for place in range(header, len(content), 500):
            content[place] ^= 1
        shard.write_bytes(content)
