"""`kaito-local run` and `kaito-local down`: the main job, from nothing to a printed chat answer, and back to nothing."""

from kaito_local.run.command import register

__all__ = ["register"]
