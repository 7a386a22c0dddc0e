RENAME TABLE IF EXISTS trace_links TO exemplars ON CLUSTER 'main';

DROP TABLE IF EXISTS trace_links_all ON CLUSTER 'main';

CREATE TABLE IF NOT EXISTS exemplars_all ON CLUSTER 'main' AS exemplars ENGINE = Distributed('main', currentDatabase(), 'exemplars')
