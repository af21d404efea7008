"""The demo's data set: a chat-format JSONL file of about 800 rows, half a new answer, half what the demo model knows already.

The second half is a rehearsal: without it the adapter would learn the answer and forget everything else.
"""
