"""The server: the one writer, the APIs, connections, settings, what may be observed."""
