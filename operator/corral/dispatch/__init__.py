"""The operator's side of the calls to workers."""
