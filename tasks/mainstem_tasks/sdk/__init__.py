"""What engines are written against: the run context, tools, policies, pauses, the registry."""
