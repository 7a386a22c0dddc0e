-- A sample with a trace id is an exemplar.
RENAME TABLE IF EXISTS trace_links TO exemplars
