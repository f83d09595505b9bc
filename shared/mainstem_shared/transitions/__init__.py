"""Every atomic change of a run: one Lua script in `lua/`, and one typed function of the same name."""
