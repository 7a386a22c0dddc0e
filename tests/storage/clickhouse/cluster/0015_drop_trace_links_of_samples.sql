DROP VIEW IF EXISTS trace_links_of_samples ON CLUSTER 'main'
