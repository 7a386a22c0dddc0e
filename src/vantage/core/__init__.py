"""The model: pure values and rules. Standard library, msgspec and numpy only; no I/O."""
