"""What users, operators and sweepers do to runs: each module is one operation, made of transitions."""
