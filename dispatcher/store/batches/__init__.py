"""Keeps batches, files and their committed parts in Redis: what the driver of batches and the HTTP API share. Nothing
is here yet.

May import the other rooms of ``store``, ``core`` and below; no HTTP, no Celery, no storage of files (that is
``dispatcher/batches/``).
"""
