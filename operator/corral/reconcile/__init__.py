"""Passes over objects: gather what is seen, plan, commit, act."""
