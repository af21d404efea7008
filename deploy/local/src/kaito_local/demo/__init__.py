"""What the demonstrations of local mode show."""
