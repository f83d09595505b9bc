"""The store package speaks to Valkey/Redis: connections, scripts, keys, server checks. It knows no run."""
