"""Reading a folder of weights one tensor at a time, whatever its files are.

The layout is that of transformers: `model.safetensors` or `pytorch_model.bin`, or shards of either, with
`<name>.index.json` or without. A `.bin` file is opened as tensors only (`weights_only`), mapped instead of read.
"""

import json
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from common.files import digest

# Names of dtypes in the header of a safetensors file.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# The first kind that is there is read: where a folder has both, they hold the same numbers.
KINDS = (("model", "safetensors"), ("pytorch_model", "bin"))


class WeightsError(ValueError):
    """Weights are missing, damaged, or of another model than was meant: names the file and the remedy."""


class Header(NamedTuple):
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """Numbers in the tensor."""
        return torch.Size(self.shape).numel()

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.numel * self.dtype.itemsize


class Weights:
    """The tensors of a folder by name. One file is open at a time, and nothing that was read is kept."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            WeightsError: there are no weights, a shard is missing or unreadable, or the index does not fit the shards.
        """
        self.folder = folder
        self.files, index = _files(folder)
        self.headers: dict[str, Header] = {}
        self._file_of: dict[str, Path] = {}
        self._open: tuple[Path, Any] | None = None
        for path in self.files:
            for name, header in self._headers_of(path).items():
                if name in self.headers:
                    raise WeightsError(f"{path}: {name} is in {self._file_of[name].name} too; remove the stale file")
                self.headers[name], self._file_of[name] = header, path
        lost = sorted(name for name, file in index.items() if self._file_of.get(name, Path()).name != file)
        if lost:
            raise WeightsError(f"{folder}: {lost[0]} is not in the shard that the index names; fetch the shards again")

    def read(self, name: str) -> Tensor:
        """A tensor, mapped from its file where the format allows: copy it before you change it."""
        content = self._content(self._file_of[name])
        tensor: Tensor = content[name] if isinstance(content, dict) else content.get_tensor(name)
        return tensor.detach()

    def identity(self) -> dict[str, str]:
        """File names and their digests."""
        return {path.name: digest(path) for path in self.files}

    def _headers_of(self, path: Path) -> dict[str, Header]:
        content = self._content(path)
        if isinstance(content, dict):
            return {name: Header(tuple(tensor.shape), tensor.dtype) for name, tensor in content.items()}
        slices = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118 (not a mapping)
        return {name: Header(tuple(part.get_shape()), DTYPES[part.get_dtype()]) for name, part in slices.items()}

    def _content(self, path: Path) -> Any:
        if self._open is None or self._open[0] != path:
            self._open = None  # unmap the file before
            self._open = (path, open_tensors(path))
        return self._open[1]


def open_tensors(path: Path) -> Any:
    """A `.safetensors` file as a handle of safetensors, any other as {name: tensor}, mapped.

    Raises:
        WeightsError: damaged, not tensors alone, or of a kind that cannot be mapped.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is not there; check the path, or fetch the file")
    try:
        if path.suffix == ".safetensors":
            return safe_open(path, framework="pt")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise WeightsError(f"{path}: not a whole file of tensors ({reason}); fetch it again") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path}: holds something other than named tensors; give a file of weights")
    return content


def weights_folder(name: str) -> Path:
    """The folder that a name means: itself, or the local copy of a Hub repository. Nothing is downloaded.

    Raises:
        WeightsError: neither.
    """
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise WeightsError(f"{name}: no such folder; give a folder of weights or the id of a fetched Hub repository")
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise WeightsError(f"{name}: neither a folder nor in the local Hub cache; run: hf download {name}") from error


def _files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Files of weights, and {tensor: file} of the index if there is one."""
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such folder; give a folder of weights")
    for stem, suffix in KINDS:
        index_path = folder / f"{stem}.{suffix}.index.json"
        if index_path.is_file():
            index: dict[str, str] = json.loads(index_path.read_text())["weight_map"]
            paths = [folder / file for file in sorted(set(index.values()))]
            missing = [path.name for path in paths if not path.is_file()]
            if missing:
                raise WeightsError(f"{folder}: {', '.join(missing)} of {index_path.name} is missing; fetch it")
            return paths, index
        if (folder / f"{stem}.{suffix}").is_file():
            return [folder / f"{stem}.{suffix}"], {}
        shards = sorted(folder.glob(f"{stem}-*-of-*.{suffix}"))
        if shards:
            _refuse_gaps(folder, shards)
            return shards, {}
    raise WeightsError(f"{folder}: neither model*.safetensors nor pytorch_model*.bin; give a folder of weights")


def _refuse_gaps(folder: Path, shards: list[Path]) -> None:
    count = int(shards[0].stem.rpartition("-of-")[2])
    if len(shards) != count:
        raise WeightsError(f"{folder}: {len(shards)} of {count} shards are there; fetch the others")
