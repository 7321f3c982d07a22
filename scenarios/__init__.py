"""The catalogue: applications, game-day scenarios, and the workload program that plays an application's part."""
