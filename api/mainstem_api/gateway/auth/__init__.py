"""Authentication finds out who makes a request: tokens, trusted proxies, keys of identity providers."""
