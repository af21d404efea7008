"""Agent pools: their names, shapes, and the decision what to do with one."""
