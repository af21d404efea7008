"""Pure: everything known about a Workspace to the status that is written for it."""

from workspace_controller.status.compose import Situation, compose, with_error

__all__ = ["Situation", "compose", "with_error"]
