"""Storage of telemetry and configuration: ports, and one package per implementation."""
