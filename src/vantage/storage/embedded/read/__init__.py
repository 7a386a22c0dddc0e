"""The read path: snapshots, sample, rollup and span readers, export."""
