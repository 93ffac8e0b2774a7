"""One module for each page or group of pages: its handlers, and `PAGES`, the rows of the routing table."""
