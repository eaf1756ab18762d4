"""Runs the policy of ``core`` in virtual time: what a strategy would have done with a trace, on a fleet that need not exist."""
