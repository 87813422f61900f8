"""The worker: an A2A server for one Agent, and the runtime that answers one attempt.

`corral.worker.runtime` knows nothing of HTTP and also serves ``corral run --local``. Heavy imports
(the A2A SDK, pydantic-ai, providers' clients) happen where they are needed, so that a worker is
ready before it has loaded what only a model call needs.
"""
