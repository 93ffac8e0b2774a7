"""How an input changes the state of a monitor, and what is decided."""
