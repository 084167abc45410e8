# Modelyard's own model server, in the shape of the image tensorflow/serving: same flags, ports, entrypoint, variables.
# Build from the top of the repository: docker build -f deploy/serving.Dockerfile -t modelyard/serving .
# Another base, or this one pinned to its digest (docker buildx imagetools inspect python:3.11-slim-bookworm shows it):
#   --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS packages
WORKDIR /build
COPY deploy/install-lock.sh deploy/
COPY requirements/serving.lock requirements/
# A pip.conf of your own, for an index or certificates: --secret id=pip_config,src=pip.conf
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_config,target=/root/.config/pip/pip.conf \
    deploy/install-lock.sh requirements/serving.lock /opt/modelyard

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS compiled
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY deploy/compile.sh deploy/
COPY services/serving/*.c services/serving/
RUN deploy/compile.sh services/serving

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 modelyard \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin modelyard \
    && install -d -o modelyard -g modelyard /var/lib/modelyard /var/lib/modelyard/models /var/lib/modelyard/runs \
        /var/lib/modelyard/datasets /var/lib/modelyard/tfds /var/lib/modelyard/cache /var/lib/modelyard/logs
COPY --from=packages /opt/modelyard /opt/modelyard
WORKDIR /srv/modelyard
COPY shared/__init__.py shared/
COPY shared/wire/ shared/wire/
COPY services/__init__.py services/
COPY services/serving/ services/serving/
COPY --from=compiled /build/services/serving/*.so services/serving/
COPY --chmod=755 deploy/serving/tensorflow_model_server deploy/serving/tf_serving_entrypoint.sh /usr/bin/
RUN python -m compileall -q . && install -d /models
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    MODEL_BASE_PATH=/models \
    MODEL_NAME=model
USER 10001:10001
EXPOSE 8500 8501
HEALTHCHECK --interval=5s --timeout=10s --start-period=120s --retries=3 \
    CMD ["bash", "-c", ": > /dev/tcp/127.0.0.1/8501"]
ENTRYPOINT ["/usr/bin/tf_serving_entrypoint.sh"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Modelyard model server" \
      org.opencontainers.image.description="Serves SavedModels over TensorFlow Serving's REST and gRPC APIs." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"
