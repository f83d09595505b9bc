"""The SDK that engines are written against: run context, tools, policies, pauses, registry."""
