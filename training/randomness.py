"""Every random number of a run is a pure function of the seed and of where it is used.

No generator state has to be saved, and the numbers of a step do not depend on how many workers
share it.
"""

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from a path of names and numbers, the same on every machine."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_at(*parts: int | str) -> torch.Generator:
    """A CPU generator for one place of the run, such as (seed, stage, "noise", position)."""
    return torch.Generator().manual_seed(derive_seed(*parts))
