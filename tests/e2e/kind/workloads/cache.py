"""redis-py, as an application uses it: `cache.py HOST VALUE`."""

import sys

import redis

client = redis.Redis(host=sys.argv[1], port=6379, socket_timeout=5, decode_responses=True)
client.set("key", sys.argv[2])
pipeline = client.pipeline()
for _ in range(20):
    pipeline.incr("counter")
pipeline.execute()
print(client.get("key"), int(client.get("counter")) >= 20)
