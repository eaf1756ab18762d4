"""Metrics: their names, and the numbers behind them. No I/O, so that workers and the leader may both use it; an
exporter reads it.
"""
