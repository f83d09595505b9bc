"""Native HTTP routes: thin functions from a request to an operation."""
