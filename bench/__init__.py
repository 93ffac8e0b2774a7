"""The bench: what Offbeat does and costs, measured side by side with rivals in one run. See README.md here."""
