# The worker: takes jobs and trains, in processes of their own.
# Build from the top of the repository: docker build -f deploy/worker.Dockerfile -t modelyard/worker .
# Another base, or this one pinned to its digest (docker buildx imagetools inspect python:3.11-slim-bookworm shows it):
#   --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# LOCK=worker: TensorFlow for processors; LOCK=worker-gpu: with CUDA, cuDNN and NCCL (an NVIDIA driver is the host's).
# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS packages
ARG LOCK=worker
WORKDIR /build
COPY deploy/install-lock.sh deploy/
COPY requirements/${LOCK}.lock requirements/
# A pip.conf of your own, for an index or certificates: --secret id=pip_config,src=pip.conf
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_config,target=/root/.config/pip/pip.conf \
    deploy/install-lock.sh requirements/${LOCK}.lock /opt/modelyard

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
COPY services/worker/ services/worker/
RUN python -m compileall -q .
# NVIDIA's container runtime reads the last two; without it they say nothing to anybody.
ENV PATH=/opt/modelyard/bin:$PATH \
    PYTHONPATH=/srv/modelyard \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    MODELYARD_HOME=/var/lib/modelyard \
    MODELYARD_ALIVE_FILE=/tmp/modelyard-worker-alive \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
STOPSIGNAL SIGTERM
# The worker touches the file after each heartbeat that the database has taken: one every five seconds.
HEALTHCHECK --interval=5s --timeout=10s --start-period=120s --retries=3 \
    CMD ["sh", "-c", "test -n \"$(find \"$MODELYARD_ALIVE_FILE\" -newermt '-20 seconds')\""]
CMD ["python", "-m", "services.worker"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Modelyard worker" \
      org.opencontainers.image.description="Trains, tunes and exports Keras models." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"
