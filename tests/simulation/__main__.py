"""Runs seeds: ``python -m tests.simulation 17``, or ``0-99999`` for many; ``-v`` tells what happened in one.

Ends with one JSON line. Each broken promise prints the command that repeats it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter

from tests.simulation.seeds import Failure, simulate, span


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", help="a seed, or the first and the last: 0-99999")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell what happened")
    parser.add_argument("--stop", action="store_true", help="stop at the first that fails")
    options = parser.parse_args()
    began_s, counts, failures, told_s = time.monotonic(), Counter[str](), list[Failure](), time.monotonic()
    seeds = span(options.seeds)
    for done, seed in enumerate(seeds, 1):
        outcome = simulate(seed)
        if options.verbose:
            print("\n".join(outcome.said))
        counts += outcome.counts
        if isinstance(outcome, Failure):
            failures.append(outcome)
            print(outcome, flush=True)
            if options.stop:
                break
        if time.monotonic() - told_s > 60:
            told_s = time.monotonic()
            print(f"up to seed {seed}: {done} of {len(seeds)} seeds, {len(failures)} failed", flush=True)
    took_s = round(time.monotonic() - began_s, 1)
    print(
        json.dumps(
            {
                "name": "simulation", "value": len(failures), "limit": 0, "ok": not failures, "runs": [one.seed for one in failures],
                "seeds": len(seeds), "took_s": took_s, **counts,
            }
        )
    )  # fmt: skip
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
