"""The engine's data: pings, definitions, and the state of monitors, runs, tasks and fleets."""
