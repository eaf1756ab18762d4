"""Submit a batch file from Python: python examples/submit_batch.py examples/embeddings.jsonl results.jsonl

Needs a running cluster (`dispatcher up`). After an interruption run it again: it does the rest.
"""

from __future__ import annotations

import os
import sys

from dispatcher.batches import Progress, submit_file
from dispatcher.errors import DispatcherError
from dispatcher.settings import load_settings
from workers.app import app


def show(progress: Progress) -> None:
    """Print the progress over the line before."""
    print(f"\r{progress.done} of {progress.lines} lines", end="", flush=True)


def main() -> int:
    """The exit code: 0 if every line succeeded, 1 if some failed or the batch could not run, 2 for wrong use."""
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        summary = submit_file(app, sys.argv[1], sys.argv[2], resume=True, progress=show, settings=load_settings(os.environ))
    except DispatcherError as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"\n{summary.progress.succeeded} succeeded, {summary.progress.failed} failed, in {summary.elapsed_s:.1f} s")
    for worker, share in sorted(summary.progress.by_worker.items()):
        print(f"  {worker or 'nobody'}: {share.lines} lines in {share.chunks} chunks")
    return 0 if summary.ok else 1


if __name__ == "__main__":
    sys.exit(main())
