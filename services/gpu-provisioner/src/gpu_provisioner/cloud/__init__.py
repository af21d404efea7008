"""The cloud: typed errors, the AKS adapter, client-side rate limits."""
