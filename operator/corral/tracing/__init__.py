"""One trace a run: what its spans are, and how they get to whoever keeps traces."""
