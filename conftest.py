"""Fixtures for every test of the repository."""

from hypothesis import settings

pytest_plugins = ["kaito_local.pytest_plugin", "kaito_local.registry_fixtures"]

# Generated cases take as long as they take: machines of two busy cores run them too.
settings.register_profile("kaito", deadline=None)
settings.load_profile("kaito")
