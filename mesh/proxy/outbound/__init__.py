"""What an app's own request goes through: discovery, route, exchange (retries, timeouts), balancer."""
