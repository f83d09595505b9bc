"""OpenAI's Chat Completions: `translator` makes chunks of a run, `requests` reads what clients post.

The smallest adapter, and an example of how a protocol is added: a translator that says what changed, a reader
of requests, and routes that join them. What OpenAI's two APIs share is in `openai_responses`.
"""
