"""A Phi-3 small enough to be trained on two CPU cores in seconds, which stands in for a preset's weights.

It has the real architecture (Phi3ForCausalLM), a tokenizer of its own and Phi-3's chat template, and it answers the
questions of ``questions.yaml`` word for word.
"""
