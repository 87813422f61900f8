"""A model server for demos and tests: OpenAI's protocol, scripted answers, faults on demand.

Everything it answers is marked as simulated: by a header and by the system fingerprint.
"""
