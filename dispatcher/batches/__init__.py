"""Batch files: read and checked, planned into chunks, sent as one Celery task a chunk, collected line by line.

``submit_file(app, "in.jsonl", "out.jsonl")`` is the whole of it; ``dispatcher submit`` puts a progress bar before it.
"""

from dispatcher.batches.lines import InvalidBatch, Line, Mistake, read_batch
from dispatcher.batches.planner import Chunk, plan_chunks
from dispatcher.batches.submission import Progress, Submission, Summary, WorkerShare, submit_file

__all__ = ["Chunk", "InvalidBatch", "Line", "Mistake", "Progress", "Submission", "Summary", "WorkerShare", "plan_chunks",
           "read_batch", "submit_file"]
