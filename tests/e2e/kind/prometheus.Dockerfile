# Debian's Prometheus with the official image's entry point, for machines that cannot pull that one.
FROM debian:bookworm-slim
RUN apt-get update -q \
 && apt-get install -qy --no-install-recommends prometheus \
 && rm -rf /var/lib/apt/lists/*
USER 65534:65534
ENTRYPOINT ["prometheus"]
