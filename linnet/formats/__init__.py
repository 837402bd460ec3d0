"""Files of models and corpora: readers and writers, one per format, around one pivot (``parts``)."""
