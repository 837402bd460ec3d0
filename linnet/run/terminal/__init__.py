"""``linnet run`` and ``embed``: prompts, texts and conversations on a terminal, a command line or a pipe."""
