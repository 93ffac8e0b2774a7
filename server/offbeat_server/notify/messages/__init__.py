"""From an alert's payload to the message that a channel sends: sentences, templates, without secrets."""
