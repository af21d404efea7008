"""Fixtures for every test of the repository."""

pytest_plugins = ["kaito_local.pytest_plugin"]
