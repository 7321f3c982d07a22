"""What a peer's request goes through: detection, TLS, policy, the app's connection pool."""
