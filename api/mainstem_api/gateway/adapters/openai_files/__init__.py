"""OpenAI's Files API: uploads that requests of the other protocols name by their id."""
