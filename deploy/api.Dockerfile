# The API: FastAPI, no TensorFlow. Also runs the migrations (python -m shared.store upgrade).
# Build from the top of the repository: docker build -f deploy/api.Dockerfile -t modelyard/api .
# Another base, or this one pinned to its digest (docker buildx imagetools inspect python:3.11-slim-bookworm shows it):
#   --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS packages
WORKDIR /build
COPY deploy/install-lock.sh deploy/
COPY requirements/api.lock requirements/
# A pip.conf of your own, for an index or certificates: --secret id=pip_config,src=pip.conf
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_config,target=/root/.config/pip/pip.conf \
    deploy/install-lock.sh requirements/api.lock /opt/modelyard

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 modelyard \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin modelyard \
    && install -d -o modelyard -g modelyard /var/lib/modelyard /var/lib/modelyard/models /var/lib/modelyard/runs \
        /var/lib/modelyard/datasets /var/lib/modelyard/tfds /var/lib/modelyard/cache /var/lib/modelyard/logs
COPY --from=packages /opt/modelyard /opt/modelyard
WORKDIR /srv/modelyard
COPY shared/ shared/
COPY services/__init__.py services/
COPY services/api/ services/api/
RUN python -m compileall -q .
ENV PATH=/opt/modelyard/bin:$PATH \
    PYTHONPATH=/srv/modelyard \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MODELYARD_HOME=/var/lib/modelyard \
    MODELYARD_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=10s --start-period=120s --retries=6 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8000; printf 'GET /healthz HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3; read -r line <&3; [[ $line == *' 200 '* ]]"]
CMD ["python", "-m", "services.api"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Modelyard API" \
      org.opencontainers.image.description="Control plane: jobs, models, datasets, predictions." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"
