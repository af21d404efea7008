"""KAITO's training_config.yaml: parsed, judged and completed. Pure."""
