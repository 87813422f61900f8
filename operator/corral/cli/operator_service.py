"""What the operator serves, as one reads it: by the API server's proxy of its Service."""

from dataclasses import dataclass
from urllib.parse import quote

from corral.cli.cluster import ApiError, Cluster
from corral.cli.errors import CliError


@dataclass(frozen=True)
class OperatorService:
    """One port of the Service ``corral-operator``, which takes the right of a Role to read."""

    cluster: Cluster
    namespace: str
    port: str
    """Its name, which is the word for what is served there."""
    role: str

    def read(self, path: str) -> bytes:
        """What is served under the path.

        Raises:
            ApiError: whoever serves refuses: there is no such thing, or not now.
            CliError: nobody serves there, or not for whoever asks.
        """
        service = f"/api/v1/namespaces/{quote(self.namespace)}/services/corral-operator:{self.port}"
        try:
            return self.cluster.read(f"{service}/proxy/{path}")
        except ApiError as error:
            if error.status == 403:
                raise CliError(
                    f"{error.message}; an admin may bind you to the Role {self.role} in namespace "
                    f"{self.namespace}"
                ) from None
            if error.status == 404 and error.details.get("name"):
                raise CliError(
                    f"there is no Service corral-operator in namespace {self.namespace!r} with a "
                    f"port {self.port!r} (another namespace: --operator-namespace)"
                ) from None
            raise
