"""The ready-made Celery app: ``celery -A workers.app worker --models minilm,hash-384``. Its tasks and runtimes live
here.
"""
