"""Text to token ids and back: a tokenizer trained on the corpus, or a pretrained one.

Imports settings, storage and the messages only.
"""
