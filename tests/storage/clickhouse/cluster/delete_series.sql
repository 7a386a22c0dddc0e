ALTER TABLE series ON CLUSTER 'main' DELETE WHERE series_id GLOBAL NOT IN (SELECT series_id FROM rollups_1h_all)
