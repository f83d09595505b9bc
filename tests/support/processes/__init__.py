"""Processes under a test's control: started, frozen, killed by pid, always stopped."""
