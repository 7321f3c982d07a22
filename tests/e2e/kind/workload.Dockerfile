# Unmodified clients and servers for tests: curl, redis and redis-py, grpcio.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}
RUN apt-get update -q && apt-get install -qy --no-install-recommends curl redis-server && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir --only-binary :all: redis==8.0.1 grpcio==1.85.3
COPY workloads /workloads
USER 1000:1000
