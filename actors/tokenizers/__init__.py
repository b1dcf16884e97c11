"""Text to token ids and back: a tokenizer trained on the corpus, or a pretrained one.

Imports settings and the messages only.
"""
