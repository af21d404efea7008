"""Fine-tunes a model with LoRA or QLoRA: a supervisor that fetches data and reports, and a child process that trains."""
