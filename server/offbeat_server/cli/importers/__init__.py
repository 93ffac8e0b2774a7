"""`offbeat import`: definitions from a crontab or from Healthchecks."""
