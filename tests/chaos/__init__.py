"""Real faults on real processes, under load, with a journal of every request that is checked afterwards."""
