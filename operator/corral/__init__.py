"""corral: a Kubernetes operator that runs teams of AI agents."""
