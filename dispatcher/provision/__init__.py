"""Starts and stops workers: the protocol, the autoscaler, the fleet file, and a cluster of local processes."""
