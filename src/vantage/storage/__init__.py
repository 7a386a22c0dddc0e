"""Where telemetry and configuration rest: ports, and one package for each way of keeping them."""
