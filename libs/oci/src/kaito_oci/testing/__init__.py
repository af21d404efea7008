"""Test support: a real registry, and a server that misbehaves on request. Never imported by services."""
