"""Adapters that come and go while the server runs: wanted (the Workspace), planned (pure), staged, loaded, served.

Read `plan` first, then `manager`. What a version is, and why each has a name and a folder of its own: `version`.
"""
