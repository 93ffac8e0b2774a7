"""The simulated installation: processes, people and receivers on a virtual clock, and their faults."""
