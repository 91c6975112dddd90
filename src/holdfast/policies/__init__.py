"""One policy a file: plain objects that decide and never wait."""
