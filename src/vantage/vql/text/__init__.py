"""From text to the query tree: parse, lower, bind parameters."""
