"""What processes tell each other through the store: leases, mailboxes, the outbox."""
