"""The commands: their options, their help, and what to call."""
