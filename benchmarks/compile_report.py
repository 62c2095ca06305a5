"""Compile every kernel for several GPUs, without one, and print registers, spills and memory.

    python benchmarks/compile_report.py [--all] [--csv FILE] [--targets sm_90,gfx942]

The kernels are compiled with the very arguments that the launchers pass, on tensors without
memory. A row that spills registers to memory, asks for more shared memory than its target has,
or does not compile at all is marked, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tritonseq.kernels._attention_triton import attention_launches
from tritonseq.kernels._checks import Attention, Ngrams
from tritonseq.kernels._ngrams_triton import ngram_launches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from tritonseq.kernels._launch import Launch

# Name, target, and the shared memory in bytes that a program may ask for.
TARGETS = {
    "sm_75": (GPUTarget("cuda", 75, 32), 65536),
    "sm_80": (GPUTarget("cuda", 80, 32), 166912),
    "sm_90": (GPUTarget("cuda", 90, 32), 232448),
    "sm_100": (GPUTarget("cuda", 100, 32), 232448),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 65536),
}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}


class Row(NamedTuple):
    """One kernel in one configuration on one target."""

    target: str
    kernel: str
    case: str
    warps: int
    registers: int
    spilled: int
    """Bytes per thread that went to memory."""
    lane_spills: int
    """AMD only: scalar registers kept in lanes of a vector register, which touches no memory."""
    shared: int
    error: str

    @property
    def bad(self) -> bool:
        return bool(self.error) or self.spilled > 0 or self.shared > TARGETS[self.target][1]


class Shape(NamedTuple):
    """One use of `decode_attention`: beams, rows, head size, and the parts that are there.

    `new` is the number of new rows where it is not that of the queries.
    """

    beams: int
    rows: int
    head_dim: int
    source: bool = True
    target: bool = True
    bias: bool = False
    new: int | None = None

    def __str__(self) -> str:
        parts = [name for name in ("source", "target", "bias") if getattr(self, name)]
        rows = f"Q{self.rows}" if self.new is None else f"Q{self.rows}of{self.new}"
        return f"K{self.beams} {rows} D{self.head_dim} {'+'.join(parts)}"


# What the models ask for, at their usual head size, and every tile shape once.
USUAL = [
    Shape(1, 1, 64),
    Shape(4, 1, 64),
    Shape(4, 1, 64, target=False),
    Shape(4, 1, 64, source=False, bias=True),
    # T5's beams, with the decoder's prompt as the source; a long decoder's prompt that reads the
    # encoder's source; the wide beams of a Trie.
    Shape(4, 1, 64, bias=True),
    Shape(37, 1, 64, target=False),
    Shape(128, 1, 64, bias=True),
    # UniLM's newest token and [MASK], and in its last layer [MASK] alone; with the bias, UniLM2.
    Shape(1, 2, 64),
    Shape(5, 2, 64),
    Shape(5, 1, 64, new=2),
    Shape(5, 2, 64, bias=True),
    Shape(5, 1, 64, bias=True, new=2),
    Shape(8, 1, 128),
    Shape(16, 1, 64),
    Shape(5, 1, 24),
    Shape(2, 2, 256),
]
EVERY = [
    Shape(beams, rows, head_dim, bias=bias)
    for beams, rows in ((1, 1), (1, 2), (2, 1), (4, 1), (4, 2), (8, 1), (5, 2), (16, 1))
    for head_dim in (16, 24, 64, 80, 96, 128, 256)
    for bias in (False, True)
] + [
    Shape(beams, rows, head_dim, bias=bias, new=new)
    for beams in (1, 5, 8)
    for rows, new in ((2, None), (1, 2))
    for head_dim in (32, 64)
    for bias in (False, True)
]


def attention_cases(shapes: list[Shape], dtype: torch.dtype) -> Iterator[tuple[str, Launch]]:
    """Kernel and reduction of each shape, long enough for several splits."""
    name = str(dtype).removeprefix("torch.")
    for shape in shapes:
        call = attention_call(shape, dtype)
        for launch in attention_launches(call, meta(*call.query.shape, dtype=dtype)):
            yield f"{name} {shape}", launch


def attention_call(shape: Shape, dtype: torch.dtype) -> Attention:
    samples, heads, source, target = 8, 12, 512, 320
    beams, rows, head_dim = shape.beams, shape.rows, shape.head_dim
    new = rows if shape.new is None else shape.new
    query, key, value = meta(samples, beams, new, 3, heads, head_dim, dtype=dtype).unbind(3)
    stored = meta(samples, heads, source, head_dim, dtype=dtype) if shape.source else None
    cache = meta(samples, heads, target, beams, head_dim, dtype=dtype) if shape.target else None
    lengths = meta(samples, dtype=torch.int64)
    return Attention(
        query[:, :, new - rows :],
        key if shape.target else None,
        value if shape.target else None,
        stored,
        stored,
        lengths if shape.source else None,
        cache,
        cache,
        meta(samples, target, beams, dtype=torch.int64) if shape.target and beams > 1 else None,
        lengths if shape.target else None,
        meta(heads, 128, dtype=torch.float32) if shape.bias else None,
        head_dim**-0.5,
        None,
    )


def ngram_cases(dtype: torch.dtype) -> Iterator[tuple[str, Launch]]:
    """Scores of `dtype` by lineage behind a prefix, and by plain tokens from a source.

    All of them also with a table of tokens to pass over.
    """
    name = str(dtype).removeprefix("torch.")
    rows, vocab_size = 32, 50257
    tokens, lengths = meta(rows, 600, dtype=torch.int64), meta(8, dtype=torch.int64)
    slots, none = meta(8, 32, 4, dtype=torch.int64), [None] * 12
    table = meta(vocab_size, dtype=torch.bool)
    calls = (
        ("plain", Ngrams(tokens, 3, rows, vocab_size, *none[:10])),
        ("lineage", Ngrams(slots, 3, rows, vocab_size, lengths, None, slots, *none[:7])),
        (
            "lineage+prefix",
            Ngrams(
                slots, 3, rows, vocab_size, lengths, None, slots, tokens[:8], lengths, *none[:5]
            ),
        ),
        (
            "source",
            Ngrams(tokens, 3, rows, vocab_size, *none[:6], tokens[:8], lengths, lengths, None),
        ),
    )
    ignoring = ((f"{case}+ignored", call._replace(ignored=table)) for case, call in calls)
    for case, call in (*calls, *ignoring):
        for launch in ngram_launches(meta(rows, vocab_size, dtype=dtype), call):
            yield f"{name} {case}", launch


def meta(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def cases(target: str, every: bool) -> Iterator[tuple[str, Launch]]:
    """All that is compiled for a target. Before sm_80 there is no bfloat16."""
    dtypes = (
        [torch.float16] if target == "sm_75" else [torch.float16, torch.bfloat16, torch.float32]
    )
    for dtype in dtypes:
        usual = USUAL if dtype == torch.float16 or every else USUAL[:6]
        yield from attention_cases(usual + (EVERY if every else []), dtype)
        if dtype == torch.float16 or every:
            yield from ngram_cases(dtype)
    yield from ngram_cases(torch.uint8)


def compile_launch(launch: Launch, target: GPUTarget) -> Any:
    """Compile as a launch with these arguments would: the same types, constants and hints."""
    signature, constants, hints = {}, {}, {}
    for index, parameter in enumerate(launch.kernel.params):
        value, name = launch.arguments[parameter.name], parameter.name
        divisible = isinstance(value, torch.Tensor)
        if parameter.is_constexpr or value is None:
            signature[name], constants[(index,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value == 1 and not parameter.do_not_specialize:
            signature[name], constants[(index,)] = "constexpr", 1
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            divisible = value % 16 == 0 and not parameter.do_not_specialize
        if divisible:
            hints[(index,)] = [["tt.divisibility", 16]]
    options = launch.options(amd=target.backend == "hip")
    source = ASTSource(launch.kernel, signature, constants, hints)
    return triton.compile(source, target=target, options=options)


def usage(compiled: Any) -> tuple[int, int, int]:
    """Registers, spilled bytes and lane spills, as the target's own tools report them."""
    if "cubin" in compiled.asm:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            command = [str(CUOBJDUMP), "-res-usage", file.name]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        registers, stack, local = (number(text, f"{key}:") for key in ("REG", "STACK", "LOCAL"))
        return registers, stack + local, 0
    text = compiled.asm["amdgcn"]
    spilled = number(text, r"\.private_segment_fixed_size:\s*")
    spilled += 4 * number(text, r"\.vgpr_spill_count:\s*")
    return number(text, r"\.vgpr_count:\s*"), spilled, number(text, r"\.sgpr_spill_count:\s*")


