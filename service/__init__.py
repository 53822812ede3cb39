"""The gateway: HTTP in, jobs out. Imports neither torch nor the engine."""
