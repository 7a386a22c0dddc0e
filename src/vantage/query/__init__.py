"""What people and scripts ask: each question in a file of its own, answered from the stores by checked queries."""
