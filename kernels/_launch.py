"""What the Triton launchers share: a launch as data, and block sizes with their reasons."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# Keys of one part that one program reads at most, unless the caller asks for a number of splits.
# A constant, so that the order of a sample's sums, and thus its result to the last bit, depends
# on its own lengths and not on the batch. 256 is where the second kernel of a finer split starts
# to cost more than the first one gains.
SPLIT_LENGTH = 256

# Query rows of one program at most: the rows of a tensor-core tile.
QUERY_ROWS = 16

# Results [query rows, head size] that a program accumulates in float32 registers. Twice as many
# spill where there are no tensor cores to share them out.
ACCUMULATOR = 1024

# Bytes of a tile of keys, and of one of values: some ten such tiles in flight on a multiprocessor
# cover the latency of memory, while larger ones take the registers of further programs.
TILE_BYTES = 8192


class Launch(NamedTuple):
    """One kernel with all that is passed to it; compiled without a GPU as well as run on one."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    num_warps: int
    num_stages: int

    def run(self) -> None:
        """Launch on the current device, or run in the interpreter where that is switched on."""
        self.kernel[self.grid](
            **self.arguments,
            num_warps=self.num_warps,
            num_stages=self.num_stages,
            # The default changes between versions of Triton.
            enable_fp_fusion=True,
        )


def check_device(kernel: Any, *tensors: Tensor | None) -> None:
    """Raise ValueError unless all tensors are where `kernel` can read them."""
    devices = {tensor.device for tensor in tensors if tensor is not None}
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"the tensors are on {names}; move them to one device")
    if devices == {torch.device("cpu")} and not is_interpreted(kernel):
        raise ValueError(
            'impl="triton" needs a GPU, or TRITON_INTERPRET=1 set before triton is imported; '
            'for tensors on the CPU pass impl="torch"'
        )


def is_interpreted(kernel: Any) -> bool:
    """Whether `kernel` runs in Triton's interpreter rather than compiled."""
    return type(kernel).__name__ == "InterpretedFunction"


def beams_per_program(beams: int, rows: int, head_dim: int) -> int:
    """As many beams as fit the accumulator: every tile of keys is read once for all of them."""
    most = min(QUERY_ROWS, ACCUMULATOR // block_dim(head_dim))
    return min(beams, most // rows)


def block_dim(head_dim: int) -> int:
    """The head size padded to a power of two, 16 at least: the depth of a tensor-core product."""
    return max(16, next_power_of_two(head_dim))


def key_block(query_rows: int, head_dim: int, item_size: int) -> int:
    """Keys in a tile: at least 16, and not more than `TILE_BYTES`.

    More than four query rows take fewer keys, for the scores stay in registers too.
    """
    fitting = TILE_BYTES // (block_dim(head_dim) * item_size)
    return max(16, min(64 if query_rows <= 4 else 32, fitting))


def warps(query_rows: int) -> int:
    """The usual four, and twice as many for a full tile of query rows."""
    return 8 if query_rows == QUERY_ROWS else 4


def split_lengths(source: int, target: int, splits: int | None, block: int) -> tuple[int, int, int]:
    """How many programs share a (sample, head), and the positions of each part that one reads.

    Split `i` reads positions `[i * length, (i + 1) * length)` of the source and likewise of the
    generated part. By default the lengths are constants and only their number follows the shape.
    """
    if splits is None:
        return max(1, ceil_div(source, SPLIT_LENGTH), ceil_div(target, SPLIT_LENGTH)), 256, 256
    source_length = ceil_div(ceil_div(source, splits), block) * block
    return splits, max(source_length, block), max(ceil_div(target, splits), 1)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def strides(name: str, tensor: Tensor | None, dims: Sequence[str]) -> dict[str, int]:
    """`name_stride_dim` for the leading dimensions; zeros for what the tensor does not have."""
    values = () if tensor is None else tensor.stride()
    return {f"{name}_stride_{dim}": value for dim, value in zip_longest(dims, values[: len(dims)], fillvalue=0)}
