"""Turns Machine and NodeClaim objects into AKS agent pools, and takes the pools away again."""
