"""The write path: journal, group commits, head and series catalogue."""
