"""Every kernel at the shapes of five workloads, beside plain torch: `tritonseq bench kernels`.

python benchmarks/bench_kernels.py --csv benchmarks/results/kernels.csv --png kernels.png
python benchmarks/bench_kernels.py --workloads c,e --kernels decode_attention
TRITON_INTERPRET=1 python benchmarks/bench_kernels.py --tiny --device cpu   # a rehearsal
"""

from __future__ import annotations

import sys

from tritonseq.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", "kernels", *sys.argv[1:]]))
