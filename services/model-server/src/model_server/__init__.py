"""model-server: vLLM in one process with KAITO's routes, adapters loaded while it runs, and words for every failure."""
