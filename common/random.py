"""Randomness that depends on what is drawn, not on who draws it or when."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def mix(*parts: int | str) -> int:
    """A 63-bit seed from its parts; the same parts give the same seed on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `mix(*parts)`, for what is drawn per sample: (seed, purpose, global position)."""
    return torch.Generator().manual_seed(mix(*parts))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """New weights that depend on this seed alone; the generator of the process goes on afterwards as if unused."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
