"""Tests: ``unit`` needs nothing, ``lua`` and ``integration`` a Redis, ``process`` real workers, ``compose`` Docker."""
