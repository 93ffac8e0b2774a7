"""What the server reports about itself: metrics, log, event-loop lag, the watchdog's ping."""
