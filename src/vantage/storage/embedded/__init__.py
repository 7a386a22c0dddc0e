"""The embedded store: a columnar engine on SQLite files. ``docs/storage.md`` explains the files."""
