"""The `openai` engine: streams chat completions from any OpenAI-compatible endpoint."""
