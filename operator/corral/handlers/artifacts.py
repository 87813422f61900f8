"""Artifacts over HTTP: reading only, one at a time, by their whole name.

People come through the API server, by the proxy of the operator's Service, and so with their own
kubeconfig. There is no listing, and nothing else to ask with: who knows the SHA-256 of an output
has read it in a Workflow's status, or has the output.
"""

from aiohttp import web

from corral.artifacts.errors import ArtifactMissingError, ArtifactStoreError
from corral.artifacts.store import ArtifactStore

ARTIFACTS_PORT = 8082
_HEADERS = {
    "Cache-Control": "private, max-age=31536000, immutable",
    # A model wrote it: no browser shall take it for a page.
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
}


async def serve_artifacts(store: ArtifactStore, port: int = ARTIFACTS_PORT) -> web.AppRunner:
    """Serves ``/artifacts/<namespace>/<runID>/<sha256>``; to be cleaned up.

    200: the value as JSON. 404: there is no such artifact. 503: the store can't be read now.

    Raises:
        OSError: the port is taken.
    """

    async def artifact(request: web.Request) -> web.Response:
        place = request.match_info
        try:
            content = await store.get(place["namespace"], place["run_id"], place["sha256"])
        except (ValueError, ArtifactMissingError):
            # Not which: names are not to be guessed by the answers.
            return web.json_response({"message": "there is no such artifact"}, status=404)
        except ArtifactStoreError as error:
            return web.json_response({"message": str(error)}, status=503)
        return web.Response(body=content, content_type="application/json", headers=_HEADERS)

    app = web.Application()
    app.router.add_get("/artifacts/{namespace}/{run_id}/{sha256}", artifact, allow_head=False)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port).start()
    return runner
