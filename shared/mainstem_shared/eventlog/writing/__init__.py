"""Writers append to logs: a channel is one run's state machine, a process has one writer."""