def number(text: str, label: str) -> int:
    found = re.search(rf"{label}(\d+)", text)
    assert found, f"no {label!r} in the compiler's report"
    return int(found[1])


def report(target: str, every: bool) -> Iterator[Row]:
    """Compile everything for one target, identical configurations once."""
    seen = set()
    for case, launch in cases(target, every):
        kernel = launch.kernel.__name__.lstrip("_")
        try:
            compiled = compile_launch(launch, TARGETS[target][0])
            if compiled.hash in seen:
                continue
            seen.add(compiled.hash)
            facts, error = (*usage(compiled), compiled.metadata.shared), ""
        except Exception as caught:  # whatever the compiler raises is the finding
            facts, error = (0, 0, 0, 0), f"{type(caught).__name__}: {caught}".replace("\n", " ")
        yield Row(target, kernel, case, launch.num_warps, *facts, error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every tile, head size and dtype")
    parser.add_argument("--csv", help="also write the rows to this file")
    parser.add_argument("--targets", default=",".join(TARGETS), help="default: %(default)s")
    options = parser.parse_args()
    rows = []
    print(
        f"{'':7}{'kernel':8}{'case':42}{'warps':>6}{'regs':>6}{'spill':>6}{'lanes':>6}{'smem':>7}"
    )
    for target in options.targets.split(","):
        for row in report(target, options.all):
            rows.append(row)
            print(
                f"{row.target:7}{row.kernel:8}{row.case:42}{row.warps:6}{row.registers:6}"
                f"{row.spilled:6}{row.lane_spills:6}{row.shared:7}{'  BAD ' if row.bad else ''}"
                f"{row.error[:300]}",
                flush=True,
            )
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows(rows)
    bad = sum(row.bad for row in rows)
    print(f"triton {triton.__version__}: {len(rows)} kernels compiled, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
