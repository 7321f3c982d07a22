# The game-day agent: the whole project with all of its dependencies (load, scraping, faults, reports).
# The context is the repository's root. Written for the classic builder, too.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements.lock mesh/deploy/images/locked.py mesh/deploy/images/agent.packages /build/
RUN python -m venv --without-pip /venv \
 && python /build/locked.py /build/requirements.lock /build/agent.packages > /build/agent.lock \
 && pip --python /venv/bin/python install --no-deps --require-hashes --only-binary :all: -r /build/agent.lock \
 && pip --python /venv/bin/python check
COPY pyproject.toml README.md /app/
COPY mesh /app/mesh
COPY sim /app/sim
COPY chaos /app/chaos
COPY scenarios /app/scenarios
COPY loadtests /app/loadtests
COPY reports /app/reports
COPY gameday /app/gameday
# As an installed checkout, without a build backend: the packages lie on the path, and `gameday` is a script.
RUN site=$(/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
 && echo /app > "$site/gameday.pth" \
 && printf '#!/venv/bin/python\nimport sys\nfrom gameday.cli import main\nsys.exit(main())\n' > /venv/bin/gameday \
 && chmod 755 /venv/bin/gameday \
 && /venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${BASE_IMAGE}
# tc, for the fault network-throttle, which runs in this image beside the pod that it hits.
RUN apt-get update \
 && apt-get install -y --no-install-recommends iproute2 \
 && rm -rf /var/lib/apt/lists/* /var/log/*
COPY --from=build /venv /venv
COPY --from=build /app /app
# Home is where programs write what they must; pods mount a volume there, since the root file system is read-only.
ENV PATH=/venv/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 2104:2104
CMD ["gameday", "--help"]
