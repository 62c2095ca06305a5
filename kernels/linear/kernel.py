"""`norm_linear` in Triton: every program takes the norm of its rows anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from tritonseq.kernels.activation.kernel import _act
from tritonseq.kernels.checks import check_rows
from tritonseq.kernels.launch import (
    Launch,
    ceil_div,
    check_device,
    next_power_of_two,
    run_on,
    strides,
)

from .call import WEIGHT_BYTES, can_hold, padded_rows

if TYPE_CHECKING:
    from torch import Tensor

    from .call import NormLinearCall

# Whether a kernel starts while its predecessor still runs, where the GPU can do that (NVIDIA from
# sm_90), and fetches its weights meanwhile. Off until a measurement says that it pays.
PROGRAMMATIC_LAUNCH = False

# Bytes that one thread loads at once.
LOAD_BYTES = 16

# Chunks of the inputs per program. All their loads are in flight together and wait in registers.
CHUNKS = 4

# Rows that one program multiplies with its weights: their inputs wait in registers as well.
ROWS = 4

# Programs that a launch should have: two for every multiprocessor of a large GPU.
PROGRAMS = 256

_UNSPECIALIZED = ["rows", "outputs"]


@triton.jit
def _load(pointers, o_k, stride_k, mask, K: tl.constexpr, BK: tl.constexpr):
    """The `K` entries of each row that `pointers` points to, as a tuple of chunks [rows, BK]."""
    b_chunks = ()
    for i in tl.static_range((K + BK - 1) // BK):
        o_i = i * BK + o_k
        m_i = mask[:, None] & (o_i < K)[None, :]
        p_i = pointers[:, None] + o_i.to(tl.int64)[None, :] * stride_k
        b_chunks = b_chunks + (tl.load(p_i, mask=m_i, other=0.0),)  # noqa: RUF005
    return b_chunks


@triton.jit
def _statistics(b_x, o_k, epsilon, RMS: tl.constexpr, K: tl.constexpr, BK: tl.constexpr):
    """What a norm subtracts from a row, given in chunks, and what it then multiplies with."""
    b_mean = 0.0
    if not RMS:
        b_lanes = b_x[0].to(tl.float32)
        for i in tl.static_range(1, (K + BK - 1) // BK):
            b_lanes += b_x[i].to(tl.float32)
        b_mean = tl.sum(b_lanes, 1)[:, None] / K
    b_lanes = tl.zeros([1, BK], tl.float32)
    for i in tl.static_range((K + BK - 1) // BK):
        b_centred = tl.where((i * BK + o_k < K)[None, :], b_x[i].to(tl.float32) - b_mean, 0.0)
        b_lanes += b_centred * b_centred
    return b_mean, tl.rsqrt(tl.sum(b_lanes, 1)[:, None] / K + epsilon)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _norm_linear(
    x, weight, bias, norm_weight, norm_bias, residual, output,
    rows, outputs, epsilon,
    x_stride_n, weight_stride_k, weight_stride_o, residual_stride_n, output_stride_n,
    K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    RMS: tl.constexpr, ACTIVATION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program computes `BN` outputs of `BM` rows; all their weights wait in registers.

    A pointer that is None leaves its part out. `residual`, where given, is what is written to.
    """
    i_m = tl.program_id(0) * BM
    o_1, o_k = tl.arange(0, 1), tl.arange(0, BK)
    o_o = tl.program_id(1) * BN + tl.arange(0, BN)
    m_1, m_o = o_1 == 0, o_o < outputs

    # What no kernel of the chain writes is asked for before the predecessor has ended.
    p_weight = weight + o_o.to(tl.int64) * weight_stride_o
    b_weight = _load(p_weight, o_k, weight_stride_k, m_o, K, BK)
    if norm_weight is not None:
        b_gain = _load(norm_weight + o_1, o_k, 1, m_1, K, BK)
    if norm_bias is not None:
        b_shift = _load(norm_bias + o_1, o_k, 1, m_1, K, BK)
    if bias is not None:
        b_bias = tl.load(bias + o_o, mask=m_o, other=0.0).to(tl.float32)
    if PDL:
        gdc_wait()
    b_rows = ()
    for m in tl.static_range(BM):
        p_x = x + (i_m + m + o_1).to(tl.int64) * x_stride_n
        b_rows = b_rows + (_load(p_x, o_k, 1, i_m + m + o_1 < rows, K, BK),)  # noqa: RUF005
    b_stream = ()
    if residual is not None:
        for m in tl.static_range(BM):
            p_y = residual + tl.cast(i_m + m, tl.int64) * residual_stride_n + o_o
            m_y = m_o & (i_m + m < rows)
            b_stream = b_stream + (tl.load(p_y, mask=m_y, other=0.0).to(tl.float32),)  # noqa: RUF005
    if PDL:
        gdc_launch_dependents()

    for m in tl.static_range(BM):
        if norm_weight is not None:
            b_mean, b_scale = _statistics(b_rows[m], o_k, epsilon, RMS, K, BK)
        b_products = tl.zeros([BN, BK], tl.float32)
        for i in tl.static_range((K + BK - 1) // BK):
            b_x = b_rows[m][i].to(tl.float32)  # [1, BK]
            if norm_weight is not None:
                b_x = (b_x - b_mean) * b_scale
                if RMS:
                    b_x = b_x.to(weight.dtype.element_ty).to(tl.float32)
                b_x *= b_gain[i].to(tl.float32)
                if norm_bias is not None:
                    b_x += b_shift[i].to(tl.float32)
                # As a norm of its own would store it.
                b_x = b_x.to(weight.dtype.element_ty).to(tl.float32)
            b_products += b_x * b_weight[i].to(tl.float32)
        b_y = tl.sum(b_products, 1)
        if bias is not None:
            b_y += b_bias
        if ACTIVATION is not None:
            b_y = _act(b_y, ACTIVATION)
        i_n = tl.cast(i_m + m, tl.int64)
        m_y = m_o & (i_n < rows)
        if residual is not None:
            p_y = residual + i_n * residual_stride_n + o_o
            tl.store(p_y, (b_stream[m] + b_y).to(residual.dtype.element_ty), mask=m_y)
        else:
            p_y = output + i_n * output_stride_n + o_o
            tl.store(p_y, b_y.to(output.dtype.element_ty), mask=m_y)


def multiply_in_triton(call: NormLinearCall) -> Tensor:
    """Launch the kernel for a checked call; returns the residual or a new output."""
    x = call.x
    check_device(_norm_linear, x)
    check_rows(
        x=x,
        bias=call.bias,
        norm_weight=call.norm_weight,
        norm_bias=call.norm_bias,
        residual=call.residual,
    )
    _check_inputs(call.weight)
    output = call.residual
    if output is None:
        output = padded_rows(x.shape[0], call.weight.shape[1], like=call.weight)
    if output.numel():
        pdl = PROGRAMMATIC_LAUNCH and has_programmatic_launch(x.device)
        run_on(x.device, linear_launches(call, output, pdl=pdl))
    return output


def _check_inputs(weight: Tensor) -> None:
    """Raise ValueError where the weights of one output are more than a program can hold."""
    if not can_hold(weight):
        most = WEIGHT_BYTES // weight.element_size()
        raise ValueError(
            f"weight is {list(weight.shape)}; in Triton an output has {most} inputs of "
            f'{weight.dtype} at most: pass impl="torch"'
        )


def has_programmatic_launch(device: torch.device) -> bool:
    """Whether a kernel on this GPU can start before its predecessor has ended."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


def linear_launches(call: NormLinearCall, output: Tensor, *, pdl: bool = False) -> list[Launch]:
    """The kernel, which writes `output`: a new tensor, or the residual.

    `pdl`: start while the predecessor runs. That may itself be launched in any way; the kernel
    waits for its end before it reads or writes what another kernel may write or read.
    """
    rows, inputs = call.x.shape
    outputs = call.weight.shape[1]
    item_size = call.weight.element_size()
    num_warps = warps(inputs, item_size)
    block_inputs = num_warps * 32 * LOAD_BYTES // item_size
    chunks = ceil_div(inputs, block_inputs)
    # A stream that is wider than the weights takes more loads.
    block_rows = rows_per_program(rows, chunks * call.x.element_size() // item_size)
    block_outputs = outputs_per_program(block_rows, outputs, chunks)
    launch = Launch(
        _norm_linear,
        # Programs that read the same weights are neighbours.
        (ceil_div(rows, block_rows), ceil_div(outputs, block_outputs)),
        {
            "x": call.x,
            "weight": call.weight,
            "bias": call.bias,
            "norm_weight": call.norm_weight,
            "norm_bias": call.norm_bias,
            "residual": call.residual,
            "output": None if call.residual is not None else output,
            "rows": rows,
            "outputs": outputs,
            "epsilon": call.epsilon,
            **strides("x", call.x, "n"),
            **strides("weight", call.weight, "ko"),
            **strides("residual", call.residual, "n"),
            **strides("output", output, "n"),
            "K": inputs,
            "BM": block_rows,
            "BN": block_outputs,
            "BK": block_inputs,
            "RMS": call.rms,
            "ACTIVATION": call.activation,
            "PDL": pdl,
        },
        num_warps=num_warps,
        # Left alone, NVIDIA's assembler spills a few registers to fit one more program.
        max_registers=255,
        pdl=pdl,
    )
    return [launch]


def rows_per_program(rows: int, loads: int) -> int:
    """Up to four rows share one read of the weights, fewer where each takes many `loads`.

    More rows take turns.
    """
    tile = min(next_power_of_two(rows), ROWS)
    while tile > 1 and tile * loads > ROWS * CHUNKS:
        tile //= 2
    return tile


def outputs_per_program(rows: int, outputs: int, chunks: int) -> int:
    """Four outputs share the norm of one row: two of several, of very long ones or of few outputs.

    Their weights fill the registers, and a small weight should reach every multiprocessor.
    """
    many = rows == 1 and chunks <= CHUNKS and ceil_div(outputs, 4) >= PROGRAMS
    return 4 if many else 2


def warps(inputs: int, item_size: int) -> int:
    """As few as hold the inputs in `CHUNKS` loads per thread, for a lone warp needs no barrier."""
    loads = ceil_div(inputs * item_size, LOAD_BYTES * 32)
    return min(next_power_of_two(ceil_div(loads, CHUNKS)), 8)
