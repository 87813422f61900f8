"""The API server: calls, leadership, Events, tokens."""
