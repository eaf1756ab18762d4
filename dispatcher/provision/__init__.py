"""What starts and stops workers: the protocol, the fleet file, and local processes."""
