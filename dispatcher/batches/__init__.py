"""Batch files: read and check them, plan chunks, send each chunk as a Celery task, collect the results line by line.

``submit_file(app, "in.jsonl", "out.jsonl")`` does all of it; ``dispatcher submit`` shows a progress bar besides.
"""

from dispatcher.batches.lines import InvalidBatch, Line, Mistake, read_batch
from dispatcher.batches.planner import Chunk, plan_chunks
from dispatcher.batches.submission import Progress, Submission, Summary, WorkerShare, submit_file

__all__ = [
    "Chunk", "InvalidBatch", "Line", "Mistake", "Progress", "Submission", "Summary", "WorkerShare", "plan_chunks",
    "read_batch", "submit_file",
]  # fmt: skip
