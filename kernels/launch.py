"""Launching Triton kernels: a launch as data, and block sizes with their reasons."""

from __future__ import annotations

import contextlib
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

# Bytes of a tile of keys, and of one of values: some ten such tiles in flight on a multiprocessor
# cover the latency of memory, while larger ones take the registers of further programs.
TILE_BYTES = 8192

# Elements of the partial results that a program merges at once: 32 registers of each thread.
MERGED_ELEMENTS = 4096


class Launch(NamedTuple):
    """One kernel with all that is passed to it; compiled without a GPU as well as run on one."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 1
    max_registers: int | None = None
    pdl: bool = False
    """Start before the predecessor has ended, as the kernel allows: NVIDIA from sm_90 only."""

    def options(self, *, amd: bool) -> dict[str, Any]:
        """What the compiler is told besides the arguments."""
        # The default of enable_fp_fusion changes between versions of Triton.
        options = {
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "enable_fp_fusion": True,
        }
        if self.max_registers is not None and not amd:
            options["maxnreg"] = self.max_registers
        if self.pdl:
            options["launch_pdl"] = True
        return options

    def run(self) -> None:
        """Launch on the current device, or run in the interpreter where that is switched on."""
        options = self.options(amd=torch.version.hip is not None)
        self.kernel[self.grid](**self.arguments, **options)


def run_on(device: torch.device, launches: Sequence[Launch]) -> None:
    """Run launches, in order, on one device."""
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        for launch in launches:
            launch.run()


def in_order(x: Tensor | None) -> Tensor | None:
    """What a kernel reads one after the other; that of a caller may be strided or expanded."""
    return None if x is None else x.contiguous()


def check_device(kernel: Any, tensor: Tensor) -> None:
    """Raise ValueError unless `kernel` can read tensors on the device of `tensor`."""
    if tensor.device.type == "cpu" and not is_interpreted(kernel):
        raise ValueError(
            'impl="triton" needs a GPU, or TRITON_INTERPRET=1 set before triton is imported; '
            'for tensors on the CPU pass impl="torch"'
        )


def is_interpreted(kernel: Any) -> bool:
    """Whether `kernel` runs in Triton's interpreter rather than compiled."""
    return type(kernel).__name__ == "InterpretedFunction"


def beams_per_program(beams: int, rows: int, head_dim: int) -> int:
    """As many beams as fit a tile of query rows: every tile of keys is read once for all of them.

    Where there are no tensor cores, a thread holds whole rows of both factors of a tile product,
    which a head of more than 128 does not allow. There two query rows make do without.
    """
    most = QUERY_ROWS if block_dim(head_dim) <= 128 else 2
    return min(beams, most // rows)


def query_rows(rows: int) -> int:
    """The tile for `rows` query rows: 1, 2 or 4 of them, or a whole tensor-core tile.

    AMD's tensor cores take nothing smaller, and NVIDIA's repeat the rows that are missing.
    """
    return next_power_of_two(rows) if rows <= 4 else QUERY_ROWS


def block_dim(head_dim: int) -> int:
    """The head size padded to a power of two, 16 at least: the depth of a tensor-core product."""
    return max(16, next_power_of_two(head_dim))


def key_block(query_rows: int, head_dim: int, item_size: int) -> int:
    """Keys in a tile: at least 16, at most 64 and `TILE_BYTES`, and fewer where registers run out.

    One or two query rows multiply without tensor cores and hold every product; a whole tile of
    query rows holds its scores and sums.
    """
    depth = block_dim(head_dim)
    most = 64
    if query_rows <= 2:
        most = 16
    elif query_rows == QUERY_ROWS:
        most = 32 if depth <= 64 else 16
    return max(16, min(most, TILE_BYTES // (depth * item_size)))


def stages(query_rows: int) -> int:
    """Tiles in flight per program: small ones, of one or two query rows, need one more."""
    return 3 if query_rows <= 2 else 2


def warps(query_rows: int, head_dim: int) -> int:
    """The usual four; two where a tile has little for each thread, eight where it has much."""
    if query_rows == QUERY_ROWS:
        return 8
    return 2 if query_rows <= 2 and block_dim(head_dim) <= 32 else 4


def max_registers(query_rows: int, head_dim: int, item_size: int) -> int | None:
    """For large tiles, all that a thread may have.

    Left alone, NVIDIA's assembler spills a few registers to fit one more program. The usual
    tile, of a head of 64 in half precision, fits without that.
    """
    depth = block_dim(head_dim)
    large = depth > 128 or query_rows == QUERY_ROWS
    return 255 if large and (depth, item_size) != (64, 2) else None


def row_block(width: int) -> int:
    """Elements of a row that a program takes where its blocks need not know of each other.

    Four warps of a vector load each; a narrower row is one block.
    """
    return min(next_power_of_two(width), 1024)


def row_warps(block: int) -> int:
    """For `block` elements of one row: eight per thread, a vector load in half precision."""
    return min(max(block // 256, 1), 16)


def split_lengths(source: int, target: int, splits: int | None, block: int) -> tuple[int, int, int]:
    """How many programs share a (sample, head), and the positions of each part that one reads.

    Split `i` reads positions `[i * length, (i + 1) * length)` of the source and likewise of the
    generated part. By default the lengths are constants and only their number follows the shape.
    """
    if splits is None:
        splits = max(1, ceil_div(source, SPLIT_LENGTH), ceil_div(target, SPLIT_LENGTH))
        return splits, SPLIT_LENGTH, SPLIT_LENGTH
    source_length = ceil_div(ceil_div(source, splits), block) * block
    return splits, max(source_length, block), max(ceil_div(target, splits), 1)


def merged_rows(query_rows: int, splits: int, head_dim: int) -> int:
    """Query rows whose splits are merged at once: all, unless they fill the registers."""
    fitting = max(1, MERGED_ELEMENTS // (next_power_of_two(splits) * block_dim(head_dim)))
    return min(query_rows, fitting)


def readable_columns(logits: Tensor, multiple: int) -> int:
    """`V`, or the next multiple if every row `[..., V]` has that many columns in memory.

    Only such a bound, of 16 at least, lets the compiler load whole vectors.
    """
    width = logits.shape[-1]
    padded = ceil_div(width, multiple) * multiple
    rows = zip(logits.shape[:-1], logits.stride(), strict=False)
    end = logits.storage_offset() + sum((size - 1) * stride for size, stride in rows) + padded
    has_room = end * logits.element_size() <= logits.untyped_storage().nbytes()
    return padded if has_room and logits.stride(-1) == 1 else width


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def strides(name: str, tensor: Tensor | None, dims: Sequence[str]) -> dict[str, int]:
    """`name_stride_dim` for the leading dimensions; zeros for what the tensor does not have."""
    values = () if tensor is None else tensor.stride()
    return {
        f"{name}_stride_{dim}": value
        for dim, value in zip_longest(dims, values[: len(dims)], fillvalue=0)
    }
