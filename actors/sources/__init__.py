"""From files to documents and facts.

Paths, globs and links; text, JSON lines and Parquet in numbered blocks; compressed files; the
held-out split; facts and their wordings. Knows no tokens. Imports settings and storage; called by
the corpus and by what asks for facts.
"""
