"""The server's reports about itself: metrics, log, event-loop lag, the watchdog's ping."""
