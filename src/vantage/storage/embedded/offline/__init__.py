"""Work on a data folder without the server: backup, restore, verification."""
