"""What the proxies report, gathered: the API behind stat, top, tap, edges and routes, and the dashboard."""
