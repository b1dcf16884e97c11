"""The settings that trainer processes need: frozen, validated pydantic models. No torch, no Ray.

Holds those of the run, its corpus, layers, groups and evaluations, node labels, the plan of
`tandem learn`, and what fields say about themselves (`fields`). Everything may import it; it
imports nothing of ours.
"""
