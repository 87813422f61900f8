"""A tool server for demos and tests: the Model Context Protocol, and a journal of every call.

Its tools do nothing outside of its memory.
"""
