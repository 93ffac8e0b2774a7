"""The installation that a chaos run injects faults into: databases, nodes, jobs and clocks."""
