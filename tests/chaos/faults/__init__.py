"""The faults of a chaos run, by what they hit. `registry.py` lists them."""
