"""Processes coordinate through the store: leases, mailboxes, the outbox."""
