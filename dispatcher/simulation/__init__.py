"""Runs the policy of ``core`` in virtual time: what a strategy would have done with a trace, on any fleet."""
