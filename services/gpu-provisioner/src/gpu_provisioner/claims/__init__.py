"""Claims: the requests for machines, of both kinds, and their life."""
