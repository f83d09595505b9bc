"""The `anthropic` engine: streams messages from Anthropic, or any endpoint that speaks its protocol."""
