"""Names that vulture finds unused in src/ and that somebody outside it uses, grouped by who does."""

# uvicorn calls and reads them: the server subclasses its protocol and its Server.
_.capture_signals
_.force_exit
_.should_exit
_.send_400_response
_._unsupported_upgrade_warning  # noqa: SLF001
_.timeout_graceful_shutdown

# sqlglot reads the tables of the dialect.
_.FUNCTION_PARSERS
_.NO_PAREN_FUNCTIONS

# Litestar calls them on a response.
_.to_asgi_response
_.send_body

# Litestar calls it on a middleware.
_.create_compression_send_wrapper

# jinja2 reads what the environment is given.
_.globals

# Templates read them.
_.explore_of
_.next_url
_.previous_url
_.space_left_out
_.traces_of
_.is_narrow
_.missing_id
_.p95_change
_.presets
_.services_failing

# Fields of answers: clients of the API read them.
_.call_rate
_.duration_max
_.duration_mean
_.first_seen
_.last_seen
_.before_end
_.before_start
_.latency_ms
_.next_cursor
_.raw_since
_.degrees_of_freedom
_.effect_size
_.improvement_pct
_.interval_pct
_.p50
_.p75
_.p90
_.p99
_.statistical_significance

# Registered where it is made: the metrics endpoint reads it.

# A value of the wire format: spans arrive with it.

# http.client and io call and read them.
_.default_port
_.makefile
_.readable
_.readinto

# Applications call them on a span.
_.set_attribute
_.set_error

# The driver of ClickHouse reads it.
_.send_receive_timeout

# The templates of health and of changes read them.
_.vql_url
_.weights_used

# The template of anomalies reads them.
_.behind_ms
_.until_ms

# The API answers with them.
_.crossing
_.hours_of_data

# The template of the pipeline reads them.
_.is_failing
_.is_silent

# The template of a comparison reads it.
_.zero

# The template of the settings reads them.
_.removed_nbytes
_.settled_nbytes

# The templates of traces read them.
_.attribute_fields
_.has_children
_.hidden_errors
_.is_match
_.more_traits
_.offset_ns
_.traces_left_out

# The templates of alerts and of their rules read them.
_.can_acknowledge
_.can_resolve
_.changes_url
_.service_url
_.suggest

# The template of the noise page reads it.
_.is_noisy

# A person writes it in a rule.
_.INFO

# Stored with a transition, for people who read the database.
_.data_ms

# The API of alerting answers with them.
_.useful
_.ignored
_.burn_rates
_.evaluated
_.holding
_.long_window
_.short_window
