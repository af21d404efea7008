"""Nodes: registration, initialization, drain, health."""
