"""One module a bench: `run(stage)` measures and gives a `Result`. NAMES is their order."""

NAMES = (
    "single",
    "dialects",
    "connect",
    "latency",
    "bulk",
    "burst",
    "mixed",
    "hostile",
    "idle",
    "cost",
    "engine",
    "scale",
    "storm",
    "alerts",
    "million",
    "start",
)
