"""Deterministic simulation: the production code of a whole cell in one thread, in virtual time, from one seed."""
