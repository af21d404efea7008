"""The data with which `make run` tunes the demo model: one new fact in several phrasings, and what it knew before."""
