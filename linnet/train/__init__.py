"""Training: a corpus becomes a checkpoint. Needs the ``train`` extra."""
