"""Garbage collection: pools without claims and claims without pools."""
