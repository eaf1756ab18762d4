"""The HTTP API: ``/v1`` for batches and files, health, and pages for people. Nothing is here yet.

May import ``wiring``, ``batches``, ``observe``, ``store``, ``settings`` and ``telemetry``; never ``leader`` or
``worker``: it leads nothing and runs no job. import-linter holds this. Its web framework belongs to an extra, not to
the core install.
"""
