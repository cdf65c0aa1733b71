"""Speed and memory against their bounds: a table of figures, limits and what was missed. `make bench` runs it.

    python tests/benchmarks/run.py [--quick] [training guarding levels asking null_tree building start_up memory saving]

`--quick` takes fewer repeats, and 100,000 batches, or changes, where it else takes a million. It ends with 1 when a
limit is missed. The limits hold on a quiet machine. On a shared one look at min .. max, and run it again before
believing a miss.
"""

import argparse
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context

import asking
import building
import guarding
import levels
import memory
import null_tree
import saving
import start_up
import torch
import training
from figures import Figure, table

PARTS = {
    part.__name__: part for part in (training, guarding, levels, asking, null_tree, building, start_up, memory, saving)
}


def measured(part: str, quick: bool) -> list[Figure]:
    """All figures of a part."""
    torch.set_num_threads(1)
    return list(PARTS[part].measure(quick))


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed and memory against their bounds.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, a shorter memory run")
    asked = parser.parse_args()
    unknown = sorted(set(asked.parts) - set(PARTS))
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    started = time.monotonic()
    figures: list[Figure] = []
    for name in asked.parts or PARTS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:  # none meets what another left behind
            figures += process.submit(measured, name, asked.quick).result()
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"{date.today()}: {platform.machine()}, {cores} cores, load {load:.1f}, CPU only, one thread; ", end="")
    print(f"Python {platform.python_version()}, torch {torch.__version__}; {time.monotonic() - started:.0f} s\n")
    print(table(figures))
    missed = sum(figure.is_missed for figure in figures)
    print(f"\n{missed or 'No'} limit{'s' if missed > 1 else ''} missed." if missed != 1 else "\n1 limit missed.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
