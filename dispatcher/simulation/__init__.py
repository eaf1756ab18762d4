"""The policy of ``core`` in virtual time: what a strategy would have done to a trace, on a fleet that need not exist."""
