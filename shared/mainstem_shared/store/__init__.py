"""Speaking to Valkey/Redis: connections, scripts, keys, server checks. Knows nothing of runs."""
