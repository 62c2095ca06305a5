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

from tritonseq.bench.registry import all_launches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritonseq.kernels.launch import Launch

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


class CompiledKernel(NamedTuple):
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
    def is_bad(self) -> bool:
        """Whether it failed to compile, spills registers, or needs more shared memory."""
        return bool(self.error) or self.spilled > 0 or self.shared > TARGETS[self.target][1]


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


def report(target: str, every: bool) -> Iterator[CompiledKernel]:
    """Compile everything for one target, identical configurations once."""
    seen = set()
    for case, launch in all_launches(target, every):
        kernel = launch.kernel.__name__.lstrip("_")
        try:
            compiled = compile_launch(launch, TARGETS[target][0])
            if compiled.hash in seen:
                continue
            seen.add(compiled.hash)
            facts, error = (*usage(compiled), compiled.metadata.shared), ""
        except Exception as caught:  # whatever the compiler raises is the finding
            facts, error = (0, 0, 0, 0), f"{type(caught).__name__}: {caught}".replace("\n", " ")
        yield CompiledKernel(target, kernel, case, launch.num_warps, *facts, error)


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
                f"{row.spilled:6}{row.lane_spills:6}{row.shared:7}{'  BAD ' if row.is_bad else ''}"
                f"{row.error[:300]}",
                flush=True,
            )
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(CompiledKernel._fields)
            writer.writerows(rows)
    bad = sum(row.is_bad for row in rows)
    print(f"triton {triton.__version__}: {len(rows)} kernels compiled, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
