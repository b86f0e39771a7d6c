"""Compares a folder of generated pictures or clips with a folder of real ones: FID, KID, IS; FVD."""

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.files import atomic_write_text
from common.metrics.features import IS_LEAST, I3d, Inception, Network, frechet, inception_score, kernel
from common.progress import track
from common.video.benchmark import SUFFIXES as VIDEOS
from common.video.decode import read
from common.video.images import SUFFIXES as IMAGES

log = logging.getLogger(__name__)
ENOUGH = 5000  # samples; the Frechet distance of fewer is clearly too high, and the more so the fewer there are


def compare(
    *,
    real: str,
    generated: str,
    inception: str | None,
    inception_sha256: str | None,
    i3d: str | None,
    i3d_sha256: str | None,
    frames: int | None,
    batch: int,
    device: str,
    seed: int,
    out: str,
) -> dict[str, Any]:
    """Measures, and writes what was found with the counts and the networks it rests on.

    Args:
        real: folder of pictures, at any depth, or of clips: video files, or folders of frames.
        generated: likewise.
        inception: TorchScript file of the Inception network; None for no FID, KID and IS.
        inception_sha256: what its digest must be; None takes any.
        i3d: TorchScript file of the I3D network; None for no FVD.
        i3d_sha256: what its digest must be; None takes any.
        frames: first frames of each clip that are used, at least 10; None for all, which must then be equally many.
        batch: pictures or clips at once.
        device: "auto", "cpu" or a CUDA device.
        seed: of the subsets of KID and the splits of IS.
        out: JSON file to write.

    Returns:
        The figures and the notes on them.

    Raises:
        ValueError: neither network is given, one is not what it should be, or a folder holds nothing to compare.
        VideoReadError: a picture or clip cannot be read.
    """
    if inception is None and i3d is None:
        raise ValueError("task.inception=FILE measures FID, KID and IS of pictures, task.i3d=FILE FVD of clips")
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    folders = {"real": Path(real), "generated": Path(generated)}
    result: dict[str, Any] = {"notes": []}
    if inception is not None:
        network = Inception(inception, sha256=inception_sha256, device=where)
        result["pictures"] = _pictures(folders, network, batch=batch, device=where, seed=seed, notes=result["notes"])
    if i3d is not None:
        clips = I3d(i3d, sha256=i3d_sha256, device=where)
        result["clips"] = _clips(folders, clips, frames=frames, batch=batch, device=where, notes=result["notes"])
    record = {"real": str(folders["real"]), "generated": str(folders["generated"]), "seed": seed, **result}
    atomic_write_text(Path(out), json.dumps(record, indent=2) + "\n")
    for note in result["notes"]:
        log.warning("%s", note)
    return result


def _pictures(
    folders: dict[str, Path], network: Inception, *, batch: int, device: str, seed: int, notes: list[str]
) -> dict[str, Any]:
    """FID and KID of two folders, and the Inception Score of what was generated."""
    files = {name: _files(folder) for name, folder in folders.items()}
    features, classes = {}, []
    for name, paths in files.items():
        rows = []
        shown = (_first_frame(path) for path in track(paths, description=f"{name} pictures", total=len(paths)))
        for pixels in _batches(shown, batch):
            rows.append(network.features(pixels.to(device)).cpu())
            if name == "generated":
                classes.append(network.log_probabilities(pixels.to(device)).cpu())
        features[name] = torch.cat(rows)
    counts = {name: len(paths) for name, paths in files.items()}
    notes += _few("fid", counts, instead="; kid is not biased")
    found: dict[str, Any] = {
        "fid": frechet(features["real"], features["generated"]),
        "kid": kernel(features["real"], features["generated"], seed=seed)._asdict(),
    }
    if counts["generated"] < IS_LEAST:
        notes.append(f"no inception_score: {counts['generated']} generated pictures, it needs at least {IS_LEAST}")
    else:
        found["inception_score"] = inception_score(torch.cat(classes), seed=seed)._asdict()
    return _described(network, counts) | found


def _clips(
    folders: dict[str, Path], network: I3d, *, frames: int | None, batch: int, device: str, notes: list[str]
) -> dict[str, Any]:
    """FVD of two folders."""
    features, lengths = {}, set()
    for name, folder in folders.items():
        paths = _clip_paths(folder)
        found = []
        shown = (_clip(path, frames) for path in track(paths, description=f"{name} clips", total=len(paths)))
        for pixels in _batches(shown, batch):
            lengths.add(pixels.shape[1])
            found.append(network.features(pixels.to(device)).cpu())
        features[name] = torch.cat(found)
    if len(lengths) > 1:
        told = " and ".join(map(str, sorted(lengths)))
        raise ValueError(f"clips of {told} frames: set task.frames to the least of them")
    counts = {name: len(found) for name, found in features.items()}
    notes += _few("fvd", counts, instead="")
    return {
        **_described(network, counts),
        "frames": lengths.pop(),
        "fvd": frechet(features["real"], features["generated"]),
    }


def _described(network: Network, counts: dict[str, int]) -> dict[str, Any]:
    return {"counts": counts, "network": str(network.path), "sha256": network.sha256}


def _few(name: str, counts: dict[str, int], *, instead: str) -> list[str]:
    if min(counts.values()) >= ENOUGH:
        return []
    told = f"{counts['real']} real and {counts['generated']} generated samples"
    return [f"{name} of {told} is biased upward: compare it only with one of as many{instead}"]


def _files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES and path.is_file())
    if not found:
        raise ValueError(f"{folder} holds no pictures (looked for {', '.join(sorted(IMAGES))} at any depth)")
    return found


def _clip_paths(folder: Path) -> list[Path]:
    inside = folder.iterdir() if folder.is_dir() else ()
    found = sorted(path for path in inside if path.is_dir() or path.suffix.lower() in VIDEOS)
    if not found:
        raise ValueError(f"{folder} holds no clips (video files, or folders of frames)")
    return found


def _first_frame(path: Path) -> Tensor:
    return torch.from_numpy(read(path, [0]).frames[0]).permute(2, 0, 1)


def _clip(path: Path, frames: int | None) -> Tensor:
    """uint8 (T, 3, H, W)."""
    clip = read(path, lambda info: range(info.num_frames if frames is None else frames))
    return torch.from_numpy(clip.frames).permute(0, 3, 1, 2)


def _batches(items: Iterable[Tensor], most: int) -> Iterator[Tensor]:
    """Neighbours of one shape, stacked; another shape begins a new batch."""
    held: list[Tensor] = []
    for item in items:
        if held and (len(held) == most or item.shape != held[0].shape):
            yield torch.stack(held)
            held = []
        held.append(item)
    if held:
        yield torch.stack(held)
