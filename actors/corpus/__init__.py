"""From documents to batches of windows, resumable at the exact next batch.

Tokenises, shuffles, packs, shares the reading among the ranks of a group, and replays earlier
windows. Imports sources, tokenizers and settings; called by the trainers and by what measures.
"""
