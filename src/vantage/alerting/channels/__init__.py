"""Notifiers, a file a kind. ``kinds`` lists them."""
