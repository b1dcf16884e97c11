"""Both layers as one model, after a run: generate, converse, tell.

Imports training and what lies below it; called by the jobs on finished runs.
"""
