"""What a run is told: frozen, validated pydantic models, free of torch and Ray.

Holds the settings that trainer processes need: the run, its corpus, its layers, node labels, and
what `tandem learn` is asked for. Everything may import it; it imports nothing of ours.
"""
