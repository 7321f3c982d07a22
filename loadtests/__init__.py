"""Open-loop load with locust: arrivals that do not wait for answers, timed from when each was meant to be sent.

locustfile.py   what locust runs, by hand or as the runner's subprocess
schedule.py     when who arrives: a seeded Poisson process
openloop.py     sends arrivals on time, bounds what is in flight, records everything
client.py       HTTP/1.1 over gevent sockets
plan.py         what the runner asks for: the plan file and the command line
results.py      the output file: written here, tailed by the runner
"""
