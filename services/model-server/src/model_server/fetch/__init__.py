"""`model-server fetch`: puts a model's weights into a folder, verified, resumable, complete or not at all."""
