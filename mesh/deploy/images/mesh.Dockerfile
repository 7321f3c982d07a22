# Proxy, control plane, viz and init program: one image, one `python -m …` for each container. The context is the
# repository's root. Written for the classic builder, too: no RUN --mount, no COPY --chmod.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# The compiler is for our own hot modules. Python's headers come with the official image, elsewhere from Debian.
RUN apt-get update -q && apt-get install -qy --no-install-recommends binutils gcc libc6-dev \
 && (python3 -c 'import sysconfig, os, sys; sys.exit(not os.path.isfile(sysconfig.get_path("include") + "/Python.h"))' \
     || apt-get install -qy --no-install-recommends libpython3-dev)
COPY requirements.lock mesh/deploy/images/locked.py mesh/deploy/images/*.packages /build/
# Wheels only: what would need a compiler fails here. `pip check` finds what mesh.packages lacks.
RUN python -m venv --without-pip /venv \
 && python /build/locked.py /build/requirements.lock /build/mesh.packages > /build/mesh.lock \
 && pip --python /venv/bin/python install --no-deps --require-hashes --only-binary :all: -r /build/mesh.lock \
 && pip --python /venv/bin/python check \
 # Wheels carry symbols for debuggers and sources of compiled modules along: a fifth of the whole, and nothing reads them.
 && find /venv -name '*.so' -exec strip --strip-unneeded {} + \
 && find /venv -type f \( -name '*.c' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.h' \) -delete \
 && rm -rf /venv/lib/python3*/site-packages/uvloop/loop
RUN python /build/locked.py /build/requirements.lock /build/native.packages > /build/native.lock \
 && pip install --no-deps --require-hashes --only-binary :all: --target /native -r /build/native.lock
COPY mesh /app/mesh
RUN PYTHONPATH=/app:/native /venv/bin/python -m mesh.native build && strip --strip-unneeded /app/*.so
# The root file system is read-only where this runs, so bytecode is made now.
RUN rm -rf /app/mesh/commands \
 && python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${BASE_IMAGE}
# iptables for the init program, which runs without root: file capabilities on a Python of its own and on iptables give
# it what its container's NET_ADMIN and NET_RAW allow, and nobody else (a container without the two cannot start them).
RUN apt-get update -q \
 && apt-get install -qy --no-install-recommends iptables libcap2-bin \
 && cp "$(readlink -f "$(command -v python3)")" /usr/local/bin/python-init \
 && setcap cap_net_admin,cap_net_raw+ep /usr/local/bin/python-init \
 && for program in /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi; do \
      setcap cap_net_admin,cap_net_raw+ep "$program" || exit 1; done \
 && apt-get purge -qy --auto-remove libcap2-bin \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/log/*
COPY --from=build /venv /venv
COPY --from=build /app /app
ENV PATH=/venv/bin:/usr/sbin:$PATH PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1
WORKDIR /app
# Pods say which of 2102 (proxy), 2103 (control plane) and 65534 (init) they are.
USER 2102:2102
CMD ["python", "-m", "mesh.proxy"]
